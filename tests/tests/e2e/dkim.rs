//! What leaves is signed, and a verifier that never saw our code agrees.

use std::collections::HashMap;

use harness::client::message;
use harness::daemon::Setup;
use harness::receiver::{Manners, Receiver};
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};

on_both!(what_arrives_is_signed_by_the_key_in_the_record);

/// The TXT records of a test.
struct Records(HashMap<Box<str>, Txt>);

impl ResolverCache<Box<str>, Txt> for Records {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        self.0.get(name).cloned()
    }

    fn remove<Q>(&self, _name: &Q) -> Option<Txt>
    where
        Box<str>: std::borrow::Borrow<Q>,
        Q: std::hash::Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _key: Box<str>, _value: Txt, _valid_until: std::time::Instant) {}
}

fn verified(message: &[u8], records: &Records) -> Vec<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        // The resolver of the library is never asked: the record is in the cache.
        let authenticator = MessageAuthenticator::new_cloudflare().unwrap();
        let parsed = AuthenticatedMessage::parse(message).expect("a message");
        let outputs = authenticator.verify_dkim(Parameters::new(&parsed).with_txt_cache(records)).await;
        outputs.iter().map(|output| *output.result() == DkimResult::Pass).collect()
    })
}

fn what_arrives_is_signed_by_the_key_in_the_record(driver: &str) {
    let receiver = Receiver::start(Manners::default());
    let old = Receiver::start(Manners::default().offering(&[]));
    let setup = Setup::new(driver).route("old.test", &[old.address()]).route("*", &[receiver.address()]).with(
        "[[dkim]]\ndomain = \"sender.test\"\nselector = \"s1\"\nkey = \"@dir@/dkim/s1.pem\"\n\
         [[dkim]]\ndomain = \"sender.test\"\nselector = \"s2\"\nkey = \"@dir@/dkim/s2.pem\"\n",
    );
    std::fs::create_dir_all(setup.dir().join("dkim")).unwrap();
    let ed25519 = mta::message::key::generate_ed25519().unwrap();
    std::fs::write(setup.dir().join("dkim/s1.pem"), ed25519.pem).unwrap();
    let daemon = setup.start();
    // The first key was given, the second is made in a lab, with its record beside it.
    let made = std::fs::read_to_string(setup.dir().join("dkim/s2.dns.txt")).expect("the record of a new key");
    let (name, second) = made.trim().split_once(' ').expect("a name and a record");
    assert_eq!(name, "s2._domainkey.sender.test");
    let record = |text: &str| Txt::DomainKey(std::sync::Arc::new(DomainKey::parse(text.as_bytes()).unwrap()));
    let mut records = HashMap::new();
    records.insert("s1._domainkey.sender.test.".into(), record(&ed25519.record));
    records.insert("s2._domainkey.sender.test.".into(), record(second));
    let records = Records(records);

    let mut sent = message("signed", "trailing blanks  \r\n\r\n.\r\nGr\u{fc}\u{df}e\r\n\r\n");
    let head = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n";
    sent.splice(0..0, head.iter().copied());
    let to = ["<b@inbox.test>".to_owned(), "<b@old.test>".to_owned()];
    daemon.client().send_with("<a@sender.test> BODY=8BITMIME", &to, &sent).unwrap().expect(250);
    let arrived = &receiver.wait_messages(1)[0];
    assert!(arrived.text().starts_with("DKIM-Signature: "), "{}", arrived.text());
    assert_eq!(verified(&arrived.content, &records), [true, true]);
    let converted = &old.wait_messages(1)[0];
    assert_eq!(verified(&converted.content, &records), [true, true], "conversion comes before the signature");
    let mut changed = arrived.content.clone();
    let end = changed.len();
    changed.splice(end..end, b"more\r\n".iter().copied());
    assert_eq!(verified(&changed, &records), [false, false], "the verifier can say no");
}
