//! The command line: `FILE.json [--kills N [--url sqlite://FILE.db] [--program MILLSTREAM]]`.

use std::ffi::OsString;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// The flights.
    pub(crate) path: PathBuf,
    /// How often each process is killed; none: one process in memory, that nobody kills.
    pub(crate) kills: Option<u32>,
    /// The file for messages and sums; none: a new one, gone in the end.
    pub(crate) url: Option<String>,
    /// The program `millstream` that publishes them; none: this one does.
    pub(crate) program: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let (mut path, mut kills, mut url, mut program) = (None, None, None, None);
        while let Some(argument) = arguments.next() {
            let mut value = |name: &str| {
                let value = arguments.next().and_then(|value| value.into_string().ok());
                value.ok_or_else(|| format!("{name} needs a value"))
            };
            match argument.to_str() {
                Some(name @ "--kills") => {
                    let text = value(name)?;
                    kills = Some(text.parse().map_err(|_| format!("--kills takes a number, not {text:?}"))?);
                }
                Some(name @ "--url") => url = Some(value(name)?),
                Some(name @ "--program") => program = Some(PathBuf::from(value(name)?)),
                Some(other) if other.starts_with("--") => {
                    return Err(format!("there is no option {other}, only --kills, --url and --program"));
                }
                _ => path = Some(PathBuf::from(argument)),
            }
        }
        let path = path
            .ok_or("name the file: flights -- path/to/flights-200k.json (`cargo xtask data` fetches it)")?;
        // A file of messages means processes that can be killed; how often is then zero if it is not said.
        let kills = kills.or((url.is_some() || program.is_some()).then_some(0));
        Ok(Self { path, kills, url, program })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_may_stand_before_and_behind_the_file() {
        let (path, url) = ("f.json".into(), Some("sqlite://f.db".into()));
        let wanted = Arguments { path, kills: Some(3), url, program: None };
        assert_eq!(parse("f.json --kills 3 --url sqlite://f.db").as_ref(), Ok(&wanted));
        assert_eq!(parse("--url sqlite://f.db --kills 3 f.json"), Ok(wanted));
        assert_eq!(parse("f.json").map(|a| (a.kills, a.url)), Ok((None, None)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(parse("f.json --kills many").unwrap_err().contains("many"));
        assert!(parse("f.json --kill 3").unwrap_err().contains("no option --kill,"));
        assert!(parse("f.json --url").unwrap_err().contains("--url"));
        assert!(parse("--kills 3").unwrap_err().contains("cargo xtask data"), "how to get the file");
    }
}
