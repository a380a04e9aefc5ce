//! Cuts an input into numbered lines, with bounded memory, and hands over what has come without waiting for more.
//!
//! A blocking read cannot be called off, so it has a thread of its own, which the end of the program ends.

use std::io::{self, BufRead, BufReader, Read};
use std::{mem, thread};

use millstream::Bytes;
use tokio::sync::mpsc;

/// Bytes read at once; the lines of one read make a chunk.
const BUFFER: usize = 64 << 10;
/// Chunks read ahead.
const AHEAD: usize = 4;

/// A line without its end (`\n` or `\r\n`).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The first is 1.
    pub(crate) number: u64,
    pub(crate) bytes: Bytes,
}

/// What comes out of an input. After an end nothing comes.
#[derive(Debug)]
pub(crate) enum Chunk {
    Lines(Vec<Line>),
    /// The input is over, and had so many lines.
    End(u64),
    /// A line is longer than allowed: the first one not handed over.
    TooLong(u64),
    /// The input broke behind so many lines.
    Broken(u64, io::Error),
}

/// Starts reading. Lines up to `skip` are counted and left out.
pub(crate) fn read(input: impl Read + Send + 'static, skip: u64, limit: usize) -> mpsc::Receiver<Chunk> {
    let (to, chunks) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let mut lines = Lines::new(input, skip, limit);
        loop {
            let chunk = lines.next_chunk();
            let last = !matches!(chunk, Chunk::Lines(_));
            // Nobody listens any more: the command ended early.
            if to.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    });
    chunks
}

struct Lines<R> {
    input: BufReader<R>,
    cut: Cut,
    ended: bool,
}

/// The lines so far.
struct Cut {
    skip: u64,
    limit: usize,
    /// Lines that are complete.
    complete: u64,
    /// The beginning of the next one; left empty in lines that are skipped.
    partial: Vec<u8>,
    /// Whether bytes of the next line have come.
    begun: bool,
    /// Whether the next line is longer than allowed: nothing comes after that.
    too_long: bool,
    lines: Vec<Line>,
}

impl<R: Read> Lines<R> {
    fn new(input: R, skip: u64, limit: usize) -> Self {
        let cut = Cut {
            skip,
            limit,
            complete: 0,
            partial: Vec::new(),
            begun: false,
            too_long: false,
            lines: Vec::new(),
        };
        Self { input: BufReader::with_capacity(BUFFER, input), cut, ended: false }
    }

    /// The lines that end in the next bytes that come, or why there are none.
    fn next_chunk(&mut self) -> Chunk {
        loop {
            if !self.cut.lines.is_empty() {
                return Chunk::Lines(mem::take(&mut self.cut.lines));
            }
            if self.cut.too_long {
                return Chunk::TooLong(self.cut.complete + 1);
            }
            if self.ended {
                return Chunk::End(self.cut.complete);
            }
            let taken = match self.input.fill_buf() {
                Ok(buffer) => {
                    self.cut.bytes(buffer);
                    buffer.len()
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Chunk::Broken(self.cut.complete, error),
            };
            self.input.consume(taken);
            if taken == 0 {
                self.ended = true;
                self.cut.end();
            }
        }
    }
}

impl Cut {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            self.finish();
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, bytes: &[u8]) {
        self.begun |= !bytes.is_empty();
        if self.complete < self.skip || self.too_long {
            return;
        }
        self.partial.extend_from_slice(bytes);
        // One more than allowed may be the `\r` of its end.
        self.too_long = self.partial.len() > self.limit + 1;
    }

    /// The next line is complete.
    fn finish(&mut self) {
        if self.complete >= self.skip {
            let line = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
            self.too_long |= line.len() > self.limit;
            if self.too_long {
                return;
            }
            let bytes = Bytes::copy_from_slice(line);
            self.lines.push(Line { number: self.complete + 1, bytes });
            self.partial.clear();
        }
        self.complete += 1;
        self.begun = false;
    }

    /// The input is over; its last line may lack its end.
    fn end(&mut self) {
        if self.begun {
            self.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its parts one a read.
    struct Parts(Vec<&'static [u8]>);

    impl Read for Parts {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            into[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    fn lines(chunk: &Chunk) -> Vec<(u64, &str)> {
        match chunk {
            Chunk::Lines(lines) => {
                lines.iter().map(|l| (l.number, std::str::from_utf8(&l.bytes).unwrap())).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_numbered_and_handed_over_as_they_come() {
        let mut input = Lines::new(Parts(vec![b"one\r\ntw", b"o\n\nfo", b"ur"]), 0, 100);
        assert_eq!(lines(&input.next_chunk()), [(1, "one")]);
        assert_eq!(lines(&input.next_chunk()), [(2, "two"), (3, "")]);
        assert_eq!(lines(&input.next_chunk()), [(4, "four")], "also without an end");
        assert!(matches!(input.next_chunk(), Chunk::End(4)));
    }

    #[test]
    fn a_line_that_is_too_long_is_named_behind_those_before_it_and_not_kept_in_memory() {
        let mut input = Lines::new(Parts(vec![b"ok\nlonger than ten", b" and longer", b"\n"]), 0, 10);
        assert_eq!(lines(&input.next_chunk()), [(1, "ok")]);
        assert!(matches!(input.next_chunk(), Chunk::TooLong(2)));

        let mut input = Lines::new(Parts(vec![b"ok\nlonger than ten\nok\n"]), 0, 10);
        assert_eq!(lines(&input.next_chunk()), [(1, "ok")]);
        assert!(matches!(input.next_chunk(), Chunk::TooLong(2)));
    }

    #[test]
    fn a_line_may_be_as_long_as_allowed() {
        let mut input = Lines::new(Parts(vec![b"0123456789\r", b"\n"]), 0, 10);
        let chunk = input.next_chunk();
        assert_eq!(lines(&chunk), [(1, "0123456789")]);
    }

    #[test]
    fn skipped_lines_are_counted_and_may_be_of_any_length() {
        let mut input = Lines::new(Parts(vec![b"longer than ten", b" bytes\n2\n3\n"]), 2, 10);
        assert_eq!(lines(&input.next_chunk()), [(3, "3")]);
        assert!(matches!(input.next_chunk(), Chunk::End(3)));

        let mut input = Lines::new(Parts(vec![b"1\n2"]), 2, 10);
        assert!(matches!(input.next_chunk(), Chunk::End(2)), "the last one counts without its end");
    }

    #[test]
    fn a_broken_input_says_behind_how_many_lines() {
        struct Breaks(bool);
        impl Read for Breaks {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if mem::replace(&mut self.0, true) {
                    return Err(io::Error::other("the disk is gone"));
                }
                into[..4].copy_from_slice(b"1\n2\n");
                Ok(4)
            }
        }
        let mut input = Lines::new(Breaks(false), 0, 10);
        assert_eq!(lines(&input.next_chunk()), [(1, "1"), (2, "2")]);
        assert!(matches!(input.next_chunk(), Chunk::Broken(2, _)));
    }
}
