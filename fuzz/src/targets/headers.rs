//! Headers against a plain list: nothing is lost, reordered or mixed up, whatever is done to them.
use millstream::Headers;

use super::Target;
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("headers", run, seeds);

type Plain = Vec<(String, Option<Vec<u8>>)>;

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut headers, mut plain) = (Headers::new(), Plain::new());
    while !input.is_empty() {
        let deed = input.byte() % 8;
        let name = input.text();
        match deed {
            0..=2 => {
                let value = input.bytes().to_vec();
                headers.append(&*name, value.clone());
                plain.push((name, Some(value)));
            }
            3 => {
                headers.append_null(&*name);
                plain.push((name, None));
            }
            4 => {
                let value = input.bytes().to_vec();
                headers.insert(&*name, value.clone());
                plain.retain(|(n, _)| *n != name);
                plain.push((name, Some(value)));
            }
            5 => {
                let value = input.bytes().to_vec();
                headers.insert_if_absent(&*name, value.clone());
                if plain.iter().all(|(n, _)| *n != name) {
                    plain.push((name, Some(value)));
                }
            }
            6 => {
                let before = plain.len();
                plain.retain(|(n, _)| *n != name);
                assert_eq!(headers.remove(&name), before - plain.len());
            }
            _ => {
                headers.remove_prefix(&name);
                plain.retain(|(n, _)| !n.starts_with(&*name));
            }
        }
    }
    same(&headers, &plain);
}

fn same(headers: &Headers, plain: &Plain) {
    let listed: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.map(|v| v.to_vec()))).collect();
    assert_eq!(listed, *plain);
    assert_eq!((headers.len(), headers.is_empty()), (plain.len(), plain.is_empty()));
    let bytes: usize = plain.iter().map(|(n, v)| n.len() + v.as_ref().map_or(0, Vec::len)).sum();
    assert_eq!(headers.size(), bytes);
    for (name, _) in plain {
        let last = plain.iter().rev().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
        assert_eq!(headers.get(name).map(|v| &v[..]), last, "the last one counts");
        assert_eq!(headers.get_str(name), last.and_then(|v| std::str::from_utf8(v).ok()));
        assert!(headers.contains(name));
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let added = Seed::new().byte(0).bytes("tenant").bytes("acme").byte(1).bytes("tag").bytes("a");
    let repeated = added.clone().byte(0).bytes("tag").bytes([0xff, 0]).byte(3).bytes("nothing");
    vec![
        added.done(),
        repeated.clone().byte(4).bytes("tag").bytes("b").byte(5).bytes("tag").bytes("c").done(),
        repeated.clone().byte(6).bytes("tag").done(),
        repeated.byte(7).bytes("t").done(),
    ]
}
