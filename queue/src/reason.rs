//! Why a recipient moved or stands still: closed lists, printed in logs and answers.

/// Every insertion into a queue carries one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum MoveReason {
    /// Accepted just now.
    Received = 1,
    /// Found on disk at start.
    Recovered,
    /// Its time came.
    Due,
    /// The retry schedule after a deferral.
    Retry,
    /// The cautious schedule after an Unknown outcome.
    UnknownRetry,
    /// Its ready queue was full, or its path had no slot.
    NoRoom,
    /// DNS could not tell the route for now.
    RouteDeferred,
    /// No usable egress source in the pool.
    NoSource,
    /// An operator or a rule holds it.
    Held,
    /// The hold ended.
    Released,
    /// The client asked for a later time (RFC 4865, or the schedule header).
    FutureRelease,
    /// The process stops: what was ready goes back.
    Shutdown,
    /// The site's limits make it wait.
    Throttled,
    /// An operator moved it.
    Rebound,
    /// A report about another message.
    Dsn,
}

/// Why a recipient is held and not attempted until someone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HoldReason {
    /// An operator said so.
    Operator = 1,
    /// The bytes on disk do not match their checksum.
    SpoolDamage,
    /// The ack log is lost or damaged: this recipient may be decided already.
    AckLogDamage,
    /// The clock is not to be trusted.
    Clock,
}
