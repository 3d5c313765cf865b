//! Two kinds of drawing: horizontal bars and lines. Numbers in, SVG text out.

use std::fmt::Write;

const COLOURS: [&str; 6] = ["#154a8a", "#b3541e", "#176b2c", "#7a3b8f", "#8a6d00", "#0f7c86"];

/// Horizontal bars (label, value, strong), all on one scale from zero.
pub fn bars(items: &[(String, f64, bool)]) -> String {
    let most = items.iter().map(|(_, value, _)| *value).filter(|value| value.is_finite()).fold(1e-9, f64::max);
    let height = items.len() * 30 + 8;
    let mut svg = format!("<svg viewBox=\"0 0 900 {height}\" width=900 role=img font-size=13 font-family=system-ui>");
    for (at, (label, value, strong)) in items.iter().enumerate() {
        let (y, width) = (at * 30 + 4, (value / most * 480.0).clamp(1.0, 480.0));
        let _ = write!(
            svg,
            "<text x=300 y={} text-anchor=end>{}</text><rect x=310 y={y} width={width:.1} height=22 fill={} />\
             <text x={:.1} y={} fill=#222>{value:.1}</text>",
            y + 16,
            escape(label),
            if *strong { "#154a8a" } else { "#b9c6d6" },
            316.0 + width,
            y + 16
        );
    }
    svg + "</svg>"
}

/// Lines (name, points) over common axes from zero; `ticks` name places on the x axis, else the ends are numbered.
pub fn lines(series: &[(String, Vec<(f64, f64)>)], ticks: &[(f64, &str)]) -> String {
    let all = || series.iter().flat_map(|(_, points)| points).filter(|(x, y)| x.is_finite() && y.is_finite());
    let x_most = all().map(|(x, _)| *x).fold(1e-9, f64::max);
    let y_most = all().map(|(_, y)| *y).fold(1e-9, f64::max);
    let (x_of, y_of) = (|x: f64| 60.0 + x / x_most * 800.0, |y: f64| 260.0 - y / y_most * 240.0);
    let height = 300 + series.len() * 18;
    let mut svg = format!("<svg viewBox=\"0 0 900 {height}\" width=900 role=img font-size=12 font-family=system-ui>");
    svg.push_str("<path d=\"M60 20V260H860\" fill=none stroke=#999 />");
    for share in [0.25, 0.5, 0.75, 1.0] {
        let y = y_of(y_most * share);
        let _ = write!(
            svg,
            "<path d=\"M60 {y:.1}H860\" stroke=#eee /><text x=54 y={:.1} text-anchor=end>{:.1}</text>",
            y + 4.0,
            y_most * share
        );
    }
    if ticks.is_empty() {
        let _ = write!(svg, "<text x=60 y=278>0</text><text x=860 y=278 text-anchor=end>{x_most:.0} s</text>");
    }
    for (x, name) in ticks.iter().filter(|(x, _)| *x <= x_most + 1e-9) {
        let _ = write!(svg, "<text x={:.1} y=278 text-anchor=middle>{name}</text>", x_of(*x));
    }
    for (at, (name, points)) in series.iter().enumerate() {
        let colour = COLOURS.get(at % COLOURS.len()).unwrap_or(&"#222");
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_of(*x), y_of(*y))).collect();
        let y = 300 + at * 18;
        let _ = write!(
            svg,
            "<polyline points=\"{}\" fill=none stroke={colour} stroke-width=2 />\
             <rect x=60 y={} width=12 height=4 fill={colour} /><text x=78 y={}>{}</text>",
            path.join(" "),
            y - 6,
            y,
            escape(name)
        );
    }
    svg + "</svg>"
}

/// Text safe inside HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_a_scale() {
        let svg = bars(&[("a".into(), 50.0, true), ("b".into(), 100.0, false)]);
        assert!(svg.contains("width=240.0") && svg.contains("width=480.0"));
    }

    #[test]
    fn lines_stay_inside() {
        let svg = lines(&[("a".into(), vec![(0.0, 0.0), (2.0, 10.0)])], &[]);
        assert!(svg.contains("points=\"60.0,260.0 860.0,20.0\""), "{svg}");
    }
}
