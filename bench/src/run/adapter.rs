//! An adapter: how to start one mail server for a scenario, written as TOML.
//!
//! Texts carry placeholders in braces; unknown braces are left alone, so configuration languages that use braces
//! themselves need no escaping. The adapter is the operator's own file: its commands run in a shell.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// Name in results.
    pub name: String,
    /// Where the server listens, with placeholders.
    pub smtp: String,
    /// Shell command that starts it in the foreground; empty for a server that runs already.
    #[serde(default)]
    pub start: String,
    /// Shell command run before the start.
    #[serde(default)]
    pub prepare: String,
    /// Shell command that prints a version.
    #[serde(default)]
    pub version: String,
    /// Shell command that prints the number of queued recipients (or messages).
    #[serde(default)]
    pub queued: String,
    /// Words the server writes to its log when all that was on disk is scheduled; used where `queued` is not given.
    #[serde(default)]
    pub scheduled_words: String,
    /// Extra injector arguments of a critical stream.
    #[serde(default)]
    pub critical: Vec<String>,
    /// Extra injector arguments of bulk.
    #[serde(default)]
    pub bulk: Vec<String>,
    /// Files written before `prepare`.
    #[serde(default)]
    pub file: Vec<ConfigFile>,
    /// Placeholders by scenario variant.
    #[serde(default)]
    pub variant: BTreeMap<String, BTreeMap<String, String>>,
}

/// One configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Path inside the private folder.
    pub path: PathBuf,
    /// Its text with placeholders.
    pub text: String,
}

impl Adapter {
    /// Reads an adapter by path, or by name from `bench/adapters`.
    pub fn load(name: &str) -> Result<Self> {
        let direct = PathBuf::from(name);
        let path = if direct.exists() { direct } else { Path::new("bench/adapters").join(format!("{name}.toml")) };
        let text = std::fs::read_to_string(&path).with_context(|| format!("adapter {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Does the adapter know this variant?
    pub fn has_variant(&self, variant: &str) -> bool {
        self.variant.contains_key(variant)
    }

    /// All placeholders of a variant on top of the given ones.
    pub fn values(&self, variant: &str, base: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut values = base.clone();
        values.entry("extra".to_owned()).or_default();
        for (key, text) in self.variant.get(variant).into_iter().flatten() {
            values.insert(key.clone(), fill(text, base));
        }
        values
    }
}

/// Replaces the placeholders that have a value.
pub fn fill(text: &str, values: &BTreeMap<String, String>) -> String {
    let mut out = text.to_owned();
    for (key, value) in values {
        out = out.replace(&format!("{{{key}}}"), value);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_fill_and_strangers_stay() {
        let adapter: Adapter = toml::from_str(
            "name=\"x\"\nsmtp=\"h:{port}\"\n[variant.a]\nextra=\"at {port}\"\n\
             [[file]]\npath=\"c\"\ntext=\"{extra} {other}\"",
        )
        .unwrap();
        let base = BTreeMap::from([("port".to_owned(), "25".to_owned())]);
        assert_eq!(fill(&adapter.smtp, &base), "h:25");
        assert_eq!(fill(&adapter.file[0].text, &adapter.values("a", &base)), "at 25 {other}");
        assert_eq!(fill(&adapter.file[0].text, &adapter.values("b", &base)), " {other}");
    }

    #[test]
    fn shipped_adapters_parse() {
        for name in ["postfix", "ringpost"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("adapters/{name}.toml"));
            let adapter = Adapter::load(path.to_str().unwrap()).unwrap();
            assert!(adapter.has_variant("relay") && adapter.has_variant("accept"), "{name}");
        }
    }
}
