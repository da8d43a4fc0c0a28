//! Entries of `outbox.quarantine` as a relay writes them, for tests without one.

use outbox_schema::record::Position;
use tokio_postgres::Client;

/// OID of `text`.
const TEXT: u32 = 25;

/// A row's columns: names, and values of which `None` is an SQL NULL.
pub type Row = Vec<(&'static str, Option<Vec<u8>>)>;

/// One entry. What is not given is that of an ordinary held event.
#[derive(Debug, Clone)]
pub struct Entry {
    relay: String,
    position: Position,
    key: Option<Vec<u8>>,
    state: &'static str,
    cause: &'static str,
    reason: String,
    topic: &'static str,
    event_id: String,
    row: Option<Row>,
}

impl Entry {
    /// A held event of key `k-1` and topic `outbox.event.order`, refused as too large.
    pub fn held(relay: &str, commit_lsn: u64, ordinal: u64) -> Entry {
        let position = Position { epoch: 3, commit_lsn, ordinal };
        Entry {
            relay: relay.to_owned(),
            position,
            key: Some(b"k-1".to_vec()),
            state: "held",
            cause: "too_large",
            reason: "the record has 2000000 bytes; `kafka.max_record_bytes` allows 1000000".into(),
            topic: "outbox.event.order",
            event_id: format!("01900000-0000-7000-8000-{commit_lsn:08x}{ordinal:04x}"),
            row: Some(vec![
                ("id", Some(b"01900000-0000-7000-8000-000000000001".to_vec())),
                ("aggregateid", Some(b"k-1".to_vec())),
                ("traceparent", None),
                ("payload", Some(b"{\"secret\": \"4711\"}".to_vec())),
            ]),
        }
    }

    /// An event that waits behind a held one.
    pub fn queued(relay: &str, commit_lsn: u64, ordinal: u64) -> Entry {
        Entry {
            state: "queued",
            cause: "behind",
            reason: "an earlier event of its key is held".into(),
            ..Entry::held(relay, commit_lsn, ordinal)
        }
    }

    /// An event that was passed over.
    pub fn passed(relay: &str, commit_lsn: u64, ordinal: u64) -> Entry {
        Entry { state: "passed", ..Entry::held(relay, commit_lsn, ordinal) }
    }

    /// Another key.
    #[must_use]
    pub fn key(self, key: &[u8]) -> Entry {
        Entry { key: Some(key.to_vec()), ..self }
    }

    /// Another topic.
    #[must_use]
    pub fn topic(self, topic: &'static str) -> Entry {
        Entry { topic, ..self }
    }

    /// Another id of the event.
    #[must_use]
    pub fn id(self, id: &str) -> Entry {
        Entry { event_id: id.to_owned(), ..self }
    }

    /// Other columns of the row; `None` keeps no more than a reference.
    #[must_use]
    pub fn row(self, row: Option<Row>) -> Entry {
        Entry { row, ..self }
    }

    /// Its position.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Its event's id.
    pub fn event_id(&self) -> &str {
        &self.event_id
    }

    /// Writes it.
    ///
    /// # Errors
    /// What the server answered.
    ///
    /// # Panics
    /// When a number of the position is above what PostgreSQL holds.
    pub async fn try_insert(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let statement = "INSERT INTO outbox.quarantine (relay, lane, epoch, commit_lsn, ordinal, committed_at,
                event_id, aggregatetype, event_type, topic, key, held_by, state, cause, reason,
                columns, types, row_values, formats, bytes)
            VALUES ($1, 0, $2, $3::text::pg_lsn, $4, now(), $5, 'order', 'OrderPlaced', $6, $7, $8, $9, $10, $11,
                $12, $13, $14, $15, 2000000)";
        let Position { epoch, commit_lsn, ordinal } = self.position;
        let signed = |number: u64| i64::try_from(number).expect("a small number");
        let lsn = format!("{:X}/{:X}", commit_lsn >> 32, commit_lsn & 0xFFFF_FFFF);
        let held_by = (self.state != "passed").then_some(self.topic);
        let row = self.row.as_ref();
        let columns = row.map(|row| row.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        let types = row.map(|row| vec![TEXT; row.len()]);
        let values = row.map(|row| row.iter().map(|(_, value)| value.as_deref()).collect::<Vec<_>>());
        let formats = row.map(|row| {
            row.iter().map(|(_, value)| if value.is_some() { 't' } else { 'n' }).collect::<String>()
        });
        client
            .execute(
                statement,
                &[
                    &self.relay,
                    &signed(epoch),
                    &lsn,
                    &signed(ordinal),
                    &self.event_id,
                    &self.topic,
                    &self.key,
                    &held_by,
                    &self.state,
                    &self.cause,
                    &self.reason,
                    &columns,
                    &types,
                    &values,
                    &formats,
                ],
            )
            .await
            .map(|_| ())
    }

    /// Writes it.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn insert(&self, client: &Client) {
        self.try_insert(client).await.unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
    }
}
