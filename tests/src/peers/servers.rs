//! Real receivers, each the way it may be reached; what they keep is compared with what was fed into Ringpost.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::clients::feed;
use super::letters::{arrived, exact, letters, with_crlf, Keeps};
use super::place::{finish, free_port, Place, Process};
use super::ringpost::Ringpost;
use super::{verdict, Options, Row, Tls, Verdict};

/// A receiver that listens one way.
pub(super) struct Server {
    pub name: &'static str,
    /// Mail for this domain is routed there.
    pub domain: String,
    pub tls: Tls,
    pub port: u16,
    /// Where it keeps what came.
    pub folder: PathBuf,
    pub keeps: Keeps,
    /// It offers no 8BITMIME: content arrives converted.
    seven_bit: bool,
    state: State,
}

enum State {
    Running(Vec<std::rc::Rc<Process>>),
    Missing(String),
    Failed(String),
}

const FULL: &[&str] = &["PIPELINING", "SIZE 10000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
const CHUNKS: &[&str] = &["PIPELINING", "CHUNKING", "BINARYMIME", "8BITMIME", "DSN", "ENHANCEDSTATUSCODES"];
const PLAIN: &[&str] = &["SIZE"];

/// Starts all receivers. One that can't be had stays in the list with the reason.
pub(super) fn start(place: &Place, options: &Options) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for tls in Tls::ALL {
        servers.push(python(place, "python", tls, FULL)?);
    }
    servers.push(python(place, "python-bdat", Tls::Starttls, CHUNKS)?);
    servers.push(python(place, "python-7bit", Tls::Clear, PLAIN)?);
    if options.wants("ringpost -> smtp-sink") {
        servers.push(smtp_sink(place)?);
    }
    if options.wants("ringpost -> postfix") {
        servers.extend(three(place, "postfix", postfix)?);
    }
    if options.wants("ringpost -> exim") {
        servers.extend(three(place, "exim", exim)?);
    }
    Ok(servers)
}

/// Every receiver, every way.
pub(super) fn play(
    place: &Place,
    options: &Options,
    ringpost: &Ringpost,
    servers: &[Server],
    tell: &mut dyn FnMut(Row),
) {
    for server in servers {
        let pair = format!("ringpost -> {}", server.name);
        if !options.wants(&pair) {
            continue;
        }
        let verdict = match &server.state {
            State::Missing(why) => Verdict::Missing(why.clone()),
            State::Failed(why) => Verdict::Failed(why.clone()),
            State::Running(processes) => verdict(deliver(place, ringpost, server).with_context(|| {
                let said: Vec<String> = processes.iter().map(|process| process.said()).collect();
                format!("ringpost: {}; {}: {}", ringpost.said(), server.name, said.join(" "))
            })),
        };
        tell(Row { pair, tls: server.tls, verdict });
    }
}

fn deliver(place: &Place, ringpost: &Ringpost, server: &Server) -> Result<String> {
    let all = letters(&format!("{}.{}", server.name, server.tls.word()));
    let to = format!("one@{0},two@{0}", server.domain);
    for letter in &all {
        feed(place, ringpost, letter, &to).with_context(|| letter.name)?;
    }
    let mut checked = Vec::new();
    for letter in &all {
        let got = arrived(&server.folder, &letter.id, server.keeps).with_context(|| letter.name)?;
        let path = place.path(&format!("got-{}.eml", letter.id));
        std::fs::write(&path, &got)?;
        checked.push(path);
        if server.seven_bit && !letter.bytes.is_ascii() {
            ensure!(got.is_ascii(), "{}: 8-bit bytes at a site that takes none", letter.name);
            let decoded = decoded_body(&got);
            let wanted = letter.bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| &letter.bytes[at + 4..]);
            ensure!(decoded.as_deref() == wanted, "{}: decodes to something else", letter.name);
            continue;
        }
        exact(&letter.bytes, &got, true).with_context(|| letter.name)?;
    }
    verify(place, ringpost, &checked)?;
    Ok(format!("{} messages, signatures verified by dkimpy", all.len()))
}

