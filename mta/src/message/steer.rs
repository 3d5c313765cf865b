//! Fields that steer: by these a client chooses pool, tenant, campaign, stream, time and keys of one message.
//!
//! One table maps names to meanings: our own names always, presets of other systems when switched on. Every field
//! read here is taken out of the message. A value outside the credential's scope refuses the message and names the
//! field; it is never silently ignored.

use queue::UnixSecs;

use super::date;
use super::header::{Field, Header, Name};
use super::hygiene::Refusal;

/// Longest value of a steering field.
pub const VALUE_MAX: usize = 255;

/// What a field may steer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Egress pool by name.
    Pool,
    /// Who sends.
    Tenant,
    /// Which mailing.
    Campaign,
    /// Named stream.
    Stream,
    /// Not attempted before this time.
    Schedule,
    /// Envelope id for reports.
    Envid,
    /// The client's own key for this message.
    IdempotencyKey,
    /// Known from another system, without a meaning here: taken out, nothing else.
    Ignored,
}

/// Whose names are understood beside our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presets {
    /// `x-virtual-mta`, `x-job`, `x-envid`, `x-schedule` and the rest of PowerMTA.
    pub powermta: bool,
    /// `X-Tenant`, `X-Campaign`, `X-Schedule` and the rest of KumoMTA's usual listener policy.
    pub kumomta: bool,
}

/// Which values a credential may use.
#[derive(Clone, Copy, Debug, Default)]
pub enum Allowed<'a> {
    /// Any.
    Any,
    /// None at all.
    #[default]
    Nothing,
    /// Exactly these.
    Only(&'a [String]),
}

impl Allowed<'_> {
    /// True when `value` may be used.
    #[must_use]
    pub fn permits(&self, value: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Nothing => false,
            Self::Only(values) => values.iter().any(|v| v.eq_ignore_ascii_case(value)),
        }
    }
}

/// What a credential may steer, as the relay decision sees it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope<'a> {
    /// Pools it may name.
    pub pools: Allowed<'a>,
    /// Tenants it may name.
    pub tenants: Allowed<'a>,
    /// Campaigns it may name.
    pub campaigns: Allowed<'a>,
    /// Streams it may name.
    pub streams: Allowed<'a>,
    /// It may delay a message.
    pub schedule: bool,
    /// Domains it may write From (RFC 6409 section 6.1).
    pub from_domains: Allowed<'a>,
}

impl Scope<'_> {
    /// The operator's own: everything.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            pools: Allowed::Any,
            tenants: Allowed::Any,
            campaigns: Allowed::Any,
            streams: Allowed::Any,
            schedule: true,
            from_domains: Allowed::Any,
        }
    }
}

/// What the fields of one message asked for. `None`: not named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steering {
    /// Egress pool by name.
    pub pool: Option<String>,
    /// Who sends.
    pub tenant: Option<String>,
    /// Which mailing.
    pub campaign: Option<String>,
    /// Named stream.
    pub stream: Option<String>,
    /// Not attempted before.
    pub schedule: Option<UnixSecs>,
    /// Envelope id, plain (not xtext).
    pub envid: Option<String>,
    /// The client's own key for this message.
    pub idempotency_key: Option<String>,
}

/// Whose name a row of the table is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Ringpost,
    PowerMta,
    KumoMta,
}

