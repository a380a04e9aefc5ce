//! Hostile bytes: keys, payloads and headers that have broken some driver somewhere.

use std::time::{Duration, UNIX_EPOCH};

use millstream_core::{Limits, Message};

use super::World;

/// A message for each hostile thing, with what it is. All within [`Limits`] and the writer's own.
pub(super) fn hostile(world: &World) -> Vec<(&'static str, Message)> {
    let limits = Limits::default();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let mut corpus = Vec::new();
    let mut add = |what, change: &dyn Fn(&mut Message)| {
        let mut message = world.message("plain");
        change(&mut message);
        corpus.push((what, message));
    };
    add("a tombstone", &|m| m.data = None);
    add("an empty payload", &|m| m.data = Some("".into()));
    add("a payload of every byte", &|m| m.data = Some(all_bytes.clone().into()));
    add("a payload of NULs", &|m| m.data = Some(vec![0; 100].into()));
    add("a payload that is not UTF-8", &|m| m.data = Some(vec![0xff, 0xfe, 0xc0, 0x80].into()));
    add("a payload with outer white space", &|m| m.data = Some(" \t\r\n text \n".into()));
    add("a payload of characters XML forbids", &|m| m.data = Some("\u{1}\u{fffe}\u{ffff}\u{10ffff}".into()));
    add("a payload over 64 KiB", &|m| m.data = Some(vec![b'x'; (64 << 10) + 1].into()));
    add("a payload over 128 KiB", &|m| m.data = Some(all_bytes.repeat(513).into()));
    add("the largest payload", &|m| m.data = Some(vec![7; limits.payload].into()));
    add("no key", &|m| m.key = None);
    add("an empty key", &|m| m.key = Some("".into()));
    add("a key of NUL", &|m| m.key = Some(vec![0].into()));
    add("a key that is not UTF-8", &|m| m.key = Some(vec![0xff, 0x80, b'k'].into()));
    add("a key right to left, with emoji", &|m| m.key = Some("שלום \u{202e} 🦀👩‍👩‍👧".into()));
    add("a key that looks like a path", &|m| m.key = Some("../a//b?c=d&e=%00#f".into()));
    add("a key with outer white space", &|m| m.key = Some("  k\r\n".into()));
    add("the longest key", &|m| m.key = Some(vec![b'k'; limits.key].into()));
    add("no headers", &|m| m.headers.clear());
    add("a header that is null", &|m| m.headers.append_null("nothing"));
    add("a header that is empty", &|m| m.headers.append("empty", ""));
    add("a header of every byte", &|m| m.headers.append("bytes", all_bytes.clone()));
    add("a header with outer white space", &|m| m.headers.append("spaces", "  value \t"));
    add("header names that differ in case", &|m| {
        m.headers.append("Mixed-Case", "1");
        m.headers.append("mixed-case", "2");
    });
    add("headers of one name, in order", &|m| {
        ["b", "a", "b"].into_iter().for_each(|v| m.headers.append("again", v));
    });
    add("a header name with Unicode", &|m| m.headers.append("größe 🦀", "1"));
    add("a header with line breaks", &|m| m.headers.append("lines", "a\r\nInjected: b"));
    add("as many headers as there may be", &|m| {
        m.headers.clear();
        (0..limits.headers).for_each(|n| m.headers.append(format!("h{n}"), n.to_string()));
    });
    add("a long header name and value", &|m| {
        m.headers.append("n".repeat(limits.header_name), vec![b'v'; limits.header_bytes / 2]);
    });
    add("no content type", &|m| m.content_type = "".into());
    add("a strange content type", &|m| m.content_type = "Application/X; q=\"ü, ;\"".into());
    add("a time before the epoch's first second is over", &|m| {
        m.time = UNIX_EPOCH + Duration::from_millis(1);
    });
    add("a time with milliseconds", &|m| m.time = UNIX_EPOCH + Duration::from_millis(1_764_000_000_123));
    let fits = world.writer_can().max_message.unwrap_or(usize::MAX);
    corpus.retain(|(_, m)| m.size() + m.topic.len() <= fits);
    corpus
}
