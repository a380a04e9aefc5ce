//! What a crate offers that is async, read off its sources: so that a test can say that nothing is forgotten.
//!
//! Sources are taken to be formatted by `rustfmt`: items of a file begin without indentation, those of an `impl` or
//! a trait with four spaces. Tests are left out.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

/// The async functions of the crate whose sources lie here, as `Owner::name`: methods of public traits and their
/// implementations under the trait's name, others under their type's, functions of no type under their own.
///
/// A function is async if it is declared so, or gives a `Future`.
///
/// # Errors
/// If the folder cannot be read.
pub fn async_functions(sources: &Path) -> io::Result<BTreeSet<String>> {
    let mut files = Vec::new();
    collect(sources, &mut files)?;
    let private: BTreeSet<String> = files.iter().flat_map(|text| private_traits(text)).collect();
    Ok(files.iter().flat_map(|text| in_file(text, &private)).collect())
}

/// Those of them that are not among the covered ones. `DynWriter::write` is covered by `Writer::write`.
///
/// # Errors
/// If the folder cannot be read.
pub fn uncovered<'a>(
    sources: &Path,
    covered: impl IntoIterator<Item = &'a str>,
) -> io::Result<BTreeSet<String>> {
    let covered: BTreeSet<&str> = covered.into_iter().collect();
    let mut found = async_functions(sources)?;
    found.retain(|name| !covered.contains(name.strip_prefix("Dyn").unwrap_or(name)));
    Ok(found)
}

fn collect(folder: &Path, files: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(fs::read_to_string(path)?);
        }
    }
    Ok(())
}

fn private_traits(text: &str) -> impl Iterator<Item = String> {
    let declared = text.lines().filter_map(|line| {
        let rest = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub(super) "));
        rest.unwrap_or(line).strip_prefix("trait ")
    });
    declared.map(|rest| word(rest).to_owned())
}

/// What functions are in.
enum Place {
    /// A trait, or its implementation: all are as public as the trait.
    Trait(String),
    /// A type's own: those that say so are public.
    Type(String),
    /// Of no interest.
    Private,
}

fn in_file(text: &str, private: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut place = Place::Private;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.starts_with("mod tests {")) {
            break;
        }
        // A header may go on at the margin: `where`, the end of its arguments, the body's bracket.
        if !line.is_empty() && !line.starts_with([' ', '}', ')', '{']) && !line.starts_with("where") {
            place = place_of(&header(line, &mut lines.clone()), private);
        }
        let declared = line.strip_prefix("    ").unwrap_or(line);
        let Some((before, name)) = declared.split_once("fn ") else { continue };
        let modifiers = before.split_whitespace().collect::<Vec<_>>();
        if declared.starts_with(' ') || !modifiers.iter().all(|m| ["pub", "async", "const"].contains(m)) {
            continue;
        }
        let indented = line.starts_with(' ');
        let is_public = modifiers.contains(&"pub");
        let owner = match &place {
            Place::Trait(name) if indented => Some(name),
            Place::Type(name) if indented && is_public => Some(name),
            _ if !indented && is_public => None,
            _ => continue,
        };
        let signature = header(line, &mut lines.clone());
        if modifiers.contains(&"async") || signature.contains("Future") {
            let name = word(name);
            found.push(owner.map_or_else(|| name.to_owned(), |owner| format!("{owner}::{name}")));
        }
    }
    found
}

/// A declaration up to its body.
fn header<'t>(first: &str, rest: &mut impl Iterator<Item = &'t str>) -> String {
    let ends = |line: &str| line.ends_with(['{', ';', '}']);
    let mut whole = first.trim_start().to_owned();
    while !ends(&whole) {
        let Some(line) = rest.next() else { break };
        whole.push(' ');
        whole.push_str(line.trim_start());
    }
    whole
}

fn place_of(header: &str, private: &BTreeSet<String>) -> Place {
    if let Some(rest) = header.strip_prefix("pub trait ") {
        return Place::Trait(word(rest).to_owned());
    }
    let Some(rest) = header.strip_prefix("impl") else { return Place::Private };
    let rest = without_generics(rest.trim_start());
    let target = rest.split_once(" where ").map_or(rest, |(target, _)| target);
    match target.split_once(" for ") {
        Some((name, _)) if private.contains(word(last_segment(name))) => Place::Private,
        Some((name, _)) => Place::Trait(word(last_segment(name)).to_owned()),
        None => Place::Type(word(target).to_owned()),
    }
}

/// `fmt::Debug` without its path.
fn last_segment(path: &str) -> &str {
    let end = path.find('<').unwrap_or(path.len());
    path[..end].rsplit("::").next().unwrap_or(path)
}

/// `<'a, S: Fn() -> T> Trait for S` without what is in the first brackets.
fn without_generics(text: &str) -> &str {
    if !text.starts_with('<') {
        return text;
    }
    let mut depth = 0;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        before = letter;
        if depth == 0 {
            return text[at + 1..].trim_start();
        }
    }
    text
}

fn word(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r"
pub trait Writer: Send {
    fn write(&self) -> impl Future<Output = ()> + Send;
    fn name(&self) -> &str;
    fn seek(
        &self,
        to: u64,
    ) -> impl Future<Output = ()> + Send;
}

pub(crate) trait Hidden {
    fn inner(&self) -> BoxFuture<'_, ()>;
}

impl<F: Fn() -> u8> Hidden for F {
    fn inner(&self) -> BoxFuture<'_, ()> {
        async fn not_a_method() {}
    }
}

impl<W: Writer> DynWriter for W {
    fn write(&self) -> BoxFuture<'_, ()> {
        Box::pin(Writer::write(self))
    }
}

impl<S> crate::Closer<S> for Bus<S>
where
    S: Clone,
{
    async fn close(self) {}
}

impl<S> Bus<S> {
    /// Not this: pub async fn documented()
    pub async fn start(self) {}
    pub(crate) async fn launch(self) {}
    async fn own(self) {}
    pub fn publish<E: Event>(
        &self,
        event: &E,
    ) -> impl Future<Output = ()> + Send {
    }
}

pub async fn connect() {}
pub fn plain() {}

#[cfg(test)]
mod tests {
    pub async fn in_a_test() {}
}
";

    #[test]
    fn what_is_public_and_async_is_found_and_nothing_else() {
        let private: BTreeSet<String> = private_traits(SOURCE).collect();
        assert_eq!(
            in_file(SOURCE, &private),
            [
                "Writer::write",
                "Writer::seek",
                "DynWriter::write",
                "Closer::close",
                "Bus::start",
                "Bus::publish",
                "connect",
            ]
        );
    }
}
