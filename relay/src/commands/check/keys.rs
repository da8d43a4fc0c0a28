//! What the newest rows say of the choice of keys, of sizes, and of the topics they go to.

use outbox_schema::sql::{quote_identifier, quote_literal, quote_qualified};
use serde::Deserialize;

use super::ask;
use super::finding::{Area, Finding};
use super::table;
use crate::commands::init::survey::is_contract;
use crate::commands::words::bytes;
use crate::config::rules::{Piece, Template};
use crate::config::{OutboxSettings, Settings};
use crate::router::topic;
use crate::session::{Sql, SqlError};

/// Rows that are looked at.
const ROWS: i64 = 10_000;
/// Blocks at the end of a table without an order that are looked at.
const BLOCKS: i64 = 500;
/// Fewer rows say nothing of keys.
const TELLING: i64 = 100;
/// What key and headers add to a payload, generously.
const BESIDE: i64 = 2048;
/// The key that makes keys by rule.
const ROUTE_KEY: &str = "route.key";

/// What the sample showed. Values of rows are not in it but for aggregate types, which are topics' names.
#[derive(Debug, Clone, Deserialize)]
pub struct Sample {
    /// Rows looked at.
    pub rows: i64,
    /// Different keys.
    pub keys: i64,
    /// Rows without a key.
    pub null_keys: i64,
    /// Rows whose key is their id.
    pub key_is_id: i64,
    /// Rows of the most frequent key.
    pub most: i64,
    /// The largest payload in bytes.
    pub largest: i64,
    /// Aggregate types, the most frequent first, at most 200.
    pub aggregate_types: Vec<Option<String>>,
    /// Age in seconds of the oldest row of the sample that is not known to be published.
    pub oldest_unpublished: Option<f64>,
}

/// Looks at the newest rows. `published` is the text of the newest published snapshot.
pub async fn look(
    sql: &Sql,
    settings: &Settings,
    table: &table::Facts,
    published: Option<&str>,
) -> Result<Sample, SqlError> {
    let statement = statement(settings, table, published);
    ask::document(sql, "looking at the newest rows of the table", &statement, &[]).await
}

