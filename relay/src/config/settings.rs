//! What the relay runs with: typed, defaulted and validated. Every value here has passed validation;
//! the rest of the relay never looks at text from a file or the environment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outbox_postgres_link::password;
use outbox_postgres_link::transport::Transport;
use outbox_postgres_link::url::Place;
use secrecy::SecretString;

use super::delivery::DeliverySettings;
use super::lanes::LaneId;
use super::recovery::RecoverySettings;
use super::rules::{RuleColumns, Rules};

/// Everything a lane of a relay runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The relay's name, `[a-z][a-z0-9_]{0,40}`; slot and publication are `outbox_<name>`, or
    /// `outbox_<name>_<lane>` for a lane with a name.
    pub name: String,
    /// Which lane's settings these are.
    pub lane: LaneId,
    /// Where the events come from.
    pub source: SourceSettings,
    /// Where the events go.
    pub kafka: KafkaSettings,
    /// How often an event comes.
    pub delivery: DeliverySettings,
    /// Topics of events.
    pub topics: TopicSettings,
    /// The outbox table and its columns.
    pub outbox: OutboxSettings,
    /// What becomes of rows that cannot be published.
    pub quarantine: QuarantineSettings,
    /// What becomes of published rows.
    pub cleanup: CleanupSettings,
    /// What to do with what stands in the table before there is a slot.
    pub existing: Existing,
    /// What follows where slot, server and state record do not agree.
    pub recovery: RecoverySettings,
    /// The state record on Kafka.
    pub state: StateSettings,
    /// The admin port.
    pub admin: AdminSettings,
    /// How long a drain may take before the relay gives up and says what is left (default 25 s, below
    /// the 30 s that Kubernetes grants).
    pub drain_timeout: Duration,
    /// Log output.
    pub log: LogSettings,
}

impl Settings {
    /// Name of the replication slot.
    pub fn slot(&self) -> String {
        match &self.lane.name {
            None => format!("outbox_{}", self.name),
            Some(lane) => format!("outbox_{}_{lane}", self.name),
        }
    }

    /// The settings for each server that may be the primary, in the order of `source.url`.
    pub fn places(&self) -> Vec<Settings> {
        let of = |place: &Place| {
            let mut settings = self.clone();
            let Place { host, port, transport } = place.clone();
            (settings.source.host, settings.source.port, settings.source.transport) = (host, port, transport);
            settings
        };
        std::iter::once(self.clone()).chain(self.source.others.iter().map(of)).collect()
    }

    /// Name of the publication.
    pub fn publication(&self) -> String {
        // The clean-up of a table looks for a slot of the publication's name.
        self.slot()
    }
}

/// The PostgreSQL server and how to talk to it. Parsed from a `postgres://` URL.
#[derive(Debug, Clone)]
pub struct SourceSettings {
    /// Host name or address.
    pub host: String,
    /// TCP port (default 5432).
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Password from the URL, `source.password`, `source.password_file` or the environment; never printed.
    pub password: Option<SecretString>,
    /// The file that the password stands in, read again for every connection.
    pub password_file: Option<PathBuf>,
    /// Database of the outbox.
    pub database: String,
    /// How its connections are protected.
    pub transport: Transport,
    /// Further servers that may be the primary.
    pub others: Vec<Place>,
    /// `application_name` of the relay's sessions (default `outbox_<name>`).
    pub application_name: String,
    /// Limit of one connection attempt (default 10 s).
    pub connect_timeout: Duration,
    /// `wal_sender_timeout` of the replication session (default 10 s); feedback goes out at least three
    /// times as often.
    pub wal_sender_timeout: Duration,
    /// Frames above this are not held (default 8 MiB).
    pub max_row_bytes: usize,
    /// Bytes read ahead of the router (default 16 MiB); full means "stop reading".
    pub read_ahead_bytes: usize,
    /// Whether slots that are made are failover slots, from PostgreSQL 17 on (default true).
    pub failover_slot: bool,
    /// Receive buffer of the replication connection (default `auto`).
    pub receive_buffer: ReceiveBuffer,
}

impl SourceSettings {
    /// The password as its file holds it now; where the file cannot be read, what it held at the start.
    pub fn password_now(&self) -> Option<SecretString> {
        let Some(file) = &self.password_file else { return self.password.clone() };
        match password::from_file(file) {
            Ok(password) => Some(password),
            Err(problem) => {
                tracing::warn!(
                    "source.password_file {}: {problem}; using what it held before",
                    file.display()
                );
                self.password.clone()
            }
        }
    }
}

/// How much of what the server sends the kernel holds for the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReceiveBuffer {
    /// Small for a server that is near, the system's choice for one that is far.
    Auto,
    /// Small: the server sends in large segments, but at most a window per round trip.
    Small,
    /// The system's choice.
    System,
}

