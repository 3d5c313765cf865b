//! HTML of the sink's page: one style, no script, works in a text browser.

use super::dkim::Signed;
use super::recent::Arrived;
use super::world::World;
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;\
color:#222;background:#fcfcfb}h1{font-size:1.3rem}table{border-collapse:collapse;width:100%}\
td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #e4e2dd;vertical-align:top;overflow-wrap:anywhere}\
th{color:#666;font-weight:500}\
td.n{text-align:right;font-variant-numeric:tabular-nums}pre{background:#f4f2ee;padding:1rem;overflow:auto;\
white-space:pre-wrap;overflow-wrap:anywhere}.good{color:#176b2c}.bad{color:#a11}.quiet{color:#777}a{color:#154a8a}\
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:#666}dd{margin:0}\
@media(prefers-color-scheme:dark){body{background:#191a1c;color:#ddd}pre{background:#232427}\
td,th{border-color:#333}a{color:#8ab4f8}}";

/// The list of the last messages with the counters.
pub fn list(world: &World) -> String {
    let mut stats = world.stats.borrow().clone();
    stats.finish();
    let mut html = head("Sink", true);
    let _ = write!(
        html,
        "<h1>Sink {}</h1><dl><dt>Messages<dd>{} ({} by BDAT, {} by DATA), {} recipients, {} bytes\
         <dt>Rate<dd>{:.0} messages per second between the first and the last\
         <dt>Connections<dd>{} in all, {} open, {} at most at once, {} with TLS\
         <dt>Negative replies<dd>{} temporary, {} permanent",
        escape(&world.options.name),
        stats.messages,
        stats.by_bdat,
        stats.by_data,
        stats.recipients,
        stats.bytes,
        stats.rate,
        stats.connections,
        stats.open,
        stats.open_max,
        stats.tls,
        stats.replies_4xx,
        stats.replies_5xx
    );
    if world.options.verify {
        let _ = write!(html, "<dt>Content<dd>{} exact, {} damaged", stats.content_exact, stats.content_damaged);
    }
    if world.verifier.is_some() {
        let _ = write!(
            html,
            "<dt>DKIM<dd>{} passed, {} failed, {} unsigned",
            stats.dkim_pass, stats.dkim_fail, stats.dkim_none
        );
    }
    html.push_str(
        "</dl><p><a href=\"/stats.json\">All counters as JSON</a></p><table><thead><tr>\
         <th>#<th>Arrived<th>Subject<th>From\
         <th>To<th>Size<th>Connected from<th>DKIM</thead><tbody>",
    );
    for arrived in world.recent.borrow().newest() {
        row(&mut html, arrived);
    }
    html.push_str("</tbody></table></body></html>");
    html
}

fn row(html: &mut String, arrived: &Arrived) {
    let subject = header(&arrived.content, "subject").unwrap_or_else(|| "(no subject)".to_owned());
    let more = arrived.recipient_count.saturating_sub(1);
    let _ = write!(
        html,
        "<tr><td class=n><a href=\"/message/{0}\">{0}</a><td>{1}<td><a href=\"/message/{0}\">{2}</a><td>{3}<td>{4}{5}\
         <td class=n>{6}<td>{7} <span class=quiet>{8}{9}</span><td>{10}",
        arrived.number,
        time(arrived.at_us),
        escape(&subject),
        escape(&arrived.from),
        escape(arrived.recipients.first().map_or("", String::as_str)),
        if more > 0 { format!(" and {more} more") } else { String::new() },
        arrived.size,
        arrived.peer.ip(),
        escape(&arrived.helo),
        if arrived.tls.is_empty() { "" } else { ", TLS" },
        verdict(arrived.dkim.as_ref())
    );
}

/// One message.
pub fn message(arrived: &Arrived) -> String {
    let mut html = head(&format!("Message {}", arrived.number), false);
    let _ = write!(
        html,
        "<p><a href=\"/\">All messages</a></p><h1>Message {}</h1><dl><dt>Arrived<dd>{}<dt>Reverse path<dd>&lt;{}&gt;\
         <dt>Recipients<dd>{}: {}<dt>Size<dd>{} bytes<dt>Connected from<dd>{}<dt>EHLO<dd>{}<dt>TLS<dd>{}\
         <dt>Place<dd>connection {}, transaction {}<dt>DKIM<dd>{}",
        arrived.number,
        time(arrived.at_us),
        escape(&arrived.from),
        arrived.recipient_count,
        escape(&arrived.recipients.join(", ")),
        arrived.size,
        arrived.peer,
        escape(&arrived.helo),
        if arrived.tls.is_empty() { "none" } else { &arrived.tls },
        arrived.place.0,
        arrived.place.1,
        verdict(arrived.dkim.as_ref())
    );
    if let Some(Signed::Pass(lines) | Signed::Fail(lines)) = &arrived.dkim {
        for line in lines {
            let _ = write!(html, "<br>{}", escape(line));
        }
    }
    let cut = memchr::memmem::find(&arrived.content, b"\r\n\r\n").unwrap_or(arrived.content.len());
    let (fields, body) = arrived.content.split_at(cut);
    let _ = write!(
        html,
        "</dl><h2>Header</h2><pre>{}</pre><h2>Body{}</h2><pre>{}</pre></body></html>",
        escape(&String::from_utf8_lossy(fields)),
        if arrived.whole { "" } else { " (its beginning)" },
        escape(String::from_utf8_lossy(body).trim_start())
    );
    html
}

/// What is shown for a message that has left the list.
pub fn gone() -> String {
    format!("{}<h1>Not here</h1><p><a href=\"/\">All messages</a></p></body></html>", head("Not here", false))
}

fn head(title: &str, refresh: bool) -> String {
    format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         {}<title>{}</title><style>{STYLE}</style></head><body>",
        if refresh { "<meta http-equiv=refresh content=5>" } else { "" },
        escape(title)
    )
}

fn verdict(signed: Option<&Signed>) -> &'static str {
    match signed {
        None => "<span class=quiet>not checked</span>",
        Some(Signed::None) => "<span class=quiet>unsigned</span>",
        Some(Signed::Pass(_)) => "<span class=good>pass</span>",
        Some(Signed::Fail(_)) => "<span class=bad>fail</span>",
    }
}

fn time(us: u64) -> String {
    crate::clock::rfc5322(us / 1_000_000)
}

fn header(content: &[u8], name: &str) -> Option<String> {
    String::from_utf8_lossy(content).lines().take_while(|line| !line.is_empty()).find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_is_escaped() {
        assert_eq!(escape("<b a=\"&\">"), "&lt;b a=&quot;&amp;&quot;&gt;");
        assert_eq!(header(b"A: b\r\nSubject: x <y>\r\n\r\nSubject: no", "subject").as_deref(), Some("x <y>"));
    }
}
