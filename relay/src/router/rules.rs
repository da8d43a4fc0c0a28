//! Topic, key and headers by rule: templates and rewriting as they are applied to a row. Where no rule is
//! configured none of this runs.

use super::column::{Bytes, Column};
use super::headers::HeaderBuffer;
use super::row::Value;
use super::topic;
use super::unpublishable::Unpublishable;
use crate::config::rules::Rewrite;

/// A template with its columns found.
#[derive(Debug, Clone)]
pub(super) struct Template(pub(super) Vec<Piece>);

#[derive(Debug, Clone)]
pub(super) enum Piece {
    Literal(String),
    Column(Column),
}

impl Template {
    /// Appends what the template makes of a row; the column that is NULL, if one is.
    fn append(
        &self,
        row: &[Value<'_>],
        limit: usize,
        out: &mut Vec<u8>,
    ) -> Result<Result<(), &Column>, Unpublishable> {
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Column(column) => match column.bytes(row, limit, out)? {
                    Some(Bytes::Row(bytes)) => out.extend_from_slice(bytes),
                    Some(Bytes::Buffer) => {}
                    None => return Ok(Err(column)),
                },
            }
        }
        Ok(Ok(()))
    }

    /// The bytes that the template makes of a row, none of whose columns may be NULL.
    pub(super) fn bytes<'a>(
        &self,
        row: &[Value<'a>],
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<Bytes<'a>, Unpublishable> {
        if let [Piece::Column(column)] = self.0.as_slice() {
            return column.bytes(row, limit, buffer)?.ok_or_else(|| column.null());
        }
        self.append(row, limit, buffer)?.map_err(Column::null)?;
        Ok(Bytes::Buffer)
    }
}

/// The topic by rule.
#[derive(Debug, Clone)]
pub(super) struct TopicRule {
    pub(super) template: Template,
    pub(super) rewrite: Option<Rewrite>,
}

