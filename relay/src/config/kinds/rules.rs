//! Rules by which topics, keys and headers are made.

use regex::Regex;

use super::Kind;
use super::names::legal_in_topic;
use crate::config::rules::{Template, check_replacement, whole};

/// What a column in a template looks like.
const COLUMN: &str = "where `{name}` stands for a column, by its name or by the part it plays";

/// A template of topics.
#[derive(Debug)]
pub struct TopicTemplate;

impl Kind for TopicTemplate {
    type Value = Template;

    fn expectation(&self) -> String {
        format!("a template of A-Z a-z 0-9 . _ - and columns, {COLUMN}")
    }

    fn read(&self, text: &str) -> Result<Template, String> {
        let template = Template::parse(text)?;
        if template.literals().all(legal_in_topic) {
            Ok(template)
        } else {
            Err("has a character that Kafka does not allow in a topic: allowed are A-Z a-z 0-9 . _ -".into())
        }
    }
}

/// A template of anything.
#[derive(Debug)]
pub struct AnyTemplate;

impl Kind for AnyTemplate {
    type Value = Template;

    fn expectation(&self) -> String {
        format!("a template, {COLUMN} and a brace of the text itself is doubled")
    }

    fn read(&self, text: &str) -> Result<Template, String> {
        Template::parse(text)
    }
}

/// A regular expression that has to match from the beginning to the end.
#[derive(Debug)]
pub struct WholeRegex;

impl Kind for WholeRegex {
    type Value = Regex;

    fn expectation(&self) -> String {
        "a regular expression as the Rust crate `regex` reads it: without look-around and back references"
            .into()
    }

    fn read(&self, text: &str) -> Result<Regex, String> {
        whole(text).map_err(|said| format!("is not {}: {}", self.expectation(), one_line(&said)))
    }
}

/// The compiler draws with lines; a mistake is one.
fn one_line(said: &str) -> String {
    said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// What a topic that matches is replaced with.
#[derive(Debug)]
pub struct TopicReplacement;

impl Kind for TopicReplacement {
    type Value = String;

    fn expectation(&self) -> String {
        "a topic in which `$1` and `${name}` stand for groups of route.regex and `$0` for the whole".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        if legal_in_topic(&check_replacement(text)?) {
            Ok(text.into())
        } else {
            Err("has a character that Kafka does not allow in a topic: allowed are A-Z a-z 0-9 . _ -".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_a_topic_are_legal_in_one() {
        assert!(TopicTemplate.read("a-B_0.{größe}").is_ok());
        assert!(TopicTemplate.read("a/{b}").unwrap_err().contains("does not allow"));
        assert!(TopicReplacement.read("a.$1${größe}").is_ok());
        assert!(TopicReplacement.read("a $1").unwrap_err().contains("does not allow"));
        assert!(AnyTemplate.read("a/{b} ü").is_ok());
    }

    #[test]
    fn a_bad_expression_is_told_in_one_line() {
        let told = WholeRegex.read("(unclosed").unwrap_err();
        assert!(
            told.contains("(unclosed") && told.contains("unclosed group") && !told.contains('\n'),
            "{told}"
        );
    }
}
