//! Which entry a person means: by the event's position or by its id.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use outbox_schema::record::Position;

use super::entry::{Entry, clean};

/// One entry, as it is named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// By position.
    Position(Position),
    /// By the event's id.
    Id(String),
}

impl FromStr for Choice {
    type Err = Infallible;

    /// Everything that is no position may be an id: a table of another shape may have ids of any kind.
    fn from_str(text: &str) -> Result<Choice, Infallible> {
        Ok(text.parse().map_or_else(|_| Choice::Id(text.to_owned()), Choice::Position))
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Position(position) => write!(f, "at {position}"),
            Choice::Id(id) => write!(f, "with id {}", clean(id)),
        }
    }
}

/// The one entry that is meant. Of several with the same id the only open one is.
///
/// # Errors
/// The sentence where there is none, or where it is not clear which.
pub fn pick(choice: &Choice, found: Vec<Entry>) -> Result<Entry, String> {
    let open = found.iter().filter(|entry| !entry.state.is_settled()).count();
    let several = found.len() > 1;
    let mut candidates: Vec<Entry> = if several && open == 1 {
        found.into_iter().filter(|e| !e.state.is_settled()).collect()
    } else {
        found
    };
    match (candidates.pop(), candidates.is_empty()) {
        (Some(entry), true) => Ok(entry),
        (Some(last), false) => {
            candidates.push(last);
            let places: Vec<String> = candidates
                .iter()
                .map(|entry| format!("{} ({}, lane {})", entry.position, entry.state.name(), entry.lane))
                .collect();
            Err(format!(
                "{} entries stand {choice}: {}; name one by its position, or its lane with --lane",
                places.len(),
                places.join(", ")
            ))
        }
        (None, _) => {
            let hint = match choice {
                Choice::Id(id) if id.contains('/') => " (a position looks like 3/00000016B374D848/7)",
                Choice::Id(_) | Choice::Position(_) => "",
            };
            Err(format!(
                "there is no entry {choice}{hint}; `outbox-relay quarantine list --all` shows every one"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::entry;
    use super::super::entry::{Entry, State};
    use super::*;

    fn choice(text: &str) -> Choice {
        text.parse().unwrap()
    }

    fn at(position: &str, state: State) -> Entry {
        Entry { position: position.parse().unwrap(), state, ..entry() }
    }

    #[test]
    fn a_position_is_told_from_an_id() {
        let position = Position { epoch: 3, commit_lsn: 0x16_B374_D848, ordinal: 7 };
        assert_eq!(choice("3/00000016B374D848/7"), Choice::Position(position));
        for id in ["01900000-0000-7000-8000-000000000001", "order 7", "3/16B374D848/7"] {
            assert_eq!(choice(id), Choice::Id(id.into()));
        }
    }

    #[test]
    fn the_only_one_or_the_only_open_one_is_meant() {
        let (first, second) = ("3/0000000000000001/0", "3/0000000000000002/0");
        let alone = vec![at(first, State::Published)];
        assert_eq!(pick(&choice("x"), alone).unwrap().position, first.parse().unwrap());
        let again = vec![at(first, State::Published), at(second, State::Held)];
        assert_eq!(pick(&choice("x"), again).unwrap().position, second.parse().unwrap());
    }

    #[test]
    fn what_is_unclear_is_told_with_what_there_is() {
        let (first, second) = ("3/0000000000000001/0", "3/0000000000000002/0");
        for state in [State::Held, State::Published] {
            let sentence = pick(&choice("x"), vec![at(first, state), at(second, state)]).unwrap_err();
            assert!(sentence.starts_with("2 entries stand with id x: "), "{sentence}");
            assert!(sentence.contains(first) && sentence.contains(second), "{sentence}");
        }
        let sentence = pick(&choice("3/16B374D848/7"), Vec::new()).unwrap_err();
        assert!(sentence.contains("no entry") && sentence.contains("looks like"), "{sentence}");
        let sentence = pick(&choice(first), Vec::new()).unwrap_err();
        assert!(sentence.contains(&format!("no entry at {first};")), "{sentence}");
    }
}