/// The Kafka cluster and how to publish to it.
#[derive(Clone)]
pub struct KafkaSettings {
    /// Bootstrap servers, `host:port,host:port`.
    pub brokers: String,
    /// Compression of record batches: `none`, `gzip`, `snappy`, `lz4` (default) or `zstd`.
    pub compression: String,
    /// How long a record waits for company in its batch (default 0).
    pub linger: Duration,
    /// Records handed over and not yet acknowledged (default 20,000); full means "stop routing".
    pub max_in_flight_records: usize,
    /// Bytes handed over and not yet acknowledged (default 32 MiB).
    pub max_in_flight_bytes: usize,
    /// Largest record the relay hands over, keys and headers included (default 1,000,000, below the
    /// brokers' default limit of 1,048,588).
    pub max_record_bytes: usize,
    /// Routed topics are this prefix and the aggregate type (default `outbox.event.`).
    pub topic_prefix: String,
    /// `security.protocol`: what the options say, or what follows from where the brokers are.
    pub protocol: String,
    /// Further librdkafka options, taken as they are; what would break a promise was refused.
    pub options: Vec<(String, String)>,
}

/// By hand because `options` may hold a password: of those only the names are printed.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options: Vec<&str> = self.options.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("compression", &self.compression)
            .field("linger", &self.linger)
            .field("max_in_flight_records", &self.max_in_flight_records)
            .field("max_in_flight_bytes", &self.max_in_flight_bytes)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("topic_prefix", &self.topic_prefix)
            .field("protocol", &self.protocol)
            .field("options", &options)
            .finish()
    }
}

/// Topics of events: whether and how they are made, and how often they are looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSettings {
    /// Whether a topic that rows route to and that does not exist is made (default false).
    pub create: bool,
    /// Partitions of a topic that is made (default 12).
    pub partitions: usize,
    /// Its replicas; `None`: 3 where the cluster has as many brokers.
    pub replication: Option<usize>,
    /// Its `min.insync.replicas`; `None`: 2 where it has three replicas.
    pub min_insync_replicas: Option<usize>,
    /// Its `retention.ms`; `None`: the cluster's own.
    pub retention: Option<Duration>,
    /// Further configuration of a topic that is made, by Kafka's names.
    pub options: Vec<(String, String)>,
    /// Time between two looks at the topics of a running relay (default 1 min).
    pub look_interval: Duration,
}

/// The outbox table: the project's own, or one of another shape by column mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Schema of the table (default `outbox`).
    pub schema: String,
    /// Name of the table (default `events`).
    pub table: String,
    /// Which column plays which part. `None`: the table has no such column.
    pub columns: ColumnNames,
    /// What is made of a row by rule.
    pub rules: Rules,
    /// The form in which its rows are streamed.
    pub format: SourceFormat,
    /// The prefix of the logical messages that are the events, in place of rows of the table; the columns then are
    /// members of their content.
    pub message_prefix: Option<String>,
    /// Whether orders of `backfill` are followed.
    pub backfill: bool,
}

impl OutboxSettings {
    /// Whether it is the contract's own table.
    pub fn is_contract(&self) -> bool {
        self.schema == outbox_schema::sql::SCHEMA && self.table == outbox_schema::sql::TABLE
    }
}

/// What the events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventsFrom {
    /// Rows of a table.
    Table,
    /// Logical messages, as `outbox.emit()` writes them.
    Messages,
}

/// The form in which the server sends values. The records are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFormat {
    /// As the types' output functions write them.
    Text,
    /// As the types' send functions write them.
    Binary,
}

/// Names of the columns by the part they play. The defaults of a table other than `outbox.events` are
/// Debezium's plain five: `id`, `aggregatetype`, `aggregateid`, `type`, `payload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnNames {
    /// The event's id.
    pub id: String,
    /// Routes the event to its topic.
    pub aggregatetype: String,
    /// The record's key unless a partition key is set.
    pub aggregateid: String,
    /// The event's type.
    pub r#type: String,
    /// The record's value.
    pub payload: String,
    /// The event's schema version.
    pub schema_version: Option<String>,
    /// The aggregate's own version.
    pub version: Option<String>,
    /// Overrides the key.
    pub partition_key: Option<String>,
    /// Further headers, a JSON object.
    pub headers: Option<String>,
    /// Trace context.
    pub traceparent: Option<String>,
    /// When the event was made.
    pub created_at: Option<String>,
    /// The writing transaction (`xid8`); without it a lost slot cannot be filled.
    pub writer: Option<String>,
    /// The order of a fill.
    pub seq: Option<String>,
    /// The columns that rules name, and what they make superfluous.
    pub rules: RuleColumns,
}

impl ColumnNames {
    /// Whether a column becomes part of a record. `writer` and `seq` serve the fill and clean-up only and
    /// are not in the stream.
    pub fn publishes(&self, column: &str) -> bool {
        self.published().any(|name| name == column)
    }

