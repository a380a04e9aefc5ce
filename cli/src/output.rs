//! Writing to stdout without dying of a reader that went away.

use std::io::{self, BufWriter, Write};

use millstream::{Error, ErrorKind, Result};
use serde::Serialize;

/// Prints one JSON document, indented, with a line end.
pub(crate) fn document(value: &impl Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(&text),
        Err(error) => eprintln!("error: the report does not encode as JSON\n  caused by: {error}"),
    }
}

/// Prints a line or several. A closed pipe (`| head`) is no error of ours.
pub(crate) fn line(text: &str) {
    if let Err(error) = writeln!(io::stdout().lock(), "{text}")
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        eprintln!("error: stdout cannot be written\n  caused by: {error}");
    }
}

/// What became of something that was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Printed {
    /// It was handed over.
    Yes,
    /// Nobody reads any more: time to end.
    Closed,
}

/// The output of a command that prints as it goes and must know whether what it printed was taken.
pub(crate) struct Out<'a> {
    to: Box<dyn Write + Send + 'a>,
}

impl<'a> Out<'a> {
    /// Stdout.
    pub(crate) fn stdout() -> Self {
        Self { to: Box::new(BufWriter::with_capacity(64 << 10, io::stdout())) }
    }

    /// Another place, for tests.
    #[cfg(test)]
    pub(crate) fn to(to: impl Write + Send + 'a) -> Self {
        Self { to: Box::new(to) }
    }

    /// Adds a line; it leaves with the next [`flush`](Self::flush) at the latest.
    pub(crate) fn line(&mut self, text: &str) -> Result<Printed> {
        outcome(writeln!(self.to, "{text}"))
    }

    /// Adds a JSON document in one line.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<Printed> {
        let text = serde_json::to_string(value).map_err(|error| {
            Error::new(ErrorKind::Internal, "what is to be printed does not encode as JSON").source(error)
        })?;
        self.line(&text)
    }

    /// Hands over all that was added.
    pub(crate) fn flush(&mut self) -> Result<Printed> {
        outcome(self.to.flush())
    }
}

fn outcome(written: io::Result<()>) -> Result<Printed> {
    match written {
        Ok(()) => Ok(Printed::Yes),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::Closed),
        Err(error) => Err(Error::new(ErrorKind::Io, "stdout cannot be written")
            .fix("see the cause: the disk behind it may be full")
            .source(error)),
    }
}

/// Ready when stdout is a pipe that nobody reads any more, so that `tail … | head -n 1` ends with `head` and not
/// with the next message. Cancel safe.
#[cfg(unix)]
pub(crate) async fn reader_is_gone() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let stdout = io::stdout();
        let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Without events asked for, only an error is told: the other end is closed.
        if poll(&mut asked, Some(&at_once)).is_ok_and(|found| found > 0)
            && asked[0].revents().intersects(PollFlags::ERR | PollFlags::NVAL)
        {
            return;
        }
    }
}

#[cfg(not(unix))]
pub(crate) async fn reader_is_gone() {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fails(io::ErrorKind);

    impl Write for Fails {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_went_away_is_an_end_and_a_full_disk_is_an_error() {
        assert_eq!(Out::to(Fails(io::ErrorKind::BrokenPipe)).line("x").unwrap(), Printed::Closed);
        let error = Out::to(Fails(io::ErrorKind::StorageFull)).line("x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
    }
}
