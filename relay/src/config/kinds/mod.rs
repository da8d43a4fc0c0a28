//! The kinds of values that keys hold: what is expected, how it is read, how it may be shown.
//!
//! A value from a file and one from the environment take the same way: both are text when they get here.

mod amounts;
mod names;
mod places;
mod rules;

pub use amounts::{Count, Size, Span};
pub use names::{ColumnName, LaneName, MessagePrefix, RelayName, TableName, TopicName, TopicPrefix};
pub use places::{Brokers, DatabaseUrl, FilePath, ListenAddress, LogFilter};
pub use rules::{AnyTemplate, TopicReplacement, TopicTemplate, WholeRegex};

use secrecy::SecretString;

/// One kind of value.
pub trait Kind {
    /// What a text of this kind is read into.
    type Value;

    /// What has to stand there, as the end of the sentence "expected …".
    fn expectation(&self) -> String;

    /// Reads the text; the error is a whole sentence without the value.
    fn read(&self, text: &str) -> Result<Self::Value, String>;

    /// The value as it may be printed.
    fn show(&self, text: &str) -> String {
        format!("{text:?}")
    }

    /// Whether a file has to give it as text. TOML and YAML would turn an unquoted `0123` into another
    /// value before it gets here.
    fn only_text(&self) -> bool {
        true
    }

    /// Whether a file may give it as a list, which is read as its items with commas between them.
    fn may_be_list(&self) -> bool {
        false
    }

    /// Whether it must never be printed.
    fn is_secret(&self) -> bool {
        false
    }
}

/// The usual refusal.
fn expected<K: Kind + ?Sized>(kind: &K) -> String {
    format!("expected {}", kind.expectation())
}

/// What is printed in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// A password; can be read, never shown.
#[derive(Debug)]
pub struct Secret;

impl Kind for Secret {
    type Value = SecretString;

    fn expectation(&self) -> String {
        "text that is not empty; it is never printed".into()
    }

    fn read(&self, text: &str) -> Result<SecretString, String> {
        if text.is_empty() { Err(expected(self)) } else { Ok(SecretString::from(text)) }
    }

    fn show(&self, _text: &str) -> String {
        HIDDEN.into()
    }

    fn is_secret(&self) -> bool {
        true
    }
}

/// `true` or `false`.
#[derive(Debug)]
pub struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn expectation(&self) -> String {
        "`true` or `false`".into()
    }

    fn read(&self, text: &str) -> Result<bool, String> {
        text.parse().map_err(|_| expected(self))
    }

    fn show(&self, text: &str) -> String {
        text.to_string()
    }

    fn only_text(&self) -> bool {
        false
    }
}

/// One word of a closed list.
#[derive(Debug)]
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy> Kind for Choice<T> {
    type Value = T;

    fn expectation(&self) -> String {
        let words: Vec<String> = self.0.iter().map(|(word, _)| format!("`{word}`")).collect();
        match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => words.concat(),
        }
    }

    fn read(&self, text: &str) -> Result<T, String> {
        let found = self.0.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| expected(self))
    }
}