fn decoded_body(message: &[u8]) -> Option<Vec<u8>> {
    let message = mail_parser::MessageParser::default().parse(message)?;
    let part = message.parts.first()?;
    let raw = message.raw_message.get(part.offset_body as usize..part.offset_end as usize)?;
    mail_parser::decoders::quoted_printable::quoted_printable_decode(raw).map(|text| with_crlf(&text))
}

fn verify(place: &Place, ringpost: &Ringpost, files: &[PathBuf]) -> Result<()> {
    let mut command = Command::new("python3");
    command.arg(place.path("receiver.py")).arg("verify").arg(&ringpost.records).args(files);
    let said = finish(command, "dkimpy")?;
    let right = said.lines().filter(|line| line.ends_with(" right")).count();
    ensure!(right == files.len(), "{right} of {} signatures verify: {}", files.len(), said.trim());
    Ok(())
}

fn server(name: &'static str, tls: Tls, port: u16, folder: PathBuf, keeps: Keeps) -> Server {
    let domain = format!("{name}-{}.test", tls.word());
    Server { name, domain, tls, port, folder, keeps, seven_bit: false, state: State::Running(Vec::new()) }
}

fn state(started: Result<Process>) -> State {
    match started {
        Ok(process) => State::Running(vec![std::rc::Rc::new(process)]),
        Err(error) => State::Failed(format!("{error:#}")),
    }
}

fn python(place: &Place, name: &'static str, tls: Tls, extensions: &[&str]) -> Result<Server> {
    let port = free_port()?;
    let folder = place.folder(&format!("{name}-{}", tls.word()))?;
    let mut command = Command::new("python3");
    let word = tls.word().replace("clear", "none");
    command.arg(place.path("receiver.py")).args([port.to_string(), word]);
    command.args([place.path("cert.pem"), place.path("key.pem"), folder.clone()]).args(extensions);
    let process = place.start(&format!("{name}-{}", tls.word()), command, port);
    let seven_bit = !extensions.contains(&"8BITMIME");
    Ok(Server { seven_bit, state: state(process), ..server(name, tls, port, folder, Keeps::Wire) })
}

/// Postfix unpacked, not installed: smtp-source and smtp-sink come in the same package.
pub(super) fn postfix_package(place: &Place) -> Result<PathBuf> {
    place.package("postfix", &["postfix"], "usr/lib/postfix/sbin/master")
}

fn smtp_sink(place: &Place) -> Result<Server> {
    let (port, folder) = (free_port()?, place.folder("smtp-sink")?);
    let package = match postfix_package(place) {
        Ok(package) => package,
        Err(error) => return Ok(missing("smtp-sink", Tls::Clear, &error)),
    };
    let mut command = Command::new(package.join("usr/sbin/smtp-sink"));
    command.env("LD_LIBRARY_PATH", package.join("usr/lib/postfix")).current_dir(&folder);
    // Rights are given up for a user that every Debian has.
    command.args(["-u", "root", "-d", "%M."]).arg(format!("inet:127.0.0.1:{port}")).arg("100");
    let process = place.start("smtp-sink", command, port);
    Ok(Server { state: state(process), ..server("smtp-sink", Tls::Clear, port, folder, Keeps::LinesAndOne) })
}

fn missing(name: &'static str, tls: Tls, error: &anyhow::Error) -> Server {
    let state = State::Missing(format!("{error:#}"));
    Server { state, ..server(name, tls, 9, PathBuf::new(), Keeps::Lines) }
}

/// Starts one server that listens three ways.
type StartThree = fn(&Place, &Path, [u16; 3]) -> Result<(Process, PathBuf)>;

fn three(place: &Place, name: &'static str, start: StartThree) -> Result<Vec<Server>> {
    let package = match name {
        "postfix" => postfix_package(place),
        _ => place.package("exim4", &["exim4-daemon-light", "libidn12"], "usr/sbin/exim4"),
    };
    let package = match package {
        Ok(package) => package,
        Err(error) => return Ok(Tls::ALL.iter().map(|tls| missing(name, *tls, &error)).collect()),
    };
    let ports = [free_port()?, free_port()?, free_port()?];
    let started = start(place, &package, ports).map(|(process, folder)| (std::rc::Rc::new(process), folder));
    let one = |(tls, port): (Tls, u16)| match &started {
        Ok((process, folder)) => Server {
            state: State::Running(vec![std::rc::Rc::clone(process)]),
            ..server(name, tls, port, folder.clone(), Keeps::Lines)
        },
        Err(error) => Server {
            state: State::Failed(format!("{error:#}")),
            ..server(name, tls, port, PathBuf::new(), Keeps::Lines)
        },
    };
    Ok(Tls::ALL.into_iter().zip(ports).map(one).collect())
}