    /// The columns that become part of a record; what a publication has to send. One that plays several
    /// parts comes several times.
    pub fn published(&self) -> impl Iterator<Item = &str> {
        let parts = [
            Some(&self.id),
            Some(&self.aggregatetype).filter(|_| !self.rules.topic),
            Some(&self.aggregateid).filter(|_| !self.rules.key),
            Some(&self.r#type),
            Some(&self.payload),
            self.schema_version.as_ref(),
            self.version.as_ref(),
            self.partition_key.as_ref().filter(|_| !self.rules.key),
            self.headers.as_ref(),
            self.traceparent.as_ref(),
            self.created_at.as_ref(),
        ];
        parts.into_iter().flatten().chain(&self.rules.named).map(String::as_str)
    }

    /// The column that plays a part, by the part's name in the configuration.
    pub fn of_part(&self, part: &str) -> Option<&str> {
        let column = match part {
            "id" => Some(&self.id),
            "aggregatetype" => Some(&self.aggregatetype),
            "aggregateid" => Some(&self.aggregateid),
            "type" => Some(&self.r#type),
            "payload" => Some(&self.payload),
            "schema_version" => self.schema_version.as_ref(),
            "version" => self.version.as_ref(),
            "partition_key" => self.partition_key.as_ref(),
            "headers" => self.headers.as_ref(),
            "traceparent" => self.traceparent.as_ref(),
            "created_at" => self.created_at.as_ref(),
            "writer" => self.writer.as_ref(),
            "seq" => self.seq.as_ref(),
            _ => None,
        };
        column.map(String::as_str)
    }
}

/// What becomes of rows that cannot be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantineSettings {
    /// What becomes of them where the topic has no policy of its own (default `hold-key`).
    pub policy: Policy,
    /// Policies by topic.
    pub topics: BTreeMap<String, Policy>,
    /// Undecided entries and those behind them; one more halts the relay (default 10,000).
    pub max_entries: u64,
}

impl QuarantineSettings {
    /// The policy of a topic; of `None` where a row makes no topic's name.
    pub fn policy_of(&self, topic: Option<&str>) -> Policy {
        topic.and_then(|topic| self.topics.get(topic)).copied().unwrap_or(self.policy)
    }

    /// The strictest policy of any topic.
    pub fn strictest(&self) -> Policy {
        let all = || self.topics.values().chain([&self.policy]);
        match (all().any(|policy| *policy == Policy::Halt), all().any(|policy| *policy == Policy::HoldKey)) {
            (true, _) => Policy::Halt,
            (false, true) => Policy::HoldKey,
            (false, false) => Policy::Continue,
        }
    }

    /// Whether any row at all may be put into the quarantine.
    pub fn is_used(&self) -> bool {
        self.policy != Policy::Halt || self.topics.values().any(|policy| *policy != Policy::Halt)
    }
}

/// What becomes of a row that cannot be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// It is kept, and later events of its key queue up behind it.
    HoldKey,
    /// It is kept, and later events of its key pass.
    Continue,
    /// The relay halts before it.
    Halt,
}

/// What becomes of published rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanupSettings {
    /// How they are removed (default: buckets of the contract's table, nothing of another).
    pub mode: CleanupMode,
    /// How long they stay (default 24 h).
    pub keep: Duration,
    /// Time between two looks (default 5 min).
    pub interval: Duration,
    /// Rows that one statement deletes (default 1,000).
    pub batch_rows: usize,
}

/// How published rows are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupMode {
    /// A past bucket of the contract's table as a whole.
    Buckets,
    /// Rows of another table in small batches.
    Delete,
    /// Not at all.
    Off,
}

impl CleanupMode {
    /// Its word in the configuration and in `/status`.
    pub fn name(self) -> &'static str {
        match self {
            CleanupMode::Buckets => "buckets",
            CleanupMode::Delete => "delete",
            CleanupMode::Off => "off",
        }
    }
}

/// What a start does with rows that stand in the table while there is neither slot nor state record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Refuse to start and ask.
    Refuse,
    /// Publish them first, by `seq`, then stream (a fill from the empty snapshot).
    Publish,
    /// Never publish them; begin with the slot.
    Skip,
}

/// The state record's topic.
#[derive(Debug, Clone)]
pub struct StateSettings {
    /// Compacted topic that holds the record (default `outbox.relay.state`).
    pub topic: String,
    /// Partitions that it needs: one more than the largest number of a lane (default 1).
    pub partitions: u32,
    /// Least time between two records while positions move (default 1 s).
    pub interval: Duration,
    /// Least time between two records while only idle positions move (default 5 s).
    pub idle_interval: Duration,
}

/// The admin port.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Address of `/live`, `/ready`, `/metrics` and `/status` (default `127.0.0.1:9464`; port 0 takes a
    /// free one and logs it).
    pub listen: SocketAddr,
    /// `/ready` turns false when the recorded position has not moved for this long although the server's
    /// log has gone on (default 30 s).
    pub stalled_after: Duration,
}

/// Log output.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Lines for people or JSON for machines.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `outbox_relay=debug`.
    pub filter: String,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal only.
    Text,
    /// One JSON object a line.
    Json,
}
