//! What does not go together with events that are messages. Such an event has the contract's columns, and stands in no
//! table.

use outbox_schema::sql::PUBLISHED_COLUMNS;

use super::keys::{self, AnyKey};
use super::rules::Template;
use super::{CleanupMode, Existing, Rules};

/// Keys that say something of a table.
const OF_A_TABLE: [&dyn AnyKey; 17] = [
    &keys::SOURCE_FORMAT,
    &keys::OUTBOX_TABLE,
    &keys::COLUMN_ID,
    &keys::COLUMN_AGGREGATETYPE,
    &keys::COLUMN_AGGREGATEID,
    &keys::COLUMN_TYPE,
    &keys::COLUMN_PAYLOAD,
    &keys::COLUMN_SCHEMA_VERSION,
    &keys::COLUMN_VERSION,
    &keys::COLUMN_PARTITION_KEY,
    &keys::COLUMN_HEADERS,
    &keys::COLUMN_TRACEPARENT,
    &keys::COLUMN_CREATED_AT,
    &keys::COLUMN_WRITER,
    &keys::COLUMN_SEQ,
    &keys::OUTBOX_ROWS_STAY,
    &keys::OUTBOX_BACKFILL,
];

/// A key, and what is wrong with giving it.
pub type Contradiction = (&'static dyn AnyKey, String);

/// Keys that are given and stand for nothing.
pub fn of_a_table(is_given: impl Fn(&str) -> bool) -> Vec<Contradiction> {
    let given = OF_A_TABLE.into_iter().filter(|key| is_given(key.path()));
    let problem = "is about a table, and with outbox.from = \"messages\" there is none: take it out";
    given.map(|key| (key, problem.to_owned())).collect()
}

/// Rules that name what no message has.
pub fn of_rules(rules: &Rules) -> Vec<Contradiction> {
    let topic = rules.topic.as_ref().and_then(|rule| of_template(&rule.template));
    let topic = topic.map(|problem| (&keys::ROUTE_TOPIC as &dyn AnyKey, problem));
    let key = rules.key.as_ref().and_then(of_template);
    let key = key.map(|problem| (&keys::ROUTE_KEY as &dyn AnyKey, problem));
    topic.into_iter().chain(key).collect()
}

/// What a template names that no message has.
pub fn of_template(template: &Template) -> Option<String> {
    let column = template.columns().find(|column| !PUBLISHED_COLUMNS.contains(column))?;
    let there = PUBLISHED_COLUMNS.join(", ");
    Some(format!("names {column:?}, which a message does not have; it has {there}"))
}

/// What a start or a clean-up would do with rows.
pub fn of_rows(existing: Option<Existing>, cleanup: Option<CleanupMode>) -> Vec<Contradiction> {
    let mut wrong: Vec<Contradiction> = Vec::new();
    if existing == Some(Existing::Publish) {
        let problem = "publishes rows of a table (--existing=publish), and with outbox.from = \"messages\" there are \
                       none: what was emitted before there was a slot is not to be had";
        wrong.push((&keys::START_EXISTING, problem.into()));
    }
    if cleanup.is_some_and(|mode| mode != CleanupMode::Off) {
        let problem =
            "removes rows of a table, and with outbox.from = \"messages\" there are none: take it out";
        wrong.push((&keys::CLEANUP_MODE, problem.into()));
    }
    wrong
}
