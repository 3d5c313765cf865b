//! One self-contained page of results: tables and drawings in inline SVG, no script, nothing fetched.

use super::svg;
use crate::run::result::{Load, Outcome};
use std::fmt::Write;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;\
color:#222;background:#fcfcfb}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}\
table{border-collapse:collapse;width:100%;margin:1rem 0}\
td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e4e2dd;vertical-align:top}\
th{color:#666;font-weight:500}td.n{text-align:right;font-variant-numeric:tabular-nums}\
.good{color:#176b2c}.bad{color:#a11}.quiet{color:#777;font-size:.9em}svg{max-width:100%;height:auto}";

/// CPU per relayed 4 KiB message of other servers, microseconds, for scale: server on one core, smtp-source load, one
/// shared two-core machine, medians of three runs. Only those that are durable before the 250.
pub const PEERS: [(&str, f64); 4] = [
    ("KumoMTA, RocksDB, synced, 16 threads", 610.0),
    ("Postfix 3.7.11", 1930.0),
    ("Haraka 3.3.4", 1980.0),
    ("Exim 4.96", 9900.0),
];

/// The page.
pub fn page(outcomes: &[Outcome], with_peers: bool) -> String {
    let mut html = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Bench report</title><style>{STYLE}</style></head><body><h1>Bench report</h1>"
    );
    cpu_section(&mut html, outcomes, with_peers);
    for outcome in outcomes {
        one(&mut html, outcome);
    }
    html.push_str("</body></html>\n");
    html
}

fn cpu_section(html: &mut String, outcomes: &[Outcome], with_peers: bool) {
    let mut bars = Vec::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.scenario == "relay-4k") {
        for figure in outcome.figures.iter().filter(|figure| figure.row.starts_with("engine.a")) {
            let load = if figure.row.ends_with('1') { "smtp-source" } else { "PIPELINING+CHUNKING" };
            bars.push((format!("{}, {load}", outcome.server), figure.value, true));
        }
    }
    if bars.is_empty() {
        return;
    }
    if with_peers {
        bars.extend(PEERS.iter().map(|(name, us)| ((*name).to_owned(), *us, false)));
    }
    html.push_str("<h2>CPU per relayed message of 4 KiB, microseconds</h2>");
    html.push_str(&svg::bars(&bars));
    if with_peers {
        html.push_str("<p class=quiet>Pale bars: measured earlier, side by side, on one shared two-core machine.</p>");
    }
}

fn one(html: &mut String, outcome: &Outcome) {
    let _ = write!(
        html,
        "<h2>{} against {}</h2><p class=quiet>{} · commit {} · {} · {}</p>",
        svg::escape(&outcome.scenario),
        svg::escape(&outcome.server),
        svg::escape(&outcome.version),
        svg::escape(&outcome.commit),
        svg::escape(&outcome.machine),
        svg::escape(&outcome.date)
    );
    html.push_str("<table><thead><tr><th>Row<th>Figure<th>Value<th>Bar<th></thead><tbody>");
    for figure in &outcome.figures {
        let (class, word) = if figure.passed() { ("good", "met") } else { ("bad", "not met") };
        let _ = write!(
            html,
            "<tr><td>{}<td>{}<td class=n>{:.1} {}<td class=n>{} {:.1}<td class={class}>{word}",
            svg::escape(&figure.row),
            svg::escape(&figure.what),
            figure.value,
            svg::escape(&figure.unit),
            if figure.at_least { "≥" } else { "≤" },
            figure.bar
        );
    }
    html.push_str(
        "</tbody></table><table><thead><tr><th>Load<th>Messages<th>CPU us<th>Kernel workers us<th>Accepted/s\
         <th>End to end/s<th>Anon MiB<th>Flushes<th>Foreign cores</thead><tbody>",
    );
    for load in &outcome.loads {
        row(html, load);
    }
    html.push_str("</tbody></table>");
    for note in &outcome.notes {
        let _ = write!(html, "<p class=quiet>{}</p>", svg::escape(note));
    }
    curves(html, outcome);
}

fn row(html: &mut String, load: &Load) {
    let _ = write!(
        html,
        "<tr><td>{}<td class=n>{}<td class=n>{:.1}<td class=n>{:.1}<td class=n>{:.0}<td class=n>{:.0}<td class=n>{:.1}\
         <td class=n>{:.3}<td class=n>{:.2}",
        svg::escape(&load.name),
        load.messages,
        load.cpu_us,
        load.workers_us,
        load.accept_rate,
        load.relay_rate,
        load.anon as f64 / 1_048_576.0,
        load.flushes,
        load.noise_cores
    );
}

fn curves(html: &mut String, outcome: &Outcome) {
    let with_report: Vec<&Load> = outcome.loads.iter().filter(|load| load.inject.is_some()).collect();
    let latency: Vec<(String, Vec<(f64, f64)>)> = with_report
        .iter()
        .filter_map(|load| {
            let curve = &load.inject.as_ref()?.latency.curve;
            // The axis counts nines: 90 % is 1, 99 % is 2.
            let nines = |percent: f64| -(1.0 - percent / 100.0).max(1e-4).log10();
            Some((load.name.clone(), curve.iter().map(|(p, us)| (nines(*p), *us as f64 / 1000.0)).collect()))
        })
        .collect();
    if !latency.is_empty() {
        html.push_str("<h3>Time to the 250, milliseconds, by percentile</h3>");
        html.push_str(&svg::lines(
            &latency,
            &[(0.0, "0"), (1.0, "90 %"), (2.0, "99 %"), (3.0, "99.9 %"), (4.0, "max")],
        ));
    }
    let rate: Vec<(String, Vec<(f64, f64)>)> = with_report
        .iter()
        .filter_map(|load| {
            let seconds = &load.inject.as_ref()?.per_second;
            let points: Vec<(f64, f64)> = seconds.iter().map(|(second, n)| (*second as f64, *n as f64)).collect();
            (points.len() > 2).then(|| (load.name.clone(), points))
        })
        .collect();
    if !rate.is_empty() {
        html.push_str("<h3>Messages accepted in each second</h3>");
        html.push_str(&svg::lines(&rate, &[]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::result::Figure;

    #[test]
    fn page_has_bars_and_escapes() {
        let figure = Figure::at_most("engine.a.1", "x <y>", 42.0, "us", 80.0, None);
        let outcome = Outcome {
            scenario: "relay-4k".into(),
            server: "s".into(),
            figures: vec![figure],
            loads: vec![Load::default()],
            ..Outcome::default()
        };
        let html = page(&[outcome], true);
        assert!(html.contains("<svg") && html.contains("x &lt;y&gt;") && html.contains("Postfix"));
        assert!(!html.contains("<script") && !html.contains("http://www.w3.org/1999/xlink"));
    }
}