/// Own configuration, own queue; `news` and `staff` of the base system stand for Postfix's own user and group.
fn postfix(place: &Place, package: &Path, ports: [u16; 3]) -> Result<(Process, PathBuf)> {
    let dir = place.folder("postfix")?;
    let mail = place.folder("postfix-mail")?;
    let (dir_text, mail_text, package_text) = (dir.display(), mail.display(), package.display());
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {dir_text}/queue\ndata_directory = {dir_text}/data\n\
         command_directory = {package_text}/usr/sbin\ndaemon_directory = {package_text}/usr/lib/postfix/sbin\n\
         meta_directory = {dir_text}/meta\nshlib_directory = no\nmail_owner = news\nsetgid_group = staff\n\
         default_privs = nobody\nimport_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LD_LIBRARY_PATH\n\
         export_environment = TZ MAIL_CONFIG LD_LIBRARY_PATH\nmyhostname = postfix.test\nmydestination =\n\
         alias_maps =\nalias_database =\nlocal_recipient_maps =\ninet_interfaces = 127.0.0.1\n\
         inet_protocols = ipv4\nmynetworks = 127.0.0.0/8\ndisable_dns_lookups = yes\nsmtpd_peername_lookup = no\n\
         smtpd_tls_cert_file = {cert}\nsmtpd_tls_key_file = {key}\nsmtpd_tls_security_level = none\n\
         tls_random_source = dev:/dev/urandom\nvirtual_mailbox_domains = static:all\n\
         virtual_mailbox_maps = static:box/\nvirtual_mailbox_base = {mail_text}\nvirtual_uid_maps = static:9\n\
         virtual_gid_maps = static:50\nvirtual_minimum_uid = 1\nvirtual_transport = virtual\n\
         smtpd_recipient_restrictions = permit_mynetworks, reject\nmaillog_file = {dir_text}/maillog\n\
         maillog_file_prefixes = {dir_text}\nmessage_size_limit = 0\nvirtual_mailbox_limit = 0\n",
        cert = place.text("cert.pem"),
        key = place.text("key.pem"),
    );
    let [clear, starttls, implicit] = ports;
    let master = format!(
        "127.0.0.1:{clear} inet n - n - - smtpd\n\
         127.0.0.1:{starttls} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt\n\
         127.0.0.1:{implicit} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt -o smtpd_tls_wrappermode=yes\n\
         postlog unix-dgram n - n - 1 postlogd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\ntlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\n\
         bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\n\
         verify unix - - n - 1 verify\nproxymap unix - - n - - proxymap\nproxywrite unix - - n - 1 proxymap\n\
         virtual unix - n n - - virtual\nsmtp unix - - n - - smtp\nerror unix - - n - - error\n\
         retry unix - - n - - error\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n"
    );
    place.write("postfix/etc/main.cf", &main)?;
    place.write("postfix/etc/master.cf", &master)?;
    let prepare = format!(
        "set -e; cd {dir_text}; mkdir -p queue data meta; cd queue\n\
         mkdir -p active bounce corrupt defer deferred flush hold incoming maildrop pid private public saved trace\n\
         chown root . pid\n\
         chown news active bounce corrupt defer deferred flush hold incoming private saved trace ../data\n\
         chown news:staff maildrop public {mail_text}\n\
         chmod 700 active bounce corrupt defer deferred flush hold incoming private saved trace\n\
         chmod 730 maildrop; chmod 710 public"
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &prepare]);
    finish(shell, "preparing Postfix's folders (it needs root)")?;
    let mut command = Command::new(package.join("usr/lib/postfix/sbin/master"));
    command.env("LD_LIBRARY_PATH", package.join("usr/lib/postfix")).arg("-c").arg(dir.join("etc")).arg("-d");
    let process = place.start("postfix", command, clear).with_context(|| {
        std::fs::read_to_string(dir.join("maillog")).unwrap_or_default().lines().last().unwrap_or_default().to_owned()
    })?;
    let new = mail.join("box/new");
    std::fs::create_dir_all(&new)?;
    for folder in ["box", "box/new", "box/tmp", "box/cur"] {
        std::fs::create_dir_all(mail.join(folder))?;
        std::os::unix::fs::chown(mail.join(folder), Some(9), Some(50))?;
    }
    Ok((process, new))
}

