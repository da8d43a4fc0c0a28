//! What is known of a failure, as headers beside the original ones.
//!
//! Original key, value and headers stay as they came. Ours begin with `dlq.`, a prefix that is reserved: an event that
//! was replayed and failed again arrives with the evidence of its former failure, which is replaced and not joined,
//! so headers do not grow with the replays (C19, C37). The size is bounded; the stack is cut first, then the message.

use std::str::FromStr;

use jiff::Timestamp;
use uuid::Uuid;

use super::foreign::{self, Foreign};
use super::record::{Header, last};
use super::topic::is_legal;

/// Names with this prefix are the evidence's.
pub const PREFIX: &str = "dlq.";
/// Header with the trace of the run that failed. A replay keeps it, so that its run can link to that trace (C37).
pub const TRACEPARENT: &str = "dlq.traceparent";
/// Bytes of evidence that a dead letter has at most, names included, unless another number is given.
pub const MOST: usize = 16 * 1024;
/// No bound is smaller: what locates the source record always fits.
pub const LEAST: usize = 8 * 1024;
/// Bytes of a short text: names of handlers, classes, owners.
const SHORT: usize = 256;

/// What is known of a record that failed. Group and scope have at most 255 bytes each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Topic of the source record.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp in milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Kafka group that read it.
    pub group: String,
    /// The consumer's name, under which the event is settled.
    pub scope: String,
    /// The handler that failed.
    pub handler: Option<String>,
    /// Id under which the event is settled; `None` where it could not be read.
    pub id: Option<Uuid>,
    /// The created-at with which it is settled; only where the id has no time in it.
    pub created: Option<Timestamp>,
    /// The event's type.
    pub event_type: Option<String>,
    /// Class of the error.
    pub class: Option<String>,
    /// What the last attempt said.
    pub message: String,
    /// Where it failed, or the chain of causes, line by line.
    pub stack: Option<String>,
    /// Class of the cause: what letters are grouped by. Never empty.
    pub cause: String,
    /// How often it was tried.
    pub attempts: u32,
    /// First failure.
    pub first_failed: Timestamp,
    /// Last failure.
    pub last_failed: Timestamp,
    /// The instance that gave up.
    pub instance: String,
    /// Name and version of the SDK.
    pub sdk: String,
    /// The team that has to decide.
    pub owner: String,
    /// By when.
    pub deadline: Timestamp,
    /// Trace of the run that failed, as in W3C's header of that name.
    pub traceparent: Option<String>,
    /// Number of the replay that failed with it; 0 for none.
    pub replay: u32,
    /// Whether texts were cut to fit.
    pub truncated: bool,
}

/// What a record's headers say about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// A dead letter of this SDK.
    Own(Box<Evidence>),
    /// One of Spring Kafka or Kafka Connect.
    Foreign(Box<Foreign>),
    /// One of this SDK whose evidence is damaged.
    Damaged(Damage),
    /// Nothing.
    None,
}

/// Why evidence cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("header {header} of the dead letter is missing or cannot be read")]
pub struct Damage {
    /// The first header that is needed and not there.
    pub header: &'static str,
}

impl Evidence {
    /// Reads what headers say. Total: any bytes give an answer.
    pub fn read(headers: &[Header]) -> Reading {
        if headers.iter().any(|header| is_reserved(&header.name) && header.name != TRACEPARENT) {
            return match Evidence::read_own(headers) {
                Ok(evidence) => Reading::Own(Box::new(evidence)),
                Err(damage) => Reading::Damaged(damage),
            };
        }
        foreign::read(headers).map_or(Reading::None, |found| Reading::Foreign(Box::new(found)))
    }

