//! The URL that a driver is chosen and set by: it never shows its password, and its parts come back as they were.

use std::fmt::Write as _;

use millstream::ErrorKind;
use millstream::core::Endpoint;

use super::Target;
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("url", run, seeds);

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte().is_multiple_of(2) {
        any(&String::from_utf8_lossy(input.rest()));
    } else {
        built(&mut input);
    }
}

/// Any text.
fn any(text: &str) {
    let endpoint = match Endpoint::parse(text) {
        Ok(endpoint) => endpoint,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
            return;
        }
    };
    assert_eq!(endpoint.scheme(), endpoint.scheme().to_ascii_lowercase());
    assert_eq!(Endpoint::parse(text).expect("once more"), endpoint);
    for (name, value) in endpoint.params() {
        assert_eq!(endpoint.param(name), Some(value));
        assert_eq!(endpoint.parsed::<String>(name).expect("text is text").as_deref(), Some(value));
        let _ = endpoint.parsed::<u64>(name);
        assert!(endpoint.only_params(&[]).is_err());
    }
    let names: Vec<_> = endpoint.params().map(|(name, _)| name).collect();
    endpoint.only_params(&names).expect("these are the ones there are");
}

/// A URL of parts, which must be found in it again.
fn built(input: &mut Input<'_>) {
    let (user, password, path) = (input.text(), input.text(), input.text());
    let (name, value) = (input.text(), input.text());
    let url = format!(
        "scheme://{}:{}@host:1/{}?{}={}",
        encoded(&user),
        encoded(&password),
        encoded(&path),
        encoded(&name),
        encoded(&value)
    );
    let endpoint = Endpoint::parse(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
    assert_eq!((endpoint.user(), endpoint.password()), (Some(&*user), Some(&*password)));
    assert_eq!((endpoint.host(), endpoint.path()), ("host:1", &*format!("/{path}")));
    assert_eq!(endpoint.params().collect::<Vec<_>>(), [(&*name, &*value)]);
    // Neither the password nor a parameter's value is shown.
    let shown = format!("{endpoint} {endpoint:?}");
    let others = format!("scheme://{user}:***@host:1/{path}?{name} Endpoint()");
    for secret in [&password, &value] {
        assert!(secret.is_empty() || others.contains(&**secret) || !shown.contains(&**secret), "{shown}");
    }
}

/// Every byte that is no letter or digit as `%xx`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "memory://",
        "memory://name?capacity=10&bytes=1000",
        "sqlite://app.db?lease=5s",
        "sqlite:///var/lib/app.db",
        "KAFKA://ann:secret@localhost:9092,other:9092/prefix?client.id=a%20b",
        "nats://[::1]:4222?a&b=&c==",
        "amqp://u:p%40ss@h/%2f?x=%ff",
    ];
    let built =
        Seed::new().byte(1).bytes("ann").bytes("se:cr/et").bytes("a/b c").bytes("name").bytes("väl&ue");
    texts.into_iter().map(|text| Seed::new().byte(0).rest(text)).chain([built.done()]).collect()
}
