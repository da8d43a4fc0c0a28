//! What can be read of a row that may make no record: who it is and where it belongs.

use super::plan::{Column, Plan};
use super::row::Value;
use super::{bytea, topic};

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
        let mut place = Place {
            event_id: text(&self.id, row),
            aggregatetype: text(&self.aggregatetype, row),
            event_type: text(&self.r#type, row),
            ..Place::default()
        };
        let mut name = String::new();
        if let Some(Some(route)) = self.aggregatetype.known(row)
            && topic::route(&self.topic_prefix, route, &mut name).is_ok()
        {
            place.topic = Some(name);
        }
        let own = self.partition_key.as_ref().map_or(Some(None), |column| column.known(row));
        let aggregate = self.aggregateid.known(row);
        place.whole = own.is_some() && aggregate.is_some() && self.aggregatetype.known(row).is_some();
        place.key = match (own, aggregate) {
            (Some(Some(bytes)), _) => self.partition_key.as_ref().and_then(|column| column.raw(bytes)),
            (Some(None), Some(Some(bytes))) => self.aggregateid.raw(bytes),
            (Some(None), Some(None) | None) | (None, _) => None,
        };
        place
    }
}

fn text(column: &Column, row: &[Value<'_>]) -> Option<String> {
    column.known(row).flatten().map(|text| String::from_utf8_lossy(text).into_owned())
}

impl Column {
    /// The column's text, `Some(None)` for NULL; `None` where the row ends before it or it was left out.
    fn known<'a>(&self, row: &[Value<'a>]) -> Option<Option<&'a [u8]>> {
        match self.value(row)? {
            Value::Null => Some(None),
            Value::Text(text) => Some(Some(text)),
            Value::Unchanged => None,
        }
    }

    /// The bytes that a text stands for.
    fn raw(&self, text: &[u8]) -> Option<Vec<u8>> {
        if !self.bytea {
            return Some(text.to_vec());
        }
        let mut bytes = Vec::new();
        bytea::decode(text, &mut bytes).map(|()| bytes)
    }
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