fn statement(settings: &Settings, table: &table::Facts, published: Option<&str>) -> String {
    let (columns, rules) = (&settings.outbox.columns, &settings.outbox.rules);
    let key = match (&rules.key, &columns.partition_key) {
        (Some(template), _) => made_by(template),
        (None, Some(column)) => {
            format!(
                "coalesce({}::text, {}::text)",
                quote_identifier(column),
                quote_identifier(&columns.aggregateid)
            )
        }
        (None, None) => format!("{}::text", quote_identifier(&columns.aggregateid)),
    };
    let kind = match &rules.topic {
        Some(rule) => made_by(&rule.template),
        None => format!("{}::text", quote_identifier(&columns.aggregatetype)),
    };
    let payload = quote_identifier(&columns.payload);
    let is_bytea = table.column(&columns.payload).is_some_and(|column| column.r#type == "bytea");
    let size =
        if is_bytea { format!("octet_length({payload})") } else { format!("octet_length({payload}::text)") };
    let age = match (&columns.writer, &columns.created_at, published) {
        (Some(writer), Some(created_at), Some(snapshot)) => format!(
            "CASE WHEN NOT pg_visible_in_snapshot({}, {}::pg_snapshot)
                  THEN extract(epoch FROM clock_timestamp() - {}) END::float8",
            quote_identifier(writer),
            quote_literal(snapshot),
            quote_identifier(created_at)
        ),
        _ => "NULL::float8".to_owned(),
    };
    format!(
        "WITH newest AS MATERIALIZED ({}),
              sample AS MATERIALIZED (SELECT {key} AS key, {}::text AS id, {kind} AS kind, {size} AS size, {age} AS age FROM newest),
              kinds AS (SELECT kind, count(*) AS n FROM sample GROUP BY kind ORDER BY n DESC, kind LIMIT 200)
         SELECT jsonb_build_object(
            'rows', count(*), 'keys', count(DISTINCT key), 'null_keys', count(*) FILTER (WHERE key IS NULL),
            'key_is_id', count(*) FILTER (WHERE key = id),
            'most', coalesce((SELECT max(n) FROM (SELECT count(*) AS n FROM sample WHERE key IS NOT NULL GROUP BY key) k), 0),
            'largest', coalesce(max(size), 0),
            'oldest_unpublished', max(age),
            'aggregate_types', (SELECT coalesce(jsonb_agg(kind), '[]') FROM kinds))::text
         FROM sample",
        newest(settings, table),
        quote_identifier(&columns.id),
    )
}

/// What a template makes of a row, in SQL: NULL where one of its columns is.
fn made_by(template: &Template) -> String {
    let pieces: Vec<String> = template
        .pieces
        .iter()
        .map(|piece| match piece {
            Piece::Literal(text) => quote_literal(text),
            Piece::Column(column) => format!("{}::text", quote_identifier(column)),
        })
        .collect();
    format!("({})", pieces.join(" || "))
}

/// The newest rows, by an index wherever one can be known.
fn newest(settings: &Settings, table: &table::Facts) -> String {
    let outbox: &OutboxSettings = &settings.outbox;
    let name = quote_qualified(&outbox.schema, &outbox.table);
    match &outbox.columns.seq {
        // The primary key is (bucket, seq): the newest of each bucket, then the newest of those.
        Some(_) if is_contract(settings) => format!(
            "SELECT n.* FROM generate_series(0, 7) b,
                    LATERAL (SELECT e.* FROM {name} e WHERE e.bucket = b::smallint ORDER BY e.seq DESC LIMIT {ROWS}) n
             ORDER BY n.seq DESC LIMIT {ROWS}"
        ),
        Some(seq) => format!("SELECT * FROM {name} ORDER BY {} DESC LIMIT {ROWS}", quote_identifier(seq)),
        None if table.partitioned => format!("SELECT * FROM {name} LIMIT {ROWS}"),
        // Rows are appended, so the newest stand in the last blocks.
        None => format!(
            "SELECT * FROM {name} WHERE ctid >= format('(%s,0)', greatest(0, pg_relation_size({}::regclass)
                / current_setting('block_size')::int - {BLOCKS}))::tid LIMIT {ROWS}",
            quote_literal(&name)
        ),
    }
}

/// The topics that these rows go to, and the aggregate types that make none.
pub fn topics(sample: &Sample, settings: &Settings) -> (Vec<String>, Vec<Finding>) {
    let (mut topics, mut findings) = (Vec::new(), Vec::new());
    for kind in sample.aggregate_types.iter().flatten() {
        let mut name = String::new();
        let outbox = &settings.outbox;
        let made = match &outbox.rules.topic {
            Some(rule) => {
                let rewritten = rule.rewrite.as_ref().and_then(|rewrite| rewrite.apply(kind));
                topic::route("", rewritten.as_deref().unwrap_or(kind).as_bytes(), &mut name)
            }
            None => topic::route(&settings.kafka.topic_prefix, kind.as_bytes(), &mut name),
        };
        match (made, &outbox.rules.topic) {
            (Ok(()), _) if topics.contains(&name) => {}
            (Ok(()), _) => topics.push(name),
            (Err(fault), Some(_)) => findings.push(
                Finding::error(
                    Area::Keys,
                    "topic-illegal",
                    format!("`{kind}`, which route.topic makes,"),
                    format!("is no topic's name: {fault}"),
                )
                .mend("mend route.topic, route.regex and route.replacement", "outbox-relay config show"),
            ),
            (Err(fault), None) => {
                let column = quote_identifier(&outbox.columns.aggregatetype);
                findings.push(
                    Finding::error(
                        Area::Keys,
                        "topic-illegal",
                        format!("aggregate type {kind:?}"),
                        format!("makes no topic's name: {fault}"),
                    )
                    .mend(
                        "let the insert fail in the producer's transaction",
                        format!(
                            "ALTER TABLE {} ADD CHECK ({column} ~ '^[A-Za-z0-9._-]+$') NOT VALID;",
                            quote_qualified(&outbox.schema, &outbox.table)
                        ),
                    ),
                );
            }
        }
    }
    (topics, findings)
}

