//! The page of the sink over plain HTTP/1.0: `/` list, `/message/N`, `/stats.json`.
//!
//! GET only, one request per connection, nothing the visitor sends is echoed unescaped. For a bench on loopback.

use super::page;
use super::world::World;
use crate::limits::HTTP_REQUEST_MAX;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves for ever.
pub async fn serve(listener: TcpListener, world: Rc<World>) {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                let world = world.clone();
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(Duration::from_secs(10), answer(socket, &world)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer(mut socket: TcpStream, world: &World) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while memchr::memmem::find(&request, b"\r\n\r\n").is_none() {
        if request.len() > HTTP_REQUEST_MAX || socket.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(request.split(|&b| b == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
    let (status, kind, body) = match (method, target) {
        ("GET", "/stats.json") => ("200 OK", "application/json", json(world)),
        ("GET", "/") => ("200 OK", "text/html; charset=utf-8", page::list(world)),
        ("GET", target) => match target.strip_prefix("/message/").and_then(|n| n.parse().ok()) {
            Some(number) => match message(world, number).await {
                Some(page) => ("200 OK", "text/html; charset=utf-8", page),
                None => ("404 Not Found", "text/html; charset=utf-8", page::gone()),
            },
            None => ("404 Not Found", "text/html; charset=utf-8", page::gone()),
        },
        _ => ("405 Method Not Allowed", "text/plain", "GET only\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\nConnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    socket.shutdown().await
}

fn json(world: &World) -> String {
    let mut stats = world.stats.borrow().clone();
    stats.finish();
    serde_json::to_string_pretty(&stats).unwrap_or_else(|_| "{}".to_owned())
}

async fn message(world: &World, number: u64) -> Option<String> {
    let arrived = world.recent.borrow().find(number).cloned()?;
    Some(page::message(&arrived))
}
