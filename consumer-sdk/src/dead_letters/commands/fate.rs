//! What became of each letter or key that a command was about, for `--json`.

use serde::Serialize;

use super::letter::{Key, LetterRow};
use super::output;
use super::parked::KeyRow;

/// One of them.
#[derive(Debug, Serialize)]
pub struct Fate {
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    letter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Key>,
    outcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    /// False for a dry run.
    changed: bool,
    outcomes: &'a [Fate],
}

impl Fate {
    /// A letter, and what became of it: a verb in the past, `would_` and a verb, `refused`, or `left`.
    pub fn of_letter(letter: &LetterRow, outcome: impl Into<String>) -> Fate {
        let (scope, named) = (letter.scope.clone(), Some(letter.letter.clone()));
        let outcome = outcome.into();
        Fate { scope, letter: named, topic: None, key: None, outcome, number: None, reason: None }
    }

    /// The same of a parked key.
    pub fn of_key(row: &KeyRow, outcome: impl Into<String>) -> Fate {
        let (scope, topic, key) = (row.scope.clone(), Some(row.topic.clone()), Some(row.key.clone()));
        Fate { scope, letter: None, topic, key, outcome: outcome.into(), number: None, reason: None }
    }

    /// With the number of the replay.
    pub fn numbered(self, number: i32) -> Fate {
        Fate { number: Some(number), ..self }
    }

    /// With the sentence why not.
    pub fn because(self, reason: impl Into<String>) -> Fate {
        Fate { reason: Some(reason.into()), ..self }
    }
}

/// The document of a command that decides.
pub fn document(changed: bool, outcomes: &[Fate]) -> String {
    output::json(&Document { changed, outcomes })
}