/// What the sample says.
pub fn judge(sample: &Sample, settings: &Settings) -> Vec<Finding> {
    let outbox = &settings.outbox;
    if sample.rows == 0 {
        let seen = "the table is empty: nothing is known yet of keys, sizes and topics";
        return vec![
            Finding::note(Area::Keys, "no-rows", format!("{}.{}", outbox.schema, outbox.table), seen)
                .advised("check again when there are events", "outbox-relay check"),
        ];
    }
    let mut findings = vec![choice(sample, settings)];
    if sample.null_keys > 0 && outbox.rules.key.is_some() {
        findings.push(
            Finding::error(
                Area::Keys,
                "keys-null",
                ROUTE_KEY,
                format!(
                    "{} of the newest {} rows have NULL in a column that it names, and cannot be published",
                    sample.null_keys, sample.rows
                ),
            )
            .mend("name columns that are never NULL", "outbox-relay config show"),
        );
    } else if sample.null_keys > 0 {
        let column = &outbox.columns.aggregateid;
        findings.push(
            Finding::error(
                Area::Keys,
                "keys-null",
                column,
                format!(
                    "{} of the newest {} rows have no key, and cannot be published",
                    sample.null_keys, sample.rows
                ),
            )
            .mend(
                "give every event the id of the thing that changed, and let the table insist on it",
                format!(
                    "ALTER TABLE {} ADD CHECK ({} IS NOT NULL) NOT VALID;",
                    quote_qualified(&outbox.schema, &outbox.table),
                    quote_identifier(column)
                ),
            ),
        );
    }
    findings.push(size(sample, settings));
    findings
}

fn choice(sample: &Sample, settings: &Settings) -> Finding {
    let outbox = &settings.outbox;
    let (column, key) = match &outbox.rules.key {
        Some(template) => (ROUTE_KEY, made_by(template)),
        None => (outbox.columns.aggregateid.as_str(), quote_identifier(&outbox.columns.aggregateid)),
    };
    let Sample { rows, keys, most, .. } = *sample;
    if rows >= TELLING && sample.key_is_id * 2 > rows {
        return unique(
            column,
            format!("is the event's id in {} of the newest {rows} rows", sample.key_is_id),
        );
    }
    if rows >= TELLING && keys * 100 >= rows * 95 {
        return unique(
            column,
            format!("{keys} different keys in the newest {rows} rows: it is probably the event's id"),
        );
    }
    if rows >= TELLING && most * 2 > rows {
        let seen = format!(
            "one key has {most} of the newest {rows} rows: they all go through one partition, one after another"
        );
        return Finding::note(Area::Keys, "keys-dominated", column, seen).advised(
            "find it; where its events need no common order, give them a finer partition key",
            format!(
                "SELECT {key}, count(*) FROM {} GROUP BY 1 ORDER BY 2 DESC LIMIT 5;",
                quote_qualified(&outbox.schema, &outbox.table)
            ),
        );
    }
    Finding::ok(Area::Keys, "keys", column, format!("{keys} different keys in the newest {rows} rows"))
}

fn unique(column: &str, seen: String) -> Finding {
    Finding::warning(
        Area::Keys,
        "keys-unique",
        column,
        format!("{seen}. Order is kept per key, so that events of one entity may overtake each other"),
    )
    .mend(
        "put the entity's id there (the order, the account), not the event's; or map the column that holds it",
        "outbox.columns.aggregateid = \"<column of the entity's id>\"",
    )
}