const NAMES: [(&str, Of, Target); 26] = [
    ("x-ringpost-pool", Of::Ringpost, Target::Pool),
    ("x-ringpost-tenant", Of::Ringpost, Target::Tenant),
    ("x-ringpost-campaign", Of::Ringpost, Target::Campaign),
    ("x-ringpost-stream", Of::Ringpost, Target::Stream),
    ("x-ringpost-schedule", Of::Ringpost, Target::Schedule),
    ("x-ringpost-envid", Of::Ringpost, Target::Envid),
    ("x-ringpost-idempotency-key", Of::Ringpost, Target::IdempotencyKey),
    ("x-idempotency-key", Of::Ringpost, Target::IdempotencyKey),
    ("x-virtual-mta", Of::PowerMta, Target::Pool),
    ("x-virtual-mta-pool", Of::PowerMta, Target::Pool),
    ("x-job", Of::PowerMta, Target::Campaign),
    ("x-envid", Of::PowerMta, Target::Envid),
    ("x-schedule", Of::PowerMta, Target::Schedule),
    ("x-dkim-options", Of::PowerMta, Target::Ignored),
    ("x-dkim-key", Of::PowerMta, Target::Ignored),
    ("x-process-options", Of::PowerMta, Target::Ignored),
    ("x-mailer-recptid", Of::PowerMta, Target::Ignored),
    ("x-tenant", Of::KumoMta, Target::Tenant),
    ("x-tenant-id", Of::KumoMta, Target::Tenant),
    ("x-campaign", Of::KumoMta, Target::Campaign),
    ("x-campaign-id", Of::KumoMta, Target::Campaign),
    ("x-schedule", Of::KumoMta, Target::Schedule),
    ("x-egress-pool", Of::KumoMta, Target::Pool),
    ("x-pool", Of::KumoMta, Target::Pool),
    ("x-virtual-mta", Of::KumoMta, Target::Pool),
    ("x-kumo-ref", Of::KumoMta, Target::Ignored),
];

/// What a field name steers; `None` for any other field.
#[must_use]
pub fn target(name: &[u8], presets: Presets) -> Option<Target> {
    // Every name of the table starts so: this settles nearly all fields at once.
    if !name.get(..2)?.eq_ignore_ascii_case(b"x-") {
        return None;
    }
    NAMES
        .iter()
        .find(|(known, of, _)| {
            let on = match of {
                Of::Ringpost => true,
                Of::PowerMta => presets.powermta,
                Of::KumoMta => presets.kumomta,
            };
            on && known.as_bytes().eq_ignore_ascii_case(name)
        })
        .map(|(_, _, target)| *target)
}

/// Reads the steering fields of a header and says which of its fields (by index) leave the message.
///
/// # Errors
/// 550 5.7.1 naming the field when the value is outside the scope; 550 5.6.0 when it can't be read.
pub fn read(
    message: &[u8],
    header: &Header,
    presets: Presets,
    scope: &Scope<'_>,
) -> Result<(Steering, Vec<usize>), Refusal> {
    let mut steering = Steering::default();
    let mut taken = Vec::new();
    for (index, field) in header.fields.iter().enumerate() {
        if field.name != Name::Other {
            continue;
        }
        let Some(target) = target(field.name_bytes(message), presets) else {
            continue;
        };
        taken.push(index);
        apply(message, field, target, scope, &mut steering)?;
    }
    Ok((steering, taken))
}

fn apply(
    message: &[u8],
    field: &Field,
    target: Target,
    scope: &Scope<'_>,
    steering: &mut Steering,
) -> Result<(), Refusal> {
    let name = String::from_utf8_lossy(field.name_bytes(message)).into_owned();
    let value = field.text(message);
    let (slot, allowed) = match target {
        Target::Ignored => return Ok(()),
        Target::Schedule => return schedule(&name, &value, scope, steering),
        Target::Pool => (&mut steering.pool, scope.pools),
        Target::Tenant => (&mut steering.tenant, scope.tenants),
        Target::Campaign => (&mut steering.campaign, scope.campaigns),
        Target::Stream => (&mut steering.stream, scope.streams),
        Target::Envid => (&mut steering.envid, Allowed::Any),
        Target::IdempotencyKey => (&mut steering.idempotency_key, Allowed::Any),
    };
    if !is_name(&value, target) {
        return Err(Refusal::content(format!("the value of {name} is not a name that can be used here")));
    }
    if !allowed.permits(&value) {
        return Err(Refusal::policy(format!("{name}: this credential may not use that value")));
    }
    if slot.as_ref().is_some_and(|earlier| *earlier != value) {
        return Err(Refusal::content(format!("{name} contradicts an earlier field of the same meaning")));
    }
    *slot = Some(value);
    Ok(())
}

