//! The real binary, end to end: one scenario per file, each over both drivers where sockets matter.

/// Makes two tests of a scenario: one over io_uring, one over epoll.
macro_rules! on_both {
    ($($scenario:ident),* $(,)?) => {
        $(
            mod $scenario {
                #[test]
                fn io_uring() {
                    match mta::net::probe() {
                        Ok(()) => super::$scenario("io_uring"),
                        Err(why) => eprintln!("left out: {why}"),
                    }
                }

                #[test]
                fn epoll() {
                    super::$scenario("epoll");
                }
            }
        )*
    };
}

mod e2e {
    mod auth;
    mod dkim;
    mod events;
    mod forbidden;
    mod front;
    mod hold;
    mod mx;
    mod open_relay;
    mod peers;
    mod priority;
    mod refusals;
    mod relay;
    mod report;
    mod retry;
    mod room;
    mod sharing;
    mod sources;
    mod steps;
    mod tls;
    mod trace;
    mod unknown;
}
