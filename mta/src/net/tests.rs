//! The same functions on both drivers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use queue::Body;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F + Send + Copy + 'static) {
    for driver in [Driver::IoUring, Driver::Epoll] {
        if driver == Driver::IoUring && probe().is_err() {
            continue;
        }
        // Single-issuer rings belong to their thread, so each run gets its own, as shards do.
        let name = format!("{driver:?}");
        let thread = std::thread::Builder::new().name(name.clone());
        // The future is built on the thread it runs on.
        let handle = thread.spawn(move || run(driver, None, test()).expect("a driver")).expect("a thread");
        assert!(handle.join().is_ok(), "on {name}");
    }
}

fn listener() -> (Listener, SocketAddr) {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, ListenOptions::default()).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

pub(crate) async fn pair() -> (Stream, Stream) {
    let (listener, address) = listener();
    let client = spawn_local(Stream::connect(None, address, SECOND));
    let server = listener.accept().await.expect("a connection");
    (client.await.expect("no panic").expect("connected"), server)
}

async fn read_some(stream: &Stream) -> Vec<u8> {
    let (result, buf) = stream.read(Vec::with_capacity(512)).await;
    assert_eq!(result.expect("read"), buf.len());
    buf
}

#[test]
fn bytes_go_both_ways_and_reads_append() {
    on_both(|| async {
        let (client, server) = pair().await;
        client.write_all(b"one".to_vec()).await.0.expect("write");
        let (result, buf) = server.read(b"zero ".to_vec()).await;
        assert_eq!((result.expect("read"), buf.as_slice()), (3, &b"zero one"[..]));
        server.write_body(Body::from(b"two".to_vec())).await.expect("write");
        assert_eq!(read_some(&client).await, b"two");
        assert_eq!(client.peer_addr(), server.local_addr().expect("local"));
        assert_eq!(server.peer_addr(), client.local_addr().expect("local"));
        drop(client);
        assert_eq!(read_some(&server).await, b"");
    });
}

#[test]
fn large_bodies_arrive_whole_after_their_head() {
    on_both(|| async {
        let (client, server) = pair().await;
        let body: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let mut expected = b"head".to_vec();
        expected.extend_from_slice(&body);
        let task = spawn_local(async move {
            let (result, head) = client.write_parts(b"head".to_vec(), Body::from(body)).await;
            result.expect("write");
            assert_eq!(head, b"head");
        });
        let mut got = Vec::with_capacity(64 * 1024);
        loop {
            let (result, buf) = server.read(got).await;
            got = buf;
            if result.expect("read") == 0 {
                break;
            }
        }
        task.await.expect("no panic");
        assert!(got == expected, "{} bytes of {}", got.len(), expected.len());
    });
}

#[test]
fn connects_from_the_given_source() {
    on_both(|| async {
        let (listener, address) = listener();
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
        let client = spawn_local(Stream::connect(Some(source), address, SECOND));
        let server = listener.accept().await.expect("a connection");
        assert_eq!(server.peer_addr().ip(), source);
        client.await.expect("no panic").expect("connected");
        let foreign = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        let error = Stream::connect(Some(foreign), address, SECOND).await.err().expect("refused");
        assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable);
        assert!(error.to_string().contains("192.0.2.1"));
    });
}

