//! The text that goes with a committed offset: the crash journal, then what is completed beyond it.
//!
//! `ob1.` and then numbers (see `digits`): unclean starts; how many records are named, and of each its
//! distance from the committed offset, the hash of its event id and its deaths; then the completed
//! ranges, each as gap and length, as many of the lowest as the limit leaves room for; at last a
//! checksum over the committed offset and all of that.
//!
//! - The journal comes first and takes at most [`JOURNAL_LIMIT`] bytes, whatever the map needs: without
//!   the map a restart repeats a little, without the journal a record kills for ever (C57).
//! - The checksum is there because a wrong map would be a lost event: a record that nobody handled would
//!   pass for settled. It covers the offset too, since a tool that moves the offset of a group may leave
//!   the text beside it.
//! - Reading is total. What is not ours, of another version or damaged changes nothing and is named for
//!   the log. An empty text is what a group without trouble has.

mod digits;

#[cfg(test)]
mod tests;

use crate::frontier::Completed;
use crate::journal::{Entry, NAMED_LIMIT, Named};

/// Bytes of text that brokers accept unless configured otherwise (`offset.metadata.max.bytes`).
pub const DEFAULT_LIMIT: usize = 4_096;

/// Bytes that the text needs at most when it carries no map.
pub const JOURNAL_LIMIT: usize = 128;

const MARK: &str = "ob";
const HEAD: &str = "ob1.";

/// What a committed offset's text says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The crash journal.
    pub journal: Entry,
    /// Offsets settled beyond the committed one.
    pub completed: Completed,
}

/// A text that is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Foreign {
    /// Another client of the group wrote it.
    #[error("the committed offset's metadata was not written by this library")]
    NotOurs,
    /// A newer or older version of this library wrote it.
    #[error("the committed offset's metadata has another version than this library's")]
    OtherVersion,
    /// It is damaged, or it was written for another offset.
    #[error("the committed offset's metadata is damaged or belongs to another offset")]
    Damaged,
}

/// Writes the text for a commit of `offset`, in at most `limit` bytes (a limit below [`JOURNAL_LIMIT`]
/// counts as that: the journal is not given up). A clean journal and an empty map are the empty text.
/// Names and ranges that do not lie at or beyond `offset` are left out.
pub fn write(offset: i64, journal: &Entry, completed: &Completed, limit: usize) -> String {
    if *journal == Entry::default() && completed.is_empty() {
        return String::new();
    }
    let mut text = String::from(HEAD);
    digits::put(&mut text, journal.starts.into());
    let distance = |named: &Named| u64::try_from(named.offset.checked_sub(offset)?).ok();
    let named = || journal.named.iter().filter_map(|n| Some((n, distance(n)?))).take(NAMED_LIMIT);
    digits::put(&mut text, named().count() as u64);
    for (named, distance) in named() {
        digits::put(&mut text, distance);
        digits::put(&mut text, named.id.into());
        digits::put(&mut text, named.deaths.into());
    }
    let limit = limit.max(JOURNAL_LIMIT) - digits::CHECKSUM;
    let mut end = offset.max(0);
    for range in completed.ranges().iter().filter(|r| r.start > offset.max(0)) {
        let fitting = text.len();
        digits::put(&mut text, (range.start - end - 1) as u64);
        digits::put(&mut text, (range.end - range.start - 1) as u64);
        if text.len() > limit {
            text.truncate(fitting);
            break;
        }
        end = range.end;
    }
    let sum = digits::checksum(offset, text.as_bytes());
    text + &sum
}

/// Reads the text beside the committed `offset`. Takes bytes: a client that hands them over as text has
/// to check them first, since anybody may have written them.
///
/// # Errors
/// [`Foreign`] says why the text is not used.
pub fn parse(offset: i64, text: &[u8]) -> Result<Metadata, Foreign> {
    if text.is_empty() {
        return Ok(Metadata::default());
    }
    let Some(rest) = text.strip_prefix(HEAD.as_bytes()) else {
        let ours = text
            .strip_prefix(MARK.as_bytes())
            .is_some_and(|rest| rest.first().is_some_and(u8::is_ascii_digit));
        return Err(if ours { Foreign::OtherVersion } else { Foreign::NotOurs });
    };
    let body = rest.len().checked_sub(digits::CHECKSUM).ok_or(Foreign::Damaged)?;
    let (summed, sum) = text.split_at(HEAD.len() + body);
    if digits::checksum(offset, summed).as_bytes() != sum {
        return Err(Foreign::Damaged);
    }
    numbers(offset, &rest[..body]).ok_or(Foreign::Damaged)
}

/// Reads the numbers between head and checksum.
fn numbers(offset: i64, mut text: &[u8]) -> Option<Metadata> {
    let text = &mut text;
    let beyond = |from: i64, distance: u64| from.checked_add(i64::try_from(distance).ok()?);
    let mut journal = Entry { starts: digits::take(text)?.try_into().ok()?, named: Vec::new() };
    let named = usize::try_from(digits::take(text)?).ok().filter(|count| *count <= NAMED_LIMIT)?;
    for _ in 0..named {
        let offset = beyond(offset, digits::take(text)?)?;
        let id = digits::take(text)?.try_into().ok()?;
        journal.named.push(Named { offset, id, deaths: digits::take(text)?.try_into().ok()? });
    }
    let mut completed = Completed::NONE;
    let mut end = offset.max(0);
    while !text.is_empty() {
        let start = beyond(end, digits::take(text)?.checked_add(1)?)?;
        end = beyond(start, digits::take(text)?.checked_add(1)?)?;
        completed.push(start..end);
    }
    Some(Metadata { journal, completed })
}
