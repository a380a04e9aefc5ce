//! What the processes of a record said, and when: what must be in an image, and what may be.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use millstream_disk::{NOTES, Record};

use super::handling::Group;

/// Says something in the record.
#[derive(Debug, Clone)]
pub(crate) enum Said {
    /// This id is about to be published.
    Publishing(String),
    /// It was confirmed.
    Published(String),
    /// The message at this place is about to be acknowledged in a group, or made a dead letter.
    Settling(Group, u64),
    /// It was confirmed.
    Settled(Group, u64),
    /// Every group has finished with this id: retention may delete it.
    MayExpire(String),
}

impl Said {
    fn line(&self) -> String {
        match self {
            Self::Publishing(id) => format!("publishing {id}\n"),
            Self::Published(id) => format!("published {id}\n"),
            Self::Settling(group, seq) => format!("settling {} {seq}\n", group.name()),
            Self::Settled(group, seq) => format!("settled {} {seq}\n", group.name()),
            Self::MayExpire(id) => format!("may-expire {id}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (what, first) = (words.next()?, words.next()?);
        Some(match what {
            "publishing" => Self::Publishing(first.into()),
            "published" => Self::Published(first.into()),
            "settling" => Self::Settling(Group::of(first)?, words.next()?.parse().ok()?),
            "settled" => Self::Settled(Group::of(first)?, words.next()?.parse().ok()?),
            "may-expire" => Self::MayExpire(first.into()),
            _ => return None,
        })
    }
}

/// Where a process says what it knows.
#[derive(Debug)]
pub(crate) struct Notes(File);

impl Notes {
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        Ok(Self(OpenOptions::new().append(true).open(folder.join(NOTES))?))
    }

    /// Says it in one note.
    pub(crate) fn say(&self, all: impl IntoIterator<Item = Said>) -> io::Result<()> {
        let text: String = all.into_iter().map(|said| said.line()).collect();
        if text.is_empty() {
            return Ok(());
        }
        (&self.0).write_all(text.as_bytes())
    }
}

/// All that was said, with its place in the record.
#[derive(Debug, Default)]
pub(crate) struct Story {
    publishing: HashMap<String, Vec<usize>>,
    published: HashMap<String, Vec<usize>>,
    settling: HashMap<(Group, u64), usize>,
    settled: HashMap<(Group, u64), usize>,
    may_expire: HashMap<String, usize>,
    /// Where something was confirmed.
    pub(crate) confirmations: Vec<usize>,
}

impl Story {
    pub(crate) fn of(record: &Record) -> Result<Self, String> {
        let mut story = Self::default();
        for (place, note) in record.notes() {
            let text = String::from_utf8_lossy(note);
            for line in text.lines() {
                let said = Said::parse(line).ok_or_else(|| format!("nobody says {line:?}"))?;
                story.add(place, said);
            }
        }
        story.confirmations.dedup();
        Ok(story)
    }

    fn add(&mut self, place: usize, said: Said) {
        match said {
            Said::Publishing(id) => self.publishing.entry(id).or_default().push(place),
            Said::Published(id) => {
                self.published.entry(id).or_default().push(place);
                self.confirmations.push(place);
            }
            // The first time counts: what was tried then may have happened.
            Said::Settling(group, seq) => drop(self.settling.entry((group, seq)).or_insert(place)),
            Said::Settled(group, seq) => {
                self.settled.entry((group, seq)).or_insert(place);
                self.confirmations.push(place);
            }
            Said::MayExpire(id) => drop(self.may_expire.entry(id).or_insert(place)),
        }
    }

    /// What was known before the change at this place.
    pub(crate) fn before(&self, place: usize) -> Known {
        let counts = |all: &HashMap<String, Vec<usize>>| -> HashMap<String, usize> {
            let counted =
                all.iter().map(|(id, places)| (id, places.iter().filter(|at| **at < place).count()));
            counted.filter(|(_, count)| *count > 0).map(|(id, count)| (id.clone(), count)).collect()
        };
        let set = |all: &HashMap<(Group, u64), usize>| {
            all.iter().filter(|(_, at)| **at < place).map(|(key, _)| *key).collect()
        };
        Known {
            publishing: counts(&self.publishing),
            published: counts(&self.published),
            settling: set(&self.settling),
            settled: set(&self.settled),
            may_expire: self
                .may_expire
                .iter()
                .filter(|(_, at)| **at < place)
                .map(|(id, _)| id.clone())
                .collect(),
        }
    }
}

/// What was known at a moment.
#[derive(Debug)]
pub(crate) struct Known {
    /// How often each id may be there at most.
    pub(crate) publishing: HashMap<String, usize>,
    /// And at least.
    pub(crate) published: HashMap<String, usize>,
    /// What may have come to its end, and what has.
    pub(crate) settling: HashSet<(Group, u64)>,
    pub(crate) settled: HashSet<(Group, u64)>,
    /// What retention may have deleted.
    pub(crate) may_expire: HashSet<String>,
}

#[cfg(test)]
mod tests {
    use millstream_disk::Change;

    use super::*;

    #[test]
    fn what_was_said_before_a_place_is_known_there_and_what_came_later_is_not() {
        let note = |all: &[Said]| {
            let text: String = all.iter().map(Said::line).collect();
            Change::Note(text.as_bytes().into())
        };
        let id = || "0.1-7".to_owned();
        let record = Record::of(vec![
            note(&[Said::Publishing(id()), Said::Publishing(id())]),
            note(&[Said::Published(id()), Said::Settling(Group::Once, 3)]),
            note(&[Said::Settled(Group::Once, 3)]),
        ]);
        let story = Story::of(&record).unwrap();
        assert_eq!(story.confirmations, [1, 2]);
        let known = story.before(1);
        assert_eq!((known.publishing[&id()], known.published.len(), known.settling.len()), (2, 0, 0));
        let known = story.before(2);
        assert_eq!(known.published[&id()], 1);
        assert!(known.settling.contains(&(Group::Once, 3)) && known.settled.is_empty());
        assert!(story.before(3).settled.contains(&(Group::Once, 3)));
    }

    #[test]
    fn what_nobody_says_is_refused() {
        let record = Record::of(vec![Change::Note((*b"settled nobody 1").into())]);
        assert!(Story::of(&record).is_err());
    }
}