    fn read_own(headers: &[Header]) -> Result<Evidence, Damage> {
        let text = |name| last(headers, name).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let needed = |header: &'static str| {
            let value = last(headers, header).and_then(|bytes| std::str::from_utf8(bytes).ok());
            value.filter(|value| !value.is_empty()).map(str::to_owned).ok_or(Damage { header })
        };
        let last_failed: Timestamp =
            parsed(headers, "dlq.last_failed").ok_or(Damage { header: "dlq.last_failed" })?;
        Ok(Evidence {
            topic: needed("dlq.topic").and_then(a_topic)?,
            partition: place(headers, "dlq.partition")?,
            offset: place(headers, "dlq.offset")?,
            timestamp: parsed(headers, "dlq.timestamp"),
            group: needed("dlq.group")?,
            scope: needed("dlq.scope")?,
            handler: text("dlq.handler"),
            id: parsed(headers, "dlq.id"),
            created: parsed(headers, "dlq.created"),
            event_type: text("dlq.type"),
            class: text("dlq.error.class"),
            message: text("dlq.error.message").unwrap_or_default(),
            stack: text("dlq.error.stack"),
            cause: needed("dlq.cause")?,
            attempts: parsed(headers, "dlq.attempts").unwrap_or(1),
            first_failed: parsed(headers, "dlq.first_failed").unwrap_or(last_failed),
            last_failed,
            instance: text("dlq.instance").unwrap_or_default(),
            sdk: text("dlq.sdk").unwrap_or_default(),
            owner: needed("dlq.owner")?,
            deadline: parsed(headers, "dlq.deadline").ok_or(Damage { header: "dlq.deadline" })?,
            traceparent: text(TRACEPARENT),
            replay: parsed(headers, "dlq.replay").unwrap_or(0),
            truncated: last(headers, "dlq.truncated").is_some(),
        })
    }

    /// What names the letter in its scope: the id it is settled under, else the place of the source record.
    pub fn letter(&self) -> String {
        self.id.map_or_else(|| place_name(&self.topic, self.partition, self.offset), |id| id.to_string())
    }

    /// The headers of the dead letter: the original ones as they are, without older evidence, then ours in at most
    /// `most` bytes (not less than [`LEAST`]).
    pub fn headers(&self, originals: &[Header], most: usize) -> Vec<Header> {
        let mut headers: Vec<Header> =
            originals.iter().filter(|header| !is_reserved(&header.name)).cloned().collect();
        headers.extend(self.own_headers(most.max(LEAST)));
        headers
    }

    fn own_headers(&self, most: usize) -> Vec<Header> {
        let mut cut = self.truncated;
        let mut headers = vec![
            Header::text("dlq.topic", self.topic.as_str()),
            Header::text("dlq.partition", self.partition.to_string()),
            Header::text("dlq.offset", self.offset.to_string()),
            Header::text("dlq.group", self.group.as_str()),
            Header::text("dlq.scope", self.scope.as_str()),
            Header::text("dlq.attempts", self.attempts.to_string()),
            Header::text("dlq.first_failed", self.first_failed.to_string()),
            Header::text("dlq.last_failed", self.last_failed.to_string()),
            Header::text("dlq.deadline", self.deadline.to_string()),
        ];
        let exact = [
            ("dlq.timestamp", self.timestamp.map(|millis| millis.to_string())),
            ("dlq.id", self.id.map(|id| id.to_string())),
            ("dlq.created", self.created.map(|created| created.to_string())),
            ("dlq.replay", (self.replay > 0).then(|| self.replay.to_string())),
        ];
        headers.extend(exact.into_iter().filter_map(|(name, value)| Some(Header::text(name, value?))));
        let short = [
            ("dlq.cause", Some(self.cause.as_str())),
            ("dlq.owner", Some(self.owner.as_str())),
            ("dlq.handler", self.handler.as_deref()),
            ("dlq.type", self.event_type.as_deref()),
            ("dlq.error.class", self.class.as_deref()),
            ("dlq.instance", Some(self.instance.as_str())),
            ("dlq.sdk", Some(self.sdk.as_str())),
            (TRACEPARENT, self.traceparent.as_deref()),
        ];
        for (name, text) in short {
            let Some(text) = text else { continue };
            headers.push(Header::text(name, shortened(text, SHORT, &mut cut)));
        }
        let used: usize = headers.iter().map(Header::size).sum();
        let names = "dlq.error.message".len() + "dlq.error.stack".len() + "dlq.truncatedtrue".len();
        let spare = most.saturating_sub(used + names);
        let message = shortened(&self.message, spare, &mut cut);
        // Of a message that was cut the stack is the lesser loss.
        let left = if message.len() < self.message.len() { 0 } else { spare - message.len() };
        headers.push(Header::text("dlq.error.message", message));
        if let Some(stack) = &self.stack {
            let stack = shortened(stack, left, &mut cut);
            if !stack.is_empty() {
                headers.push(Header::text("dlq.error.stack", stack));
            }
        }
        if cut {
            headers.push(Header::text("dlq.truncated", "true"));
        }
        headers
    }
}

/// Whether a header's name is one of the evidence's.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A place as one text: what a letter without an id is called.
pub fn place_name(topic: &str, partition: i32, offset: i64) -> String {
    format!("{topic}/{partition}/{offset}")
}

/// The headers with which an event is replayed: the original ones. Evidence of any framework would be taken for the
/// replay's own, and a replicator's mark would keep it from being mirrored (C37). The trace of the run that failed
/// stays, under our name: the new run links to it and does not continue it.
pub fn replayable(headers: &[Header]) -> Vec<Header> {
    let goes = |name: &str| {
        is_reserved(name) && name != TRACEPARENT || foreign::is_foreign(name) || name == "__replicator_id"
    };
    headers.iter().filter(|header| !goes(&header.name)).cloned().collect()
}

/// A text that is no topic's name locates nothing, and would name a letter that no database takes.
fn a_topic(name: String) -> Result<String, Damage> {
    if is_legal(&name) { Ok(name) } else { Err(Damage { header: "dlq.topic" }) }
}

fn parsed<T: FromStr>(headers: &[Header], name: &str) -> Option<T> {
    std::str::from_utf8(last(headers, name)?).ok()?.parse().ok()
}

/// A partition or an offset: never negative.
fn place<T: FromStr + PartialOrd + Default>(headers: &[Header], header: &'static str) -> Result<T, Damage> {
    parsed(headers, header).filter(|number| *number >= T::default()).ok_or(Damage { header })
}

/// The longest beginning of at most `most` bytes that ends between two characters.
fn shortened<'a>(text: &'a str, most: usize, cut: &mut bool) -> &'a str {
    if text.len() <= most {
        return text;
    }
    *cut = true;
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
#[path = "evidence/tests.rs"]
mod tests;