/// Values become parts of queue names, file names and log lines: printable ASCII, without what those use.
fn is_name(value: &str, target: Target) -> bool {
    let reserved: &[u8] = match target {
        Target::Envid | Target::IdempotencyKey => b"",
        _ => b":@!/\\\"<>",
    };
    !value.is_empty()
        && value.len() <= VALUE_MAX
        && value.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && !reserved.contains(&b))
}

/// A time as [`date::parse`] reads it, or KumoMTA's JSON object with `first_attempt`.
fn schedule(name: &str, value: &str, scope: &Scope<'_>, steering: &mut Steering) -> Result<(), Refusal> {
    if !scope.schedule {
        return Err(Refusal::policy(format!("{name}: this credential may not delay a message")));
    }
    let time = if value.starts_with('{') {
        serde_json::from_str::<serde_json::Value>(value)
            .ok()
            .and_then(|json| json.get("first_attempt")?.as_str().and_then(date::parse))
    } else {
        date::parse(value)
    };
    match time {
        Some(time) => {
            steering.schedule = Some(time);
            Ok(())
        }
        None => Err(Refusal::content(format!("{name}: not a time that can be read, such as 2030-01-31T08:00:00Z"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::header;
    use super::*;

    const ALL: Presets = Presets { powermta: true, kumomta: true };

    fn run(text: &str, presets: Presets, scope: &Scope<'_>) -> Result<(Steering, Vec<usize>), Refusal> {
        read(text.as_bytes(), &header::scan(text.as_bytes()).unwrap(), presets, scope)
    }

    #[test]
    fn own_names_and_presets_steer_and_are_taken_out() {
        let text = "From: a@b\r\nX-Ringpost-Pool: eu\r\nx-job: spring\r\nSubject: x\r\nX-Tenant: acme\r\n\
                    X-Idempotency-Key: k 1\r\nX-Schedule: {\"first_attempt\":\"2030-01-31T08:00:00Z\"}\r\n\r\n";
        let (steering, taken) = run(text, ALL, &Scope::everything()).unwrap();
        assert_eq!(taken, [1, 2, 4, 5, 6]);
        assert_eq!(steering.pool.as_deref(), Some("eu"));
        assert_eq!(steering.campaign.as_deref(), Some("spring"));
        assert_eq!(steering.tenant.as_deref(), Some("acme"));
        assert_eq!(steering.idempotency_key.as_deref(), Some("k 1"));
        assert_eq!(steering.schedule, date::parse("2030-01-31T08:00:00Z"));
    }

    #[test]
    fn presets_that_are_off_leave_the_field_alone() {
        let (steering, taken) = run("x-job: spring\r\n\r\n", Presets::default(), &Scope::default()).unwrap();
        assert_eq!((steering, taken), (Steering::default(), vec![]));
    }

    #[test]
    fn outside_the_scope_is_refused_by_name() {
        let pools = ["eu".to_owned()];
        let scope = Scope { pools: Allowed::Only(&pools), ..Scope::default() };
        assert!(run("X-Ringpost-Pool: EU\r\n\r\n", ALL, &scope).is_ok());
        for text in ["X-Virtual-MTA: us\r\n\r\n", "X-Ringpost-Tenant: t\r\n\r\n", "X-Schedule: 1\r\n\r\n"] {
            let refusal = run(text, ALL, &scope).unwrap_err();
            assert_eq!((refusal.code, refusal.enhanced), (550, [5, 7, 1]));
            assert!(refusal.text.starts_with(text.split(':').next().unwrap()), "{refusal}");
        }
    }

    #[test]
    fn values_that_can_not_be_used_are_refused() {
        for text in [
            "X-Ringpost-Campaign: a:b\r\n\r\n",
            "X-Ringpost-Campaign:\r\n\r\n",
            "X-Ringpost-Schedule: soon\r\n\r\n",
            "X-Ringpost-Pool: a\r\nX-Pool: b\r\n\r\n",
        ] {
            assert_eq!(run(text, ALL, &Scope::everything()).unwrap_err().code, 550, "{text}");
        }
    }
}
