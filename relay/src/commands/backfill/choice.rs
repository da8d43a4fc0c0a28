//! Which events are meant, as a condition in SQL. Pure.

use clap::{ArgGroup, Args};
use jiff::Timestamp;
use outbox_schema::sql::{quote_identifier, quote_literal};

use crate::config::OutboxSettings;
use crate::config::rules::{Piece, Template};

/// The events that are meant; what is given together has to hold together.
#[derive(Debug, Clone, Default, Args)]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["from", "to", "id", "key"]))]
pub struct Choice {
    /// Events made at this time or later, such as 2026-11-22T10:00:00Z (outbox.columns.created_at)
    #[arg(long, value_name = "TIME")]
    pub from: Option<Timestamp>,
    /// Events made before this time
    #[arg(long, value_name = "TIME")]
    pub to: Option<Timestamp>,
    /// The event with this id; may be given several times
    #[arg(long, value_name = "ID")]
    pub id: Vec<String>,
    /// Events of this key, which is the record's on Kafka
    #[arg(long, requires = "aggregatetype", value_name = "KEY")]
    pub key: Option<String>,
    /// The aggregate type of the key
    #[arg(long, requires = "key", value_name = "TYPE")]
    pub aggregatetype: Option<String>,
    /// Go on behind this row: what an interrupted backfill said at its end
    #[arg(long, value_name = "SEQ", allow_negative_numbers = true)]
    pub after: Option<i64>,
}

impl Choice {
    /// The condition.
    ///
    /// # Errors
    /// A sentence: it cannot be asked of this table.
    pub fn condition(&self, outbox: &OutboxSettings) -> Result<String, String> {
        let columns = &outbox.columns;
        let mut all = Vec::new();
        for (time, comparison) in [(self.from, ">="), (self.to, "<")] {
            let Some(time) = time else { continue };
            let Some(created_at) = &columns.created_at else {
                return Err(
                    "--from and --to need outbox.columns.created_at: nothing else says when a row was made"
                        .into(),
                );
            };
            let time = quote_literal(&time.to_string());
            all.push(format!("{} {comparison} {time}::timestamptz", quote_identifier(created_at)));
        }
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            return Err("--from is not before --to".into());
        }
        if !self.id.is_empty() {
            // Without a cast, so that the column's own type and index are used.
            let ids: Vec<String> = self.id.iter().map(|id| quote_literal(id)).collect();
            all.push(format!("{} IN ({})", quote_identifier(&columns.id), ids.join(", ")));
        }
        if let (Some(key), Some(kind)) = (&self.key, &self.aggregatetype) {
            let kind_column = quote_identifier(&columns.aggregatetype);
            all.push(format!("{kind_column} = {}", quote_literal(kind)));
            all.push(format!("{} = {}", key_expression(outbox), quote_literal(key)));
        }
        if let Some(after) = self.after {
            let Some(seq) = &columns.seq else { return Err(NO_ORDER.into()) };
            all.push(format!("{} > {after}", quote_identifier(seq)));
        }
        Ok(all.join(" AND "))
    }
}

/// Why a table without `seq` cannot be published from.
pub const NO_ORDER: &str =
    "the table has no outbox.columns.seq, so the order in which its rows were inserted is not known";

/// What the record's key is made of, in SQL.
fn key_expression(outbox: &OutboxSettings) -> String {
    if let Some(rule) = &outbox.rules.key {
        return template(rule);
    }
    let text = |column: &String| format!("{}::text", quote_identifier(column));
    let aggregateid = text(&outbox.columns.aggregateid);
    match &outbox.columns.partition_key {
        Some(partition_key) => format!("coalesce({}, {aggregateid})", text(partition_key)),
        None => aggregateid,
    }
}

fn template(rule: &Template) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Literal(text) => quote_literal(text),
        Piece::Column(column) => format!("{}::text", quote_identifier(column)),
    };
    format!("({})", rule.pieces.iter().map(piece).collect::<Vec<_>>().join(" || "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::backfill::fixture;

    fn condition(choice: &Choice) -> String {
        choice.condition(&fixture::outbox("")).unwrap()
    }

    #[test]
    fn what_is_given_together_holds_together() {
        let time = |text: &str| Some(text.parse::<Timestamp>().unwrap());
        let choice = Choice {
            from: time("2026-11-22T10:00:00Z"),
            to: time("2026-11-22T11:00:00+01:00"),
            after: Some(7),
            ..Choice::default()
        };
        assert_eq!(choice.condition(&fixture::outbox("")), Err("--from is not before --to".to_owned()));
        let choice = Choice { to: time("2026-11-22T11:00:00Z"), ..choice };
        assert_eq!(
            condition(&choice),
            "\"created_at\" >= '2026-11-22T10:00:00Z'::timestamptz AND \"created_at\" < \
             '2026-11-22T11:00:00Z'::timestamptz AND \"seq\" > 7"
        );
    }

    #[test]
    fn nothing_of_a_value_is_read_as_sql() {
        let choice = Choice { id: vec!["a'b".into(), "c".into()], ..Choice::default() };
        assert_eq!(condition(&choice), "\"id\" IN ('a''b', 'c')");
        let choice =
            Choice { key: Some("k'1".into()), aggregatetype: Some("order".into()), ..Choice::default() };
        assert_eq!(
            condition(&choice),
            "\"aggregatetype\" = 'order' AND coalesce(\"partition_key\"::text, \"aggregateid\"::text) = 'k''1'"
        );
    }

    #[test]
    fn a_key_by_rule_is_asked_by_its_rule() {
        let choice =
            Choice { key: Some("eu/1".into()), aggregatetype: Some("o".into()), ..Choice::default() };
        let outbox = fixture::outbox("[route]\nkey = \"{tenant}/{aggregateid}\"\n");
        let asked = choice.condition(&outbox).unwrap();
        assert!(asked.ends_with("(\"tenant\"::text || '/' || \"aggregateid\"::text) = 'eu/1'"), "{asked}");
    }

    #[test]
    fn a_table_without_the_column_is_refused() {
        let outbox = fixture::outbox("[outbox]\ntable = \"public.outbox\"\n");
        let by_time = Choice { from: Some(Timestamp::UNIX_EPOCH), ..Choice::default() };
        assert!(by_time.condition(&outbox).unwrap_err().contains("created_at"));
        let by_place = Choice { after: Some(1), ..Choice::default() };
        assert_eq!(by_place.condition(&outbox).unwrap_err(), NO_ORDER);
    }
}