#[test]
fn a_refused_connection_says_so() {
    on_both(|| async {
        let (listener, address) = listener();
        drop(listener);
        sleep(Duration::from_millis(20)).await;
        let error = Stream::connect(None, address, SECOND).await.err().expect("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_silent_host_is_given_up_in_time() {
    on_both(|| async {
        // A full backlog drops connection requests, as a silent host does.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bind");
        socket.listen(0).expect("listen");
        let address = socket.local_addr().expect("local").as_socket().expect("inet");
        let mut taken = Vec::new();
        let begin = Instant::now();
        for _ in 0..8 {
            match Stream::connect(None, address, Duration::from_millis(150)).await {
                Ok(stream) => taken.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                    assert!(begin.elapsed() < Duration::from_secs(5));
                    return;
                }
            }
        }
        panic!("the backlog never filled");
    });
}

#[test]
fn a_dropped_accept_loses_no_connection() {
    on_both(|| async {
        let (listener, address) = listener();
        for _ in 0..3 {
            let waited = tokio::time::timeout(Duration::from_millis(10), listener.accept()).await;
            assert!(waited.is_err());
        }
        let client = spawn_local(Stream::connect(None, address, SECOND));
        let server = tokio::time::timeout(SECOND, listener.accept()).await.expect("in time").expect("accepted");
        let client = client.await.expect("no panic").expect("connected");
        client.write_all(b"x".to_vec()).await.0.expect("write");
        assert_eq!(read_some(&server).await, b"x");
    });
}

#[test]
fn the_deadline_ends_a_waiting_read() {
    on_both(|| async {
        let (_client, server) = pair().await;
        server.set_deadline(Some(1));
        let begin = Instant::now();
        let (result, _) = server.read(Vec::with_capacity(16)).await;
        assert_eq!(result.expect_err("ended").kind(), io::ErrorKind::TimedOut);
        assert!(server.timed_out());
        assert!(begin.elapsed() >= SECOND && begin.elapsed() < 4 * SECOND);
    });
}

#[test]
fn the_deadline_ends_a_write_nobody_reads() {
    on_both(|| async {
        let (client, _server) = pair().await;
        client.set_deadline(Some(1));
        let result = client.write_body(Body::from(vec![0; 32 << 20])).await;
        assert_eq!(result.expect_err("ended").kind(), io::ErrorKind::TimedOut);
    });
}

#[test]
fn a_cleared_deadline_does_not_fire() {
    on_both(|| async {
        let (client, server) = pair().await;
        server.set_deadline(Some(0));
        server.set_deadline(None);
        sleep(Duration::from_millis(2200)).await;
        client.write_all(b"x".to_vec()).await.0.expect("write");
        assert_eq!(read_some(&server).await, b"x");
    });
}

#[test]
fn an_abandoned_read_lets_go_of_the_socket() {
    on_both(|| async {
        let (client, server) = pair().await;
        let waited = tokio::time::timeout(Duration::from_millis(10), server.read(Vec::with_capacity(16))).await;
        assert!(waited.is_err());
        drop(server);
        let ended = tokio::time::timeout(SECOND, client.read(Vec::with_capacity(16))).await.expect("in time");
        assert_eq!(ended.0.expect("end"), 0);
    });
}

#[test]
fn an_idle_wait_takes_no_buffer_and_sees_bytes_and_the_end() {
    on_both(|| async {
        let (client, server) = pair().await;
        for _ in 0..3 {
            let waited = tokio::time::timeout(Duration::from_millis(10), server.readable()).await;
            assert!(waited.is_err(), "nothing was sent");
            client.write_all(b"x".to_vec()).await.0.expect("write");
            // Read past the poll that is under way: its late completion must not look like new bytes.
            assert_eq!(read_some(&server).await, b"x");
        }
        client.write_all(b"y".to_vec()).await.0.expect("write");
        server.readable().await.expect("bytes");
        assert_eq!(read_some(&server).await, b"y");
        drop(client);
        server.readable().await.expect("the end");
        assert_eq!(read_some(&server).await, b"");
    });
}

#[test]
fn dropping_a_stream_during_an_idle_wait_closes_it() {
    on_both(|| async {
        let (client, server) = pair().await;
        let waited = tokio::time::timeout(Duration::from_millis(10), server.readable()).await;
        assert!(waited.is_err());
        drop(server);
        assert_eq!(read_some(&client).await, b"");
    });
}

#[test]
fn letters_cross_threads_and_the_bound_holds() {
    on_both(|| async {
        let (sender, mut receiver) = mailbox::<u32>(4);
        let other = std::thread::spawn(move || {
            for n in 0..1000 {
                let mut letter = n;
                while let Err(back) = sender.send(letter) {
                    letter = back;
                    std::thread::yield_now();
                }
            }
        });
        let mut got = Vec::new();
        while got.len() < 1000 {
            receiver.recv_many(&mut got).await;
        }
        assert!(got.iter().copied().eq(0..1000));
        other.join().expect("no panic");
        let (sender, mut receiver) = mailbox::<u32>(2);
        assert_eq!((sender.send(1), sender.send(2), sender.send(3)), (Ok(()), Ok(()), Err(3)));
        let mut got = Vec::new();
        assert!(receiver.take(&mut got));
        assert_eq!(got, [1, 2]);
    });
}

#[test]
fn a_signal_wakes_a_sleeping_shard() {
    on_both(|| async {
        let (signal, mut waiter) = Signal::new();
        for _ in 0..10 {
            let other = signal.clone();
            let thread = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(2));
                other.notify();
                other.notify();
            });
            tokio::time::timeout(SECOND, waiter.wait()).await.expect("woken");
            thread.join().expect("no panic");
            // Both raises may have been one, or the second may still stand.
            let _ = tokio::time::timeout(Duration::from_millis(1), waiter.wait()).await;
        }
    });
}

#[test]
fn a_run_ends_with_operations_under_way() {
    on_both(|| async {
        let (listener, _) = listener();
        let (client, server) = pair().await;
        spawn_local(async move { listener.accept().await.map(|_| ()) });
        spawn_local(async move { server.read(Vec::with_capacity(16)).await.0 });
        spawn_local(async move { client.readable().await });
        sleep(Duration::from_millis(10)).await;
    });
}

#[test]
fn a_core_that_does_not_exist_is_named() {
    let error = run(Driver::Epoll, Some(999), async {}).expect_err("no such core");
    assert!(error.to_string().contains("999"));
}

#[test]
fn a_refused_ring_names_cause_and_remedy() {
    for (errno, word) in [(libc::EPERM, "allow"), (libc::ENOSYS, "Linux 6.1"), (libc::ENOMEM, "LimitMEMLOCK")] {
        let text = refusal(&io::Error::from_raw_os_error(errno));
        assert!(text.contains(word) || text.contains("set it to 0"), "{text}");
    }
}
