//! Runs programs in the root of the checkout: each is printed as a line that can be pasted into a shell, and
//! an exit code other than 0 is an error.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Result;

/// A program with its arguments and the environment variables that it gets beside ours.
pub(crate) struct Run {
    program: String,
    args: Vec<String>,
    envs: Vec<(&'static str, String)>,
}

impl Run {
    pub(crate) fn new(program: impl Into<String>) -> Self {
        Self { program: program.into(), args: Vec::new(), envs: Vec::new() }
    }

    /// `cargo` with arguments, given as one text split at blanks.
    pub(crate) fn cargo(args: &str) -> Self {
        Self::new("cargo").args(args.split_whitespace())
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.envs.push((name, value.into()));
        self
    }

    /// Runs it with our own standard streams.
    pub(crate) fn run(&self) -> Result {
        self.announce();
        let status = self.command().status().map_err(|e| self.not_started(&e))?;
        self.check(status)
    }

    /// Runs it silently; whether it succeeded. A program that is not there has not.
    pub(crate) fn succeeds(&self) -> bool {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Runs it and hands over each line of its output as it comes.
    pub(crate) fn lines(&self, mut line: impl FnMut(&str)) -> Result {
        self.announce();
        let mut child = self.command().stdout(Stdio::piped()).spawn().map_err(|e| self.not_started(&e))?;
        if let Some(output) = child.stdout.take() {
            // Lossy, because a test may print any bytes.
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while output.read_until(b'\n', &mut bytes)? > 0 {
                line(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
                bytes.clear();
            }
        }
        self.check(child.wait()?)
    }

    /// Runs it and returns its output.
    pub(crate) fn output(&self) -> Result<String> {
        let mut text = String::new();
        self.lines(|line| {
            text.push_str(line);
            text.push('\n');
        })?;
        Ok(text)
    }

    fn announce(&self) {
        eprintln!("    $ {self}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.envs.iter().map(|(name, value)| (name, value)));
        command.current_dir(root());
        command
    }

    fn not_started(&self, error: &std::io::Error) -> String {
        format!("`{}` did not start: {error}", self.program)
    }

    fn check(&self, status: std::process::ExitStatus) -> Result {
        if status.success() { Ok(()) } else { Err(format!("`{self}` ended with {status}").into()) }
    }
}

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.envs {
            write!(f, "{name}={} ", Quoted(value))?;
        }
        write!(f, "{}", Quoted(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", Quoted(arg))?;
        }
        Ok(())
    }
}

/// A word as a shell wants it.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        write!(f, "'{}'", self.0.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_printed_as_a_shell_takes_it() {
        let run = Run::cargo("doc --no-deps").env("RUSTDOCFLAGS", "-D warnings").arg("it's");
        assert_eq!(run.to_string(), r"RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'it'\''s'");
    }

    #[test]
    fn a_bad_exit_code_is_an_error_that_names_the_command() {
        let error = Run::new("sh").args(["-c", "exit 3"]).run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` ended with exit status: 3");
    }

    #[test]
    fn a_program_that_is_not_there_does_not_succeed_and_is_named() {
        let absent = Run::new("no-such-program-here");
        assert!(!absent.succeeds());
        assert!(absent.run().unwrap_err().to_string().contains("no-such-program-here"));
    }

    #[test]
    fn output_that_is_not_text_is_still_read_to_its_end() {
        let text = Run::new("printf").arg(r"a\377\nb\n").output().unwrap();
        assert_eq!(text, "a\u{fffd}\nb\n");
    }
}
