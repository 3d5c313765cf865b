//! A session and the transport under it: does what the session says until there is something to decide.

use std::io;

use crate::smtp::client::{Action, Config, End, Finished, Loss, Session, Wait};
use crate::tls::Transport;

use super::Timeouts;

/// Replies are short; a group of them fits.
const INPUT: usize = 4096;

/// A session on its connection.
pub(super) struct Link {
    pub(super) session: Session,
    /// `None` only while a handshake has it.
    transport: Option<Transport>,
    input: Vec<u8>,
    output: Vec<u8>,
    timeouts: Timeouts,
}

/// What a session wants decided.
pub(super) enum Event {
    Ready,
    StartTls,
    Intent(Vec<usize>),
    Finished(Box<Finished>),
    Close(End),
}

impl Link {
    pub(super) fn new(transport: Transport, config: Config, timeouts: Timeouts) -> Self {
        Self {
            session: Session::new(config),
            transport: Some(transport),
            input: Vec::new(),
            output: Vec::new(),
            timeouts,
        }
    }

    /// Reads and writes until there is something to decide.
    pub(super) async fn step(&mut self) -> Event {
        loop {
            match self.session.next(&mut self.output) {
                Action::Read(wait) => {
                    if self.flush().await {
                        self.read(self.time(wait)).await;
                    }
                }
                Action::Flush => {
                    self.flush().await;
                }
                Action::Write(piece) => {
                    let block = self.timeouts.block;
                    let output = std::mem::take(&mut self.output);
                    let Some(transport) = self.armed(block) else { continue };
                    let (result, output) = transport.write_parts(output, piece).await;
                    self.written(result, output).await;
                }
                Action::StartTls => return Event::StartTls,
                Action::Intent(positions) => return Event::Intent(positions),
                Action::Finished(finished) => return Event::Finished(finished),
                Action::Ready => return Event::Ready,
                Action::Close(end) => return Event::Close(end),
            }
        }
    }

    /// Waits until the site says something or closes, while we have nothing to say. May be dropped.
    pub(super) async fn site_speaks(&mut self) {
        match &mut self.transport {
            Some(transport) => {
                transport.stream().set_deadline(None);
                // An error is seen again by the read that follows.
                let _ = transport.readable().await;
            }
            None => std::future::pending().await,
        }
    }

    /// Takes what the site said while we waited.
    pub(super) async fn listen(&mut self) {
        self.read(self.timeouts.hello).await;
    }

    /// Gives all buffers back for a long wait.
    pub(super) fn shrink(&mut self) {
        self.input = Vec::new();
        self.output = Vec::new();
        self.session.shrink();
        if let Some(transport) = &mut self.transport {
            transport.shrink();
        }
    }

    pub(super) fn transport(&self) -> Option<&Transport> {
        self.transport.as_ref()
    }

    /// Hands the transport out for a handshake, with a deadline running.
    pub(super) fn take_transport(&mut self) -> Option<Transport> {
        self.armed(self.timeouts.hello);
        self.transport.take()
    }

    /// The handshake is done.
    pub(super) fn encrypted(&mut self, transport: Transport) {
        self.transport = Some(transport);
        self.session.encrypted();
    }

    /// Says goodbye to TCP and TLS.
    pub(super) async fn close(mut self) {
        let quit = self.timeouts.quit;
        if let Some(transport) = self.armed(quit) {
            if !transport.stream().timed_out() {
                transport.close().await;
            }
        }
    }

    fn time(&self, wait: Wait) -> u32 {
        let times = &self.timeouts;
        match wait {
            Wait::Greeting => times.greeting,
            Wait::Hello | Wait::StartTls | Wait::Auth | Wait::Reset => times.hello,
            Wait::Mail => times.mail,
            Wait::Rcpt => times.rcpt,
            Wait::Data => times.data,
            Wait::Content => times.content,
            Wait::Quit => times.quit,
        }
    }

    /// The transport, with a deadline set.
    fn armed(&mut self, seconds: u32) -> Option<&mut Transport> {
        let transport = self.transport.as_mut();
        match &transport {
            Some(transport) => transport.stream().set_deadline(Some(seconds)),
            None => self.session.closed(Loss::Closed),
        }
        transport
    }

    /// Writes what is waiting; false when that failed, and the session knows.
    async fn flush(&mut self) -> bool {
        if self.output.is_empty() {
            return true;
        }
        let output = std::mem::take(&mut self.output);
        let block = self.timeouts.block;
        let Some(transport) = self.armed(block) else { return false };
        let (result, output) = transport.write_all(output).await;
        self.written(result, output).await
    }

    async fn written(&mut self, result: io::Result<()>, mut output: Vec<u8>) -> bool {
        output.clear();
        self.output = output;
        let Err(error) = result else { return true };
        // A site that refuses and closes without reading on has often said why; that is worth more than "broken pipe".
        self.last_words().await;
        self.session.closed(Loss::Write(error.to_string()));
        false
    }

    async fn last_words(&mut self) {
        if self.transport.as_ref().is_some_and(|transport| transport.stream().timed_out()) {
            return;
        }
        let quit = self.timeouts.quit;
        let Some(transport) = self.armed(quit) else { return };
        let (result, bytes) = transport.read(Vec::with_capacity(INPUT)).await;
        if matches!(result, Ok(size) if size > 0) {
            self.session.feed(&bytes);
        }
    }

    async fn read(&mut self, seconds: u32) {
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        if input.capacity() == 0 {
            input.reserve_exact(INPUT);
        }
        let Some(transport) = self.armed(seconds) else { return };
        let (result, input) = transport.read(input).await;
        let timed_out = transport.stream().timed_out();
        match result {
            Ok(0) => self.session.closed(Loss::Closed),
            Ok(_) => self.session.feed(&input),
            Err(_) if timed_out => self.session.closed(Loss::TimedOut),
            Err(error) => self.session.closed(Loss::Read(error.to_string())),
        }
        self.input = input;
    }
}