/// Exim is built for a user of its own: it sees one in a mount namespace, and the system's files stay as they are.
fn exim(place: &Place, package: &Path, ports: [u16; 3]) -> Result<(Process, PathBuf)> {
    let dir = place.folder("exim")?;
    let [clear, starttls, implicit] = ports;
    let config = format!(
        "primary_hostname = exim.test\nexim_path = {binary}\nkeep_environment =\n\
         spool_directory = {spool}\n\
         log_file_path = {spool}/%slog\n\
         daemon_smtp_ports = {clear} : {starttls} : {implicit}\nlocal_interfaces = 127.0.0.1\n\
         tls_on_connect_ports = {implicit}\n\
         tls_advertise_hosts = ${{if eq{{$received_port}}{{{clear}}}{{}}{{*}}}}\n\
         tls_certificate = {cert}\ntls_privatekey = {key}\nacl_smtp_rcpt = rcpt\nacl_smtp_data = data\n\
         dkim_verify_signers =\n\
         host_lookup =\nrfc1413_hosts =\nchunking_advertise_hosts = *\nsmtp_accept_max = 0\n\
         smtp_accept_queue_per_connection = 0\nmessage_size_limit = 0\n\
         disable_ipv6 = true\nqueue_only = false\nnever_users =\n\
         begin acl\nrcpt:\n\
         \x20 accept condition = ${{if or{{{{eq{{$received_port}}{{{clear}}}}}{{def:tls_in_cipher}}}}}}\ndata:\n\
         \x20  accept\n\
         begin routers\nall:\n  driver = accept\n  transport = box\n  unseen = no\n\
         begin transports\nbox:\n  driver = appendfile\n  directory = {mail}\n  maildir_format\n  create_directory\n\
         \x20 message_prefix =\n  message_suffix =\n  user = mail\n  group = mail\n  mode = 0644\n\
         \x20 directory_mode = 0755\n",
        binary = package.join("usr/sbin/exim4").display(),
        spool = dir.join("spool").display(),
        mail = dir.join("mail").display(),
        cert = place.text("cert.pem"),
        key = place.text("key.pem"),
    );
    let config = place.write("exim/exim.conf", &config)?;
    let passwd = std::fs::read_to_string("/etc/passwd")? + "Debian-exim:x:8:8::/nonexistent:/usr/sbin/nologin\n";
    let group = std::fs::read_to_string("/etc/group")? + "Debian-exim:x:8:\n";
    let (passwd, group) = (place.write("exim/passwd", &passwd)?, place.write("exim/group", &group)?);
    std::fs::create_dir_all(dir.join("mail/new"))?;
    for folder in ["mail", "mail/new", "mail/cur", "mail/tmp", "spool"] {
        std::fs::create_dir_all(dir.join(folder))?;
        std::os::unix::fs::chown(dir.join(folder), Some(8), Some(8))?;
    }
    // It is set-uid: it takes libraries only from where the system's cache says, and a configuration only from where
    // it was built to look.
    let script = format!(
        "set -e; ldconfig -C {cache} {libraries}; mount --bind {cache} /etc/ld.so.cache\n\
         mount --bind {passwd} /etc/passwd; mount --bind {group} /etc/group; mount -t tmpfs none /var/lib\n\
         mkdir /var/lib/exim4; cp {config} /var/lib/exim4/config.autogenerated; exec {exim} -bdf -q1m",
        cache = dir.join("ld.so.cache").display(),
        libraries = package.join("usr/lib/x86_64-linux-gnu").display(),
        passwd = passwd.display(),
        group = group.display(),
        config = config.display(),
        exim = package.join("usr/sbin/exim4").display(),
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]);
    Ok((place.start("exim", command, clear)?, dir.join("mail/new")))
}
