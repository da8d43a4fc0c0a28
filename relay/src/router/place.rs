//! What can be read of a row that may make no record: who it is and where it belongs.

use super::column::Column;
use super::plan::{Plan, Topic};
use super::row::Value;
use super::unpublishable::Unpublishable;

/// Who a row is and where it belongs, as far as that could be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The event's id.
    pub event_id: Option<String>,
    /// The text that routes it.
    pub aggregatetype: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// Its topic; `None` where no legal one could be made.
    pub topic: Option<String>,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// Whether the columns that make topic and key are all there. Of a row that is too large to be held the
    /// end is missing.
    pub whole: bool,
}

impl Place {
    /// The order that the row stands in: its topic or, where it makes none, the text that should have made
    /// one behind a `?`, which no topic begins with. `None` without a key, since then there is no order.
    pub fn queue(&self) -> Option<String> {
        self.key.as_ref()?;
        match (&self.topic, &self.aggregatetype) {
            (Some(topic), _) => Some(topic.clone()),
            (None, Some(text)) => Some(format!("?{text}")),
            (None, None) => None,
        }
    }
}

impl Plan {
    /// Reads what can be read; `row` may be shorter than the plan, its end then is unknown.
    pub fn place(&self, row: &[Value<'_>]) -> Place {
        // A value that is not there is as one that the server left out.
        let mut row = row.to_vec();
        row.resize(self.width, Value::Unchanged);
        let (mut text, mut name, mut key) = (Vec::new(), String::new(), Vec::new());
        let topic = self.route(&row, &mut text, &mut name);
        let bytes = self.key(&row, &mut key);
        let cut = |why: &Unpublishable| matches!(why, Unpublishable::Unchanged { .. });
        let whole = !topic.as_ref().is_err_and(cut) && !bytes.as_ref().is_err_and(cut);
        Place {
            event_id: self.event_id(&row),
            aggregatetype: self.routing_text(&row),
            event_type: text_of(&self.r#type, &row),
            topic: topic.is_ok().then_some(name),
            key: bytes.ok().map(|bytes| bytes.within(&key).to_vec()),
            whole,
        }
    }

    /// What the topic is made of, for a row that makes none.
    fn routing_text(&self, row: &[Value<'_>]) -> Option<String> {
        match &self.topic {
            Topic::Prefixed { aggregatetype, .. } => text_of(aggregatetype, row),
            Topic::ByRule(rule) => {
                let mut buffer = Vec::new();
                let bytes = rule.template.bytes(row, self.max_record_bytes, &mut buffer).ok()?;
                Some(readable(bytes.within(&buffer)))
            }
        }
    }
}

fn text_of(column: &Column, row: &[Value<'_>]) -> Option<String> {
    let mut buffer = Vec::new();
    let text = column.text(row, &mut buffer).ok()??;
    Some(readable(text.within(&buffer)))
}

/// As text that PostgreSQL can keep: it knows no NUL, which a `bytea` may hold.
pub(super) fn readable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace('\0', "\u{FFFD}")
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, native_row};
    use super::*;
    use Value::{Null, Text};

    #[test]
    fn a_broken_row_still_says_where_it_belongs() {
        let place = fixture::plan().place(&native_row(&[("headers", Text(b"[1]")), ("id", Null)]));
        assert_eq!(place.topic.as_deref(), Some("outbox.event.order"));
        assert_eq!(place.key.as_deref(), Some(b"o-1".as_slice()));
        assert_eq!((place.event_id.as_deref(), place.whole), (None, true));
        assert_eq!(place.queue().as_deref(), Some("outbox.event.order"));
    }

    #[test]
    fn what_is_kept_as_text_can_be_kept() {
        assert_eq!(readable(b"a\0b\xFF"), "a\u{FFFD}b\u{FFFD}");
    }

    #[test]
    fn an_illegal_topic_is_an_order_of_its_own() {
        let place = fixture::plan().place(&native_row(&[("aggregatetype", Text("prämie".as_bytes()))]));
        assert_eq!((place.topic.clone(), place.queue().as_deref()), (None, Some("?prämie")));
    }

    #[test]
    fn without_a_key_there_is_no_order() {
        let place = fixture::plan().place(&native_row(&[("aggregateid", Null)]));
        assert_eq!((place.key.clone(), place.queue(), place.whole), (None, None, true));
        let own = fixture::plan().place(&native_row(&[("aggregateid", Null), ("partition_key", Text(b"p"))]));
        assert_eq!(own.key.as_deref(), Some(b"p".as_slice()));
    }

    #[test]
    fn of_a_row_that_was_cut_the_end_is_unknown() {
        let row = native_row(&[]);
        let plan = fixture::plan();
        assert!(plan.place(&row).whole);
        let cut = plan.place(&row[..1]);
        assert_eq!((cut.event_id.is_some(), cut.whole, cut.key), (true, false, None));
    }
}