impl TopicRule {
    /// Puts the topic of a row in place of what `topic` holds. `buffer` is empty.
    pub(super) fn route(
        &self,
        row: &[Value<'_>],
        limit: usize,
        buffer: &mut Vec<u8>,
        topic: &mut String,
    ) -> Result<(), Unpublishable> {
        self.template.append(row, limit, buffer)?.map_err(Column::null)?;
        let text = str::from_utf8(buffer).ok();
        let rewritten = self.rewrite.as_ref().zip(text).and_then(|(rewrite, text)| rewrite.apply(text));
        let made = rewritten.as_deref().map_or(buffer.as_slice(), str::as_bytes);
        topic::route("", made, topic).map_err(|fault| Unpublishable::RuledTopic { fault })
    }
}

/// Adds the headers that rules make of a row; none where a column is NULL.
pub(super) fn push_headers(
    rules: &[(String, Template)],
    row: &[Value<'_>],
    limit: usize,
    out: &mut HeaderBuffer,
) -> Result<(), Unpublishable> {
    for (name, template) in rules {
        let mut failed = None;
        out.push_named(name, |value| match template.append(row, limit, value) {
            Ok(Ok(())) => Some(()),
            Ok(Err(_null)) => None,
            Err(error) => {
                failed = Some(error);
                None
            }
        });
        failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, native_row};
    use super::super::plan::{Part, Plan};
    use super::super::record::{RowPosition, Scratch};
    use super::super::topic::TopicFault;
    use super::*;
    use crate::config::rules::{self, Rules};
    use crate::lsn::Lsn;
    use Value::{Null, Text};
    use proptest::prelude::*;

    const AT: RowPosition =
        RowPosition { epoch: 1, commit_lsn: Lsn(1), ordinal: 0, commit_unix_millis: 1_795_228_550_123 };

    fn template(text: &str) -> rules::Template {
        rules::Template::parse(text).unwrap()
    }

    fn topic(text: &str, rewrite: Option<(&str, &str)>) -> Rules {
        let rewrite = rewrite
            .map(|(regex, replacement)| Rewrite::new(rules::whole(regex).unwrap(), replacement).unwrap());
        let topic = Some(rules::TopicRule { template: template(text), rewrite });
        Rules { topic, ..Rules::default() }
    }

    fn plan(rules: Rules) -> Plan {
        let mut outbox = fixture::native_outbox();
        outbox.columns.rules = rules.columns();
        Plan::compile(
            &fixture::native_shape(),
            &crate::config::OutboxSettings { rules, ..outbox },
            &fixture::kafka(),
        )
        .unwrap()
    }

    fn routed(rules: Rules, row: &[Value<'_>]) -> Result<String, Unpublishable> {
        let mut scratch = Scratch::default();
        plan(rules).record(row, &AT, &mut scratch).map(|record| record.topic.to_owned())
    }

    #[test]
    fn topics_are_made_by_template() {
        let row = native_row(&[("aggregatetype", Text(b"Order"))]);
        for (text, expected) in [
            ("{type}", "OrderPlaced"),
            ("all", "all"),
            ("a.{aggregatetype}-{schema_version}.b", "a.Order-1.b"),
        ] {
            assert_eq!(routed(topic(text, None), &row).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn topics_are_rewritten_where_they_match_as_a_whole() {
        let rule = || topic("{aggregatetype}", Some((r"(?<team>[a-z]+)\.(.+)", "${team}.events.$2")));
        for (value, expected) in
            [("shop.Order", "shop.events.Order"), ("Order", "Order"), ("Shop.x", "Shop.x")]
        {
            let row = native_row(&[("aggregatetype", Text(value.as_bytes()))]);
            assert_eq!(routed(rule(), &row).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn a_topic_that_cannot_be_is_said() {
        let by_type = || topic("{aggregatetype}", Some((".(.*)", "$1")));
        let null = Unpublishable::Null { column: "aggregatetype".into(), part: Part::TopicRule };
        assert_eq!(routed(by_type(), &native_row(&[("aggregatetype", Null)])), Err(null.clone()));
        assert_eq!(null.to_string(), "column \"aggregatetype\" (route.topic) is NULL; a record needs it");
        for (value, fault) in [
            (b"x".as_slice(), TopicFault::Empty),
            (b"x..", TopicFault::Dots),
            (b"xa b", TopicFault::Illegal { byte: b' ', at: 1 }),
            (b"xa\xFF", TopicFault::Illegal { byte: 0xFF, at: 2 }),
        ] {
            let refused = routed(by_type(), &native_row(&[("aggregatetype", Text(value))]));
            assert_eq!(refused, Err(Unpublishable::RuledTopic { fault }));
        }
    }

    #[test]
    fn keys_are_made_by_template() {
        let row = native_row(&[("partition_key", Text(b"p")), ("aggregateid", Text(b"o-1"))]);
        for (text, expected) in
            [("{aggregateid}", "o-1"), ("{type}/{partition_key}", "OrderPlaced/p"), ("k", "k")]
        {
            let rules = Rules { key: Some(template(text)), ..Rules::default() };
            let mut scratch = Scratch::default();
            let plan = plan(rules);
            let record = plan.record(&row, &AT, &mut scratch).unwrap();
            assert_eq!(record.key, Some(expected.as_bytes()));
        }
        for text in ["{partition_key}", "a{partition_key}"] {
            let rules = Rules { key: Some(template(text)), ..Rules::default() };
            let refused = plan(rules).record(&native_row(&[]), &AT, &mut Scratch::default()).unwrap_err();
            let null = Unpublishable::Null { column: "partition_key".into(), part: Part::KeyRule };
            assert_eq!(refused, null);
        }
    }

    #[test]
    fn headers_stand_between_the_relays_own_and_the_rows() {
        let headers = vec![
            ("a".to_owned(), template("{aggregatetype}/{aggregateid}")),
            ("none".to_owned(), template("x{partition_key}")),
            ("z".to_owned(), template("fixed")),
        ];
        let plan = plan(Rules { headers, ..Rules::default() });
        let row = native_row(&[("headers", Text(b"{\"own\":\"1\"}"))]);
        let mut scratch = Scratch::default();
        let record = plan.record(&row, &AT, &mut scratch).unwrap();
        let headers: Vec<_> = record.headers.iter().skip(3).collect();
        assert_eq!(headers, [("a", b"order/o-1".as_slice()), ("z", b"fixed"), ("own", b"1")]);
    }

    #[test]
    fn what_rules_replace_need_not_be_in_the_table() {
        let rules = Rules { key: Some(template("{id}")), ..topic("all", None) };
        let mut outbox = fixture::native_outbox();
        outbox.columns.rules = rules.columns();
        outbox.rules = rules;
        let published: Vec<_> = outbox.columns.published().collect();
        assert!(
            !["aggregatetype", "aggregateid", "partition_key"].iter().any(|name| published.contains(name))
        );
        let mut shape = fixture::native_shape();
        shape.columns.retain(|column| published.contains(&column.name.as_str()));
        Plan::compile(&shape, &outbox, &fixture::kafka()).unwrap();
    }

    #[test]
    fn a_rules_missing_column_is_named() {
        let mut outbox = fixture::native_outbox();
        outbox.rules = topic("{region}", None);
        let error = Plan::compile(&fixture::native_shape(), &outbox, &fixture::kafka()).unwrap_err();
        assert!(error.to_string().contains("lacks column \"region\" (route.topic);"), "{error}");
    }

    proptest! {
        /// The golden default, said as rules, is the same record.
        #[test]
        fn the_default_said_as_rules_is_the_default(
            kind in "[a-zA-Z. ]{0,12}", id in ".{0,12}", by_prefix: bool,
        ) {
            let row = native_row(&[("aggregatetype", Text(kind.as_bytes())), ("aggregateid", Text(id.as_bytes()))]);
            let text = if by_prefix { rules::Template::prefixed("outbox.event.") } else { template("outbox.event.{aggregatetype}") };
            let topic = Some(rules::TopicRule { template: text, rewrite: None });
            let ruled = plan(Rules { topic, key: Some(template("{aggregateid}")), headers: Vec::new() });
            let (mut one, mut other) = (Scratch::default(), Scratch::default());
            match (ruled.record(&row, &AT, &mut one), fixture::plan().record(&row, &AT, &mut other)) {
                (Ok(ruled), Ok(plain)) => {
                    prop_assert_eq!(ruled.topic, plain.topic);
                    prop_assert_eq!(ruled.key, plain.key);
                    prop_assert_eq!(ruled.headers.iter().collect::<Vec<_>>(), plain.headers.iter().collect::<Vec<_>>());
                }
                (Err(_), Err(_)) => {}
                (ruled, plain) => prop_assert!(false, "{ruled:?} {plain:?}"),
            }
        }
    }
}
