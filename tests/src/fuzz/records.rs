//! What the spool writes, damaged, and read back: refused, or exactly what was written.

use queue::envelope::ENVELOPE_V1;
use queue::spool::footer::{Footer, FooterBuilder, Trailer};
use queue::spool::records::{BatchHeader, RecordHeader, BATCH_HEADER, RECORD_HEADER};
use queue::spool::superblock::{CutOff, CutReason, Parsed, State, Superblock, CUT_OFFS_MAX};
use queue::spool::{Heat, Labels};
use queue::{
    BodyFlags, BodyHash, Class, DsnRet, EnvRecipient, Envelope, MessageKind, Notify, SpoolId, UnixMillis, UnixSecs,
};

use super::source::Source;
use super::{must, Verdict};

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    match source.byte() % 6 {
        0 => batch(source),
        1 => record(source),
        2 => superblock(source),
        3 => footer(source),
        4 => labels(source),
        _ => envelope(source),
    }
}

fn batch(source: &mut Source<'_>) -> Verdict {
    let header = BatchHeader {
        epoch: source.number(),
        offset: source.number(),
        durable: source.number(),
        len: (source.number() as u32).max(BATCH_HEADER as u32),
        records: source.number() as u32,
        max_id: source.number(),
        number: source.number() as u32,
    };
    let good = header.encode();
    must(BatchHeader::parse(&good, true) == Some(header), || format!("{header:?} does not come back"))?;
    let _ = header.padded();
    let mut bad = good.to_vec();
    source.damage(&mut bad, 4);
    if let Some(loose) = BatchHeader::parse(&bad, false) {
        let _ = loose.padded();
    }
    let parsed = BatchHeader::parse(&bad, true);
    must(parsed.is_none_or(|parsed| parsed == header), || format!("{header:?} became {parsed:?}"))
}

fn record(source: &mut Source<'_>) -> Verdict {
    let labels = Labels::of(&some_envelope(source)).encode();
    let header = RecordHeader {
        version: source.byte(),
        id: source.number(),
        env_len: source.below(1 << 20) as u32,
        body_len: source.below(1 << 20) as u32,
        crc_env: source.u32(),
        crc_body: source.u32(),
        labels_len: labels.len() as u32,
    };
    let (epoch, offset) = (source.number(), source.number());
    let mut good = header.encode(&labels, epoch, offset).to_vec();
    good.extend_from_slice(&labels);
    let same =
        |bytes: &[u8]| RecordHeader::parse(bytes, epoch, offset, true).is_some_and(|(h, l)| h == header && l == labels);
    must(same(&good), || format!("{header:?} does not come back"))?;
    must(RecordHeader::parse(&good, epoch ^ 1, offset, true).is_none(), || "another epoch's record".to_owned())?;
    let mut bad = good.clone();
    source.damage(&mut bad, 4);
    if let Some(peeked) = RecordHeader::peek(&bad) {
        must(peeked.shape().len >= RECORD_HEADER, || "a shape without room for its header".to_owned())?;
    }
    let _ = RecordHeader::parse(&bad, epoch, offset, false);
    must(RecordHeader::parse(&bad, epoch, offset, true).is_none() || same(&bad), || {
        "a record became another".to_owned()
    })
}

fn superblock(source: &mut Source<'_>) -> Verdict {
    let block = Superblock {
        identity: u128::from(source.number()) << 64 | u128::from(source.number()),
        generation: source.number(),
        epoch: source.number(),
        number: source.number() as u32,
        state: if source.flip() { State::InUse } else { State::Spare },
        heat: if source.flip() { Heat::Hot } else { Heat::Cold },
        created: source.number(),
        id_floor: source.number(),
        segment_bytes: source.number(),
        cut_offs: (0..source.below(CUT_OFFS_MAX + 1).min(40))
            .map(|_| CutOff {
                number: source.number() as u32,
                epoch: source.number(),
                offset: source.number(),
                reason: [CutReason::WriteFailed, CutReason::Stopped, CutReason::NoFooter][source.below(3)],
            })
            .collect(),
    };
    let good = block.encode();
    must(Superblock::parse(&good) == Parsed::Valid(block.clone()), || format!("{block:?} does not come back"))?;
    let mut bad = good.to_vec();
    source.damage(&mut bad, 4);
    let parsed = Superblock::parse(&bad);
    let fine = parsed == Parsed::Invalid || parsed == Parsed::Valid(block);
    must(fine, || format!("a damaged superblock passed: {parsed:?}"))
}

