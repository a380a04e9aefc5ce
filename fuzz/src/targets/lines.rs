//! An input cut into lines, however its bytes come: with their ends they are the input again, and one that is too long
//! is named by its number.

use std::io::{self, Read};

use super::Target;
use crate::input::{Input, Seed};
use crate::ours::lines::{Chunk, read};

pub(super) const TARGET: Target = Target::new("lines", run, seeds);

/// Gives its bytes in parts of a size.
struct Parts {
    bytes: Vec<u8>,
    at: usize,
    size: usize,
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = &self.bytes[self.at..];
        let count = left.len().min(into.len()).min(self.size);
        into[..count].copy_from_slice(&left[..count]);
        self.at += count;
        Ok(count)
    }
}

fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let size = 1 + usize::from(input.byte());
    let skip = u64::from(input.byte() % 4);
    let limit = usize::from(input.byte());
    let bytes = input.rest().to_vec();
    // The end of the last line may be missing; behind it is no empty line.
    let mut expected: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if expected.last().is_some_and(|last| last.is_empty()) {
        expected.pop();
    }
    let mut next = skip;
    let mut chunks = read(Parts { bytes: bytes.clone(), at: 0, size }, skip, limit);
    loop {
        match chunks.blocking_recv().expect("it ends with an end") {
            Chunk::Lines(lines) => {
                for line in lines {
                    assert_eq!(line.number, next + 1);
                    let whole = expected[next as usize];
                    assert_eq!(&line.bytes[..], whole.strip_suffix(b"\r").unwrap_or(whole));
                    assert!(line.bytes.len() <= limit);
                    next += 1;
                }
            }
            Chunk::End(lines) => {
                assert_eq!(lines, expected.len() as u64);
                assert!(next == lines || lines <= skip, "{next} of {lines}");
                return;
            }
            Chunk::TooLong(line) => {
                assert_eq!(line, next + 1);
                let whole = expected[next as usize];
                assert!(whole.strip_suffix(b"\r").unwrap_or(whole).len() > limit);
                return;
            }
            Chunk::Broken(..) => panic!("it does not break"),
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let head = |size, skip, limit| Seed::new().byte(size).byte(skip).byte(limit);
    vec![
        head(3, 0, 100).rest("one\r\ntwo\n\nfour"),
        head(0, 1, 10).rest("longer than ten bytes\n0123456789\r\n"),
        head(200, 0, 10).rest("ok\nlonger than ten bytes\nok\n"),
        head(5, 3, 0).rest("\n\r\n\r\r\n"),
    ]
}
