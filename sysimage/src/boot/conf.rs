//! What the first process is told: `/etc/ringpost/boot.conf` and the kernel's command line.
//!
//! `boot.conf` has one `key = value` per line, `#` starts a comment:
//!
//! | key | value |
//! | --- | --- |
//! | `run` | a program with its arguments, started again whenever it ends; may stand several times |
//! | `test` | one program; the machine is switched off when it ends |
//! | `data` | the data file system: `PARTLABEL=data`, `/dev/vda`, or `none` |
//! | `hostname` | the machine's name |
//!
//! On the command line `ringpost.test="..."`, `ringpost.data=...` win over the file. Pure: text in, values out.

/// A line that can't be understood. The operator wrote it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("boot.conf line {line}: {what}")]
pub struct ConfError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong and what is expected.
    pub what: String,
}

/// What to do after the file systems are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootConf {
    /// Programs kept running, each with its arguments.
    pub run: Vec<Vec<String>>,
    /// The program whose end is the machine's end.
    pub test: Option<Vec<String>>,
    /// The data file system's device.
    pub data: Option<Device>,
    /// The machine's name.
    pub hostname: Option<String>,
}

/// How a block device is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// By the name of its GPT partition.
    Label(String),
    /// By its path.
    Path(String),
}

impl Device {
    /// `PARTLABEL=name` or a path; `none` is none.
    pub fn parse(text: &str) -> Option<Device> {
        match text.split_once('=') {
            Some(("PARTLABEL", label)) => Some(Device::Label(label.to_string())),
            _ if text.starts_with('/') => Some(Device::Path(text.to_string())),
            _ => None,
        }
    }
}

impl BootConf {
    /// Read the file's text.
    pub fn parse(text: &str) -> Result<BootConf, ConfError> {
        let mut conf = BootConf::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fail = |what: String| ConfError { line: number + 1, what };
            let (key, value) = line.split_once('=').ok_or_else(|| fail("expected key = value".into()))?;
            let value = value.trim();
            match key.trim() {
                "run" | "test" if words(value).is_empty() => return Err(fail("a program is missing".into())),
                "run" => conf.run.push(words(value)),
                "test" => conf.test = Some(words(value)),
                "data" => conf.data = Device::parse(value),
                "hostname" => conf.hostname = Some(value.to_string()),
                other => return Err(fail(format!("unknown key {other}; known: run, test, data, hostname"))),
            }
        }
        Ok(conf)
    }

    /// Let the kernel's command line have the last word.
    pub fn overridden(mut self, cmdline: &str) -> BootConf {
        if let Some(test) = parameter(cmdline, "ringpost.test") {
            self.test = Some(words(&test)).filter(|w| !w.is_empty());
        }
        if let Some(data) = parameter(cmdline, "ringpost.data") {
            self.data = Device::parse(&data);
        }
        self
    }
}

/// The value of `name=value` on a command line; quotes hold words together, the last one wins.
pub fn parameter(cmdline: &str, name: &str) -> Option<String> {
    let mut value = None;
    for word in words(cmdline) {
        if let Some(found) = word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) {
            value = Some(found.to_string());
        }
    }
    value
}

/// Split at spaces outside of double quotes; the quotes go.
pub fn words(text: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    for c in text.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                begun = true;
            }
            c if c.is_whitespace() && !quoted => {
                if begun {
                    all.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        all.push(word);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_becomes_values() {
        let text = "# x\nrun = /bin/ringpost run\nrun=/bin/b\n\ndata = PARTLABEL=data\nhostname = mx1\n";
        let conf = BootConf::parse(text).unwrap();
        assert_eq!(conf.run, [vec!["/bin/ringpost".to_string(), "run".into()], vec!["/bin/b".into()]]);
        assert_eq!(conf.data, Some(Device::Label("data".into())));
        assert_eq!((conf.hostname.as_deref(), conf.test), (Some("mx1"), None));
    }

    #[test]
    fn mistakes_name_their_line() {
        assert_eq!(BootConf::parse("run = /bin/a\nwalk = 1").unwrap_err().line, 2);
        assert_eq!(BootConf::parse("nothing").unwrap_err().line, 1);
        assert_eq!(BootConf::parse("test =").unwrap_err().line, 1);
    }

    #[test]
    fn the_command_line_wins() {
        let conf = BootConf::parse("data = none\ntest = /bin/a").unwrap();
        let cmdline = "console=ttyS0 ringpost.test=\"/bin/b -x 1\" ringpost.data=/dev/vda quiet\n";
        let conf = conf.overridden(cmdline);
        assert_eq!(conf.test, Some(vec!["/bin/b".into(), "-x".into(), "1".into()]));
        assert_eq!(conf.data, Some(Device::Path("/dev/vda".into())));
        assert_eq!(parameter(cmdline, "console").as_deref(), Some("ttyS0"));
        assert_eq!(parameter(cmdline, "root"), None);
    }

    #[test]
    fn quotes_hold_words_together() {
        assert_eq!(words(" a=\"b c\"  d\"\" \"\" "), ["a=b c", "d", ""]);
    }
}
