//! What one path may do: connections, messages, rates. Lab routes are not limited but in connections.

use std::time::Instant;

use queue::Outcome;

use super::core::Now;
use super::router::Plan;

/// Connections on a lab route.
const LAB_CONNECTIONS: u32 = 64;

/// The limits of one path.
pub struct PathLimiter {
    connections: u32,
}

impl PathLimiter {
    /// The limits that a plan asks for.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let asked = plan.fixed.as_ref().map_or(0, |r| r.connections);
        Self { connections: if asked > 0 { asked } else { LAB_CONNECTIONS } }
    }

    /// True when another connection may be opened beside `open`.
    pub fn may_connect(&mut self, open: u32, _now: Now) -> bool {
        open < self.connections
    }

    /// True when a message may leave.
    pub fn may_send(&mut self, _now: Now) -> bool {
        true
    }

    /// Learns from an outcome.
    pub fn observe(&mut self, _outcome: &Outcome, _now: Now) {}

    /// Learns that no host could be reached.
    pub fn connect_failed(&mut self, _now: Now) {}

    /// Messages one connection may carry.
    #[must_use]
    pub fn messages_per_connection(&self) -> u32 {
        u32::MAX
    }

    /// When what is held may go.
    #[must_use]
    pub fn held_until(&self) -> Option<Instant> {
        None
    }
}