fn footer(source: &mut Source<'_>) -> Verdict {
    let mut builder = FooterBuilder::default();
    let mut wanted = Vec::new();
    for number in 0..source.below(6) {
        let labels = Labels::of(&some_envelope(source));
        let (id, offset, len) = (source.number(), 8192 + 64 * number as u64, 64);
        builder.add(id, offset, len, ENVELOPE_V1, &labels);
        let names: Vec<String> = labels.queue_names().map(str::to_owned).collect();
        wanted.push((id, labels.pool.clone(), names));
    }
    let (epoch, number, data_end, segment) = (source.number(), source.byte().into(), 65_536, 1 << 20);
    let (good, block) = builder.finish(epoch, number, data_end, segment);
    let trailer = Trailer::parse(&block, epoch, true).ok_or("a trailer does not come back")?;
    let told = |bytes: &[u8]| {
        let footer = Footer::parse(bytes, &trailer)?;
        let mut told = Vec::new();
        let whole = footer.each(|entry, pool, names| {
            told.push((entry.id, pool.to_owned(), names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        });
        whole.then_some(told)
    };
    must(told(&good).as_ref() == Some(&wanted), || format!("a footer of {wanted:?} does not come back"))?;
    let mut bad = good.clone();
    source.damage(&mut bad, 4);
    let read = told(&bad);
    must(read.is_none_or(|read| read == wanted), || "a damaged footer passed".to_owned())?;
    let mut bad = block.to_vec();
    source.damage(&mut bad, 4);
    let parsed = Trailer::parse(&bad, epoch, true);
    must(parsed.is_none_or(|parsed| parsed == trailer), || "a damaged trailer passed".to_owned())?;
    hostile_footer(source, good, &trailer)
}

/// A footer whose checksums are right and whose content is anything: nothing panics.
fn hostile_footer(source: &mut Source<'_>, mut bytes: Vec<u8>, trailer: &Trailer) -> Verdict {
    for _ in 0..source.range(1..6) {
        let at = source.below(bytes.len().min(400));
        bytes[at] = source.byte();
    }
    let header = queue::spool::footer::FOOTER_HEADER;
    let len = u64::from_le_bytes(bytes[40..48].try_into().map_err(|_| "short")?);
    let content = usize::try_from(len).ok().and_then(|len| bytes.get(header..len));
    let crc = crc32c(content.unwrap_or_default());
    bytes[48..52].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    if let Some(footer) = Footer::parse(&bytes, trailer) {
        footer.each(|_, _, _| {});
        let _ = footer.entries().count();
    }
    Ok(())
}

/// CRC-32C, a bit at a time: independent of the library that is used in the spool.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 })
    })
}

fn labels(source: &mut Source<'_>) -> Verdict {
    let labels = Labels::of(&some_envelope(source));
    let mut bytes = labels.encode();
    let parsed = Labels::parse(&bytes);
    must(parsed.as_ref() == Some(&labels), || format!("{labels:?} came back as {parsed:?}"))?;
    source.damage(&mut bytes, 6);
    if let Some(parsed) = Labels::parse(&bytes) {
        // No checksum of their own: what is read must at least be consistent.
        must(parsed.queue_names().count() == parsed.recipients(), || "names and recipients differ".to_owned())?;
        let again = Labels::parse(&parsed.encode());
        must(again.as_ref() == Some(&parsed), || format!("{parsed:?} came back as {again:?}"))?;
    }
    Ok(())
}

fn envelope(source: &mut Source<'_>) -> Verdict {
    let envelope = some_envelope(source);
    let bytes = envelope.encode().map_err(|error| error.to_string())?;
    let back = Envelope::decode(ENVELOPE_V1, &bytes).map_err(|error| error.to_string())?;
    must(back == envelope, || format!("{envelope:?} came back as {back:?}"))?;
    let mut bad = bytes.to_vec();
    source.damage(&mut bad, 8);
    // The record's checksum guards it; without it, anything but a panic.
    if let Ok(odd) = Envelope::decode(ENVELOPE_V1, &bad) {
        for index in 0..odd.recipients.len().min(8) {
            let _ = odd.queue_name(index).to_string();
        }
        let _ = odd.encode();
    }
    must(Envelope::decode(ENVELOPE_V1 + 1, &bytes).is_err(), || "a version to come was read".to_owned())
}

pub(super) fn some_envelope(source: &mut Source<'_>) -> Envelope {
    let time = |source: &mut Source<'_>| Some(UnixSecs(source.u32().max(1))).filter(|_| source.flip());
    Envelope {
        received: UnixMillis(source.number() % (1 << 41)),
        kind: [MessageKind::Mail, MessageKind::Dsn, MessageKind::Forward][source.below(3)],
        reverse_path: source.text(30),
        tenant: source.text(12),
        campaign: source.text(12),
        stream: source.text(8),
        class: Class::from_byte(source.byte() % 3),
        pool: source.text(12),
        credential: source.text(8),
        priority: (source.byte() % 19) as i8 - 9,
        not_before: time(source),
        not_after: time(source),
        deliver_by_notify: source.flip(),
        ret: [DsnRet::Unset, DsnRet::Full, DsnRet::Hdrs][source.below(3)],
        envid: source.text(20),
        idempotency_key: source.text(12),
        routing_domain: source.text(12),
        recipients: (0..source.below(9))
            .map(|_| EnvRecipient {
                address: source.text(30),
                orcpt: source.text(20),
                notify: Notify(source.byte() % 16),
            })
            .collect(),
        flags: BodyFlags {
            dot_line: source.flip(),
            eight_bit: source.flip(),
            binary: source.flip(),
            smtputf8: source.flip(),
            longest_line: source.number() as u32,
            header_len: source.number() as u32,
        },
        body_hash: BodyHash { relaxed: [source.byte(); 32], simple: [source.byte(); 32] },
        size: source.number() as u32,
        peer: source.text(20),
        protocol: source.text(8),
        session: source.number(),
        report_of: source.flip().then(|| (SpoolId(source.number()), source.u32())),
    }
}
