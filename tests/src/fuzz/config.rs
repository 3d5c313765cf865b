//! The configuration as shipped, damaged by line, by value and by byte: read, or refused with the place.

use std::path::Path;

use mta::config::{self, ConfigError};
use mta::control::init;

use super::source::Source;
use super::{must, Verdict};

pub(super) fn run(source: &mut Source<'_>) -> Verdict {
    let mut text = example();
    for _ in 0..source.range(1..6) {
        match source.byte() % 4 {
            0 => line(source, &mut text),
            1 | 2 => value(source, &mut text),
            _ => {
                let mut bytes = text.into_bytes();
                source.damage(&mut bytes, 2);
                text = String::from_utf8_lossy(&bytes).into_owned();
            }
        }
    }
    match config::parse(&text, "x.toml") {
        Ok(config) => {
            must(!config.hostname.is_empty(), || "a configuration without a host name".to_owned())?;
            for pool in &config.pools {
                let known = pool.sources.iter().all(|index| *index < config.sources.len());
                must(known, || format!("{pool:?} names a source that is not there"))?;
            }
            must(config.lab || config.routes.iter().all(|route| !route.lab), || "a lab route without lab".to_owned())
        }
        Err(ConfigError::Value { setting, reason, .. }) => {
            let named = !setting.is_empty() && setting.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
            must(named && !reason.is_empty(), || format!("refused without a setting: {setting:?} {reason:?}"))
        }
        Err(ConfigError::Syntax { text, .. }) => must(text.contains("line "), || format!("no line: {text}")),
        Err(ConfigError::Read { source, .. }) => Err(format!("nothing was to be read: {source}")),
    }
}

/// What `ringpost init` writes, as text.
fn example() -> String {
    use std::sync::OnceLock;
    static TEXT: OnceLock<String> = OnceLock::new();
    let read = || {
        let dir = std::env::temp_dir().join(format!("ringpost-fuzz-config-{}", std::process::id()));
        let text = init::write_config(&dir, init::Ports::default())
            .and_then(|_| std::fs::read_to_string(Path::new(&dir).join("ringpost.toml")));
        let _ = std::fs::remove_dir_all(&dir);
        text.unwrap_or_default()
    };
    TEXT.get_or_init(read).clone()
}

const EXTRA: &[&str] = &[
    "[[credential]]\nname = \"local\"\nfrom_domains = []\n",
    "[[credential]]\nname = \"x\"\nverifier = \"SCRAM-SHA-256$1:x$y:z\"\nfrom_domains = [\"*\"]\n",
    "[[credential]]\nname = \"x\"\nverifier = \"$argon2id$v=19$m=1,t=1,p=1$YQ$YQ\"\nfrom_domains = [\"a.test\"]\n",
    "[[listener]]\naddress = \"nowhere\"\nrole = \"relay\"\n",
    "[[listener]]\naddress = \"0.0.0.0:25\"\nrole = \"open\"\n",
    "[[listener]]\naddress = \"[::]:0\"\nrole = \"mx\"\nmax_message_mib = 51\n",
    "[[source]]\nname = \"s\"\naddress = \"::1\"\nweight = 0\n",
    "[[pool]]\nname = \"default\"\nsources = [\"none\"]\n",
    "[[route]]\ndomain = \"*\"\nto = []\n",
    "[[route]]\ndomain = \"a.test\"\nto = [\"h:99999\"]\ntls = \"maybe\"\ntls_pin = \"zz\"\n",
    "[[dkim]]\ndomain = \"a b\"\nselector = \"..\"\nkey = \"\"\n",
    "[[queue]]\nretry_first_s = 0\nmax_age_s = 1\n",
    "[[stream]]\nname = \"\"\nclass = \"x\"\n",
    "[[domain]]\nname = \"\u{fc}.test\"\nreturn_path = true\n",
    "[unknown]\nx = 1\n",
    "x",
];

/// Takes a line out, doubles it, moves it, or adds a table.
fn line(source: &mut Source<'_>, text: &mut String) {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = source.below(lines.len());
    let to = source.below(lines.len().max(1));
    match (source.byte() % 4, lines.get(at).cloned()) {
        (0, Some(_)) => {
            lines.remove(at);
        }
        (1, Some(line)) => lines.insert(to.min(lines.len()), line),
        (2, Some(_)) => {
            let line = lines.remove(at);
            lines.insert(to.min(lines.len()), line);
        }
        _ => lines.push((*source.pick(EXTRA)).to_owned()),
    }
    *text = lines.join("\n");
}

/// Puts another value behind an equals sign.
fn value(source: &mut Source<'_>, text: &mut String) {
    const VALUES: &[&str] = &[
        "\"\"",
        "0",
        "-1",
        "true",
        "[]",
        "[\"\"]",
        "{}",
        "1e400",
        "18446744073709551615",
        "\"*\"",
        "\"127.0.0.1\"",
        "\"127.0.0.1:25\"",
        "\"::1\"",
        "\"a\\nb\"",
        "\"\\u0000\"",
        "nan",
        "1979-05-27",
        "[1, 2]",
        "65536",
        "\"x y\"",
    ];
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let settings: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains('=')).collect();
    let Some(at) = settings.get(source.below(settings.len())) else { return };
    let name = lines[*at].split('=').next().unwrap_or_default().trim().trim_start_matches("# ").to_owned();
    let value = match source.byte() % 4 {
        0 => format!("{}", source.number()),
        1 => format!("{:?}", source.text(12)),
        _ => (*source.pick(VALUES)).to_owned(),
    };
    lines[*at] = format!("{name} = {value}");
    *text = lines.join("\n");
}
