//! What clients submit: envelopes and bodies that tell their number, so that a mix-up is seen.

use queue::{Body, BodyFlags, DsnRet, EnvRecipient, Envelope, UnixMillis};

use super::plan::PlannedMail;

/// The body of submission `number`.
pub fn body_of(number: u32, len: usize, eight_bit: bool) -> Vec<u8> {
    let mut bytes = format!(
        "From: <from{number}@d0.test>\r\nSubject: {number}\r\nMessage-ID: <{number}@d0.test>\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    .into_bytes();
    let mut word = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut column = 0;
    while bytes.len() + 4 < len {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        if eight_bit && column == 0 {
            bytes.extend_from_slice("ä".as_bytes());
        }
        bytes.push(b'a' + (word % 26) as u8);
        column += 1;
        if column == 70 {
            bytes.extend_from_slice(b"\r\n");
            column = 0;
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// The message of a submission, received at `now`.
pub fn message_of(number: u32, mail: &PlannedMail, now: UnixMillis) -> (Envelope, Body) {
    let body = body_of(number, mail.len, mail.eight_bit);
    let header = body.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4);
    let recipients = mail
        .rcpts
        .iter()
        .map(|rcpt| EnvRecipient { address: rcpt.address.clone(), orcpt: String::new(), notify: rcpt.notify })
        .collect();
    let after = |s: u32| queue::UnixSecs(now.secs().0.saturating_add(s));
    let envelope = Envelope {
        received: now,
        reverse_path: mail.from.clone(),
        tenant: format!("t{}", number % 3),
        class: mail.class,
        priority: mail.priority,
        not_before: mail.wait_s.map(after),
        not_after: mail.ttl_s.map(after),
        ret: if number.is_multiple_of(2) { DsnRet::Hdrs } else { DsnRet::Full },
        recipients,
        flags: BodyFlags {
            eight_bit: mail.eight_bit,
            longest_line: 72,
            header_len: header as u32,
            ..BodyFlags::default()
        },
        size: body.len() as u32,
        protocol: "ESMTP".to_owned(),
        ..Envelope::default()
    };
    (envelope, Body::from(body))
}