fn size(sample: &Sample, settings: &Settings) -> Finding {
    const SUBJECT: &str = "kafka.max_record_bytes";
    let limit = i64::try_from(settings.kafka.max_record_bytes).unwrap_or(i64::MAX);
    let seen = format!(
        "the largest payload of the newest {} rows has {}, the limit is {}",
        sample.rows,
        bytes(sample.largest),
        bytes(limit)
    );
    if sample.largest.saturating_add(BESIDE) <= limit {
        return Finding::ok(Area::Keys, "sizes", SUBJECT, seen);
    }
    Finding::warning(Area::Keys, "payload-large", SUBJECT, format!("{seen}: such a row cannot be published")).mend(
        "raise it together with the topics' max.message.bytes, or keep large things elsewhere and send where they are",
        format!("kafka.max_record_bytes = {}", sample.largest.saturating_add(100_000)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::check::fixture::{codes, settings};
    use crate::config::rules::{Rewrite, TopicRule, whole};

    fn sound() -> Sample {
        Sample {
            rows: 10_000,
            keys: 900,
            null_keys: 0,
            key_is_id: 0,
            most: 40,
            largest: 4096,
            aggregate_types: vec![Some("order".into())],
            oldest_unpublished: None,
        }
    }

    #[test]
    fn the_choice_of_the_key_is_judged_by_shares() {
        let found = |sample: Sample| codes(&judge(&sample, &settings()));
        assert_eq!(found(sound()), [""; 0]);
        assert_eq!(found(Sample { rows: 0, ..sound() }), ["no-rows"]);
        assert_eq!(found(Sample { keys: 9_600, ..sound() }), ["keys-unique"]);
        assert_eq!(found(Sample { key_is_id: 5_001, ..sound() }), ["keys-unique"]);
        assert_eq!(found(Sample { most: 5_001, ..sound() }), ["keys-dominated"]);
        assert_eq!(found(Sample { null_keys: 1, ..sound() }), ["keys-null"]);
        assert_eq!(found(Sample { largest: 999_000, ..sound() }), ["payload-large"]);
        // A few rows tell nothing.
        assert_eq!(found(Sample { rows: 99, keys: 99, most: 60, ..sound() }), [""; 0]);
    }

    #[test]
    fn topics_are_the_routers() {
        let sample =
            Sample { aggregate_types: vec![Some("order".into()), Some("a b".into()), None], ..sound() };
        let (topics, findings) = topics(&sample, &settings());
        assert_eq!(topics, ["outbox.event.order"]);
        assert_eq!(codes(&findings), ["topic-illegal"]);
        assert!(findings[0].seen.contains("byte 0x20"), "{}", findings[0].seen);
    }

    #[test]
    fn rules_make_topics_and_keys_as_the_router_does() {
        let mut settings = settings();
        let template = Template::parse("shop.{kind's}").unwrap();
        let rewrite = Rewrite::new(whole("shop[.](.*)s").unwrap(), "$1").unwrap();
        settings.outbox.rules.topic = Some(TopicRule { template, rewrite: Some(rewrite) });
        settings.outbox.rules.key = Some(Template::parse("{tenant}/{id}").unwrap());
        let table =
            table::Facts { partitioned: false, unlogged: false, row_security: false, columns: Vec::new() };
        let statement = statement(&settings, &table, None);
        assert!(statement.contains("('shop.' || \"kind's\"::text) AS kind"), "{statement}");
        assert!(statement.contains("(\"tenant\"::text || '/' || \"id\"::text) AS key"), "{statement}");
        assert!(
            !statement.contains("aggregate_type\"") && !statement.contains("\"aggregateid\""),
            "{statement}"
        );
        let made = ["shop.orders", "shop.order", "shop.orders", "shop.a b"];
        let sample = Sample {
            aggregate_types: made.map(|kind| Some(kind.to_owned())).to_vec(),
            null_keys: 1,
            ..sound()
        };
        let (topics, findings) = topics(&sample, &settings);
        assert_eq!(
            (topics, codes(&findings)),
            (vec!["order".into(), "shop.order".into()], vec!["topic-illegal"])
        );
        assert_eq!(judge(&sample, &settings)[1].subject, "route.key");
    }

    #[test]
    fn the_sample_goes_by_an_index_where_one_is_known() {
        let table =
            table::Facts { partitioned: false, unlogged: false, row_security: false, columns: Vec::new() };
        let mut settings = settings();
        let statement = |settings: &Settings| statement(settings, &table, Some("7:7:"));
        assert!(statement(&settings).contains("e.bucket = b::smallint ORDER BY e.seq DESC"));
        assert!(statement(&settings).contains("pg_visible_in_snapshot(\"writer\", '7:7:'::pg_snapshot)"));
        settings.outbox.table = "mine".into();
        assert!(statement(&settings).contains("FROM \"outbox\".\"mine\" ORDER BY \"seq\" DESC"));
        settings.outbox.columns.seq = None;
        assert!(statement(&settings).contains("WHERE ctid >="));
        settings.outbox.columns.writer = None;
        assert!(statement(&settings).contains("NULL::float8"));
    }
}
