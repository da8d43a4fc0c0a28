//! The one table of keys. Defaults, validation, the names of environment variables, the suggestion for a
//! misspelled key and the reference document all come from here.

use std::time::Duration;

use super::kinds::{
    AnyTemplate, Brokers, Choice, ColumnName, Count, DatabaseUrl, FilePath, Flag, Kind, ListenAddress,
    LogFilter, MessagePrefix, RelayName, Secret, Size, Span, TableName, TopicName, TopicPrefix,
    TopicReplacement, TopicTemplate, WholeRegex,
};
use super::{
    Answer, CleanupMode, EventsFrom, Existing, Guarantee, Larger, LogFormat, Policy, ReceiveBuffer,
    SourceFormat,
};

/// What every environment variable of the relay begins with.
pub const VARIABLE_PREFIX: &str = "OUTBOX_RELAY_";
/// The section whose keys are librdkafka's own.
pub const KAFKA_OPTIONS: &str = "kafka.options.";
/// The section whose keys are Kafka's own, of topics that are made.
pub const TOPIC_OPTIONS: &str = "topics.options.";
/// Sections whose keys are another's: they are taken by their names, and have dots only, no underscores.
pub const FREE_SECTIONS: [&str; 4] = [KAFKA_OPTIONS, TOPIC_OPTIONS, QUARANTINE_TOPICS, HEADERS];
/// The section whose keys are names of headers.
pub const HEADERS: &str = "headers.";

/// The section whose keys are topics, and their values what becomes of rows that cannot be published there.
pub const QUARANTINE_TOPICS: &str = "quarantine.topics.";
/// What holds where a key is not given.
#[derive(Debug, Clone, Copy)]
pub enum Fallback {
    /// Nothing: the key has to be given.
    Required,
    /// This text, read like a given one.
    Text(&'static str),
    /// No value; in words, what that means.
    Unset(&'static str),
}

/// One key.
#[derive(Debug)]
pub struct Key<K> {
    /// Path in the file, such as `source.url`.
    pub path: &'static str,
    /// The kind of its value.
    pub kind: K,
    /// What holds where it is not given.
    pub fallback: Fallback,
    /// A value as one would write it in TOML.
    pub example: &'static str,
    /// Lines of its description.
    about: &'static [&'static str],
}

/// What is known of a key whatever the kind of its value.
pub trait AnyKey: Sync {
    /// Path in the file.
    fn path(&self) -> &'static str;
    /// What holds where it is not given.
    fn fallback(&self) -> Fallback;
    /// A value as one would write it in TOML.
    fn example(&self) -> &'static str;
    /// Its description, one paragraph.
    fn about(&self) -> String;
    /// What is expected, in words.
    fn expectation(&self) -> String;
    /// The value as it may be printed.
    fn show(&self, text: &str) -> String;
    /// Whether the value is never printed.
    fn is_secret(&self) -> bool;
    /// Whether a text would be accepted.
    fn accepts(&self, text: &str) -> bool;

    /// Name of its environment variable.
    fn variable(&self) -> String {
        variable_of(self.path())
    }
}

impl<K: Kind + Sync> AnyKey for Key<K> {
    fn path(&self) -> &'static str {
        self.path
    }
    fn fallback(&self) -> Fallback {
        self.fallback
    }
    fn example(&self) -> &'static str {
        self.example
    }
    fn about(&self) -> String {
        self.about.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
    fn expectation(&self) -> String {
        self.kind.expectation()
    }
    fn show(&self, text: &str) -> String {
        self.kind.show(text)
    }
    fn is_secret(&self) -> bool {
        self.kind.is_secret()
    }
    fn accepts(&self, text: &str) -> bool {
        self.kind.read(text).is_ok()
    }
}

/// `source.url` → `OUTBOX_RELAY_SOURCE_URL`.
pub fn variable_of(path: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Declares keys and, from the same lines, the table of them, so that no key can be left out of it. The
/// doc comment of a key is its description in the reference document.
macro_rules! keys {
    ($($(#[doc = $about:literal])+ $id:ident: $kind:ty = $value:expr, $path:literal, $fallback:expr, $example:literal;)+) => {
        $(
            $(#[doc = $about])+
            pub static $id: Key<$kind> =
                Key { path: $path, kind: $value, fallback: $fallback, example: $example, about: &[$($about),+] };
        )+
        /// Every key but librdkafka's own, in the order of the reference document.
        pub static TABLE: &[&dyn AnyKey] = &[$(&$id),+];
    };
}

use Fallback::{Required, Text, Unset};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What may follow on a loss.
pub const ANSWERS: Choice<Answer> = Choice(&[("fill", Answer::Fill), ("halt", Answer::Halt)]);
/// What an unset answer means.
const WHERE_IT_CAN: Fallback = Unset(
    "`fill` where the columns `writer` and `seq` are known and rows stay, else `halt`; `halt` for messages",
);

/// What may become of a row that cannot be published.
pub const POLICIES: Choice<Policy> =
    Choice(&[("hold-key", Policy::HoldKey), ("continue", Policy::Continue), ("halt", Policy::Halt)]);

/// What an unset optional column means.
const NO_SUCH_COLUMN: Fallback = Unset("same name for `outbox.events`; no such column for another table");

keys! {
    /// The relay's name. Replication slot and publication are called `outbox_<name>`; changing it later
    /// means another slot and another memory.
    NAME: RelayName = RelayName, "name", Required, "\"orders\"";

    /// How long a drain may take after SIGTERM before the relay gives up, says what is left and exits with
    /// code 4. Kubernetes grants 30 s before it kills.
    DRAIN_TIMEOUT: Span = Span { min: millis(100), max: seconds(3600) }, "drain_timeout", Text("25s"), "\"25s\"";

    /// The PostgreSQL server, role and database. Several servers with commas between (`db1:5432,db2:5432`) are tried
    /// in turn until one is the primary. Parameters: `sslmode`, `sslrootcert`, `sslcert`, `sslkey` and
    /// `channel_binding` (see [TLS to PostgreSQL](#tls-to-postgresql)), `connect_timeout` (seconds) and
    /// `application_name`. A password in it has to be percent-encoded.
    SOURCE_URL: DatabaseUrl = DatabaseUrl, "source.url", Required,
        "\"postgres://relay@db.example.com/orders\"";
    /// The role's password. Better given by its environment variable or by `source.password_file`; one
    /// source of the password only.
    SOURCE_PASSWORD: Secret = Secret, "source.password", Unset("none"), "\"…\"";
    /// A file that holds the role's password; one line break at its end is taken off. It is read again for every
    /// connection, so a password can be changed under a running relay: in the file and on the server, in either order.
    SOURCE_PASSWORD_FILE: FilePath = FilePath, "source.password_file", Unset("none"),
        "\"/run/secrets/relay-password\"";
    /// How long one attempt to connect may take. Not together with the URL's `connect_timeout`.
    SOURCE_CONNECT_TIMEOUT: Span = Span { min: millis(100), max: seconds(300) }, "source.connect_timeout",
        Text("10s"), "\"10s\"";
    /// `wal_sender_timeout` of the replication session: how long the server waits for a sign of life
    /// before it gives the slot free. The relay reports at least three times as often.
    SOURCE_WAL_SENDER_TIMEOUT: Span = Span { min: seconds(1), max: seconds(3600) },
        "source.wal_sender_timeout", Text("10s"), "\"10s\"";
    /// Whether a slot that `init` or a fill makes is a failover slot, from PostgreSQL 17 on: standbys with
    /// `sync_replication_slots = on` keep a copy of it, with which the relay goes on after a promotion.
    SOURCE_FAILOVER_SLOT: Flag = Flag, "source.failover_slot", Text("true"), "false";
    /// The form in which the server sends the values of a row. `binary` spares the server the making of text
    /// (bytea comes at half the size, numbers and times as they are stored), and the records are the same byte
    /// for byte: json and text are passed on untouched in both, jsonb is written by PostgreSQL in both, and
    /// the relay writes numbers, times and uuids as PostgreSQL would. A column that is needed and whose type
    /// the relay cannot write (enums, arrays, composites, money and others) halts it with the column's name.
    SOURCE_FORMAT: Choice<SourceFormat> = Choice(&[
        ("text", SourceFormat::Text), ("binary", SourceFormat::Binary),
    ]), "source.format", Text("text"), "\"binary\"";
    /// The largest row that is held in memory. Of a larger one only the beginning is kept: it goes into the
    /// quarantine as a reference and cannot be released; where not even its key is known the relay halts. At most
    /// `source.read_ahead_bytes`.
    SOURCE_MAX_ROW_BYTES: Size = Size { min: 64 * KIB, max: GIB }, "source.max_row_bytes", Text("8MiB"),
        "\"8MiB\"";
    /// How much is read ahead of what is being routed. When it is full the relay stops reading and the
    /// server waits.
    SOURCE_READ_AHEAD_BYTES: Size = Size { min: MIB, max: GIB }, "source.read_ahead_bytes", Text("16MiB"),
        "\"16MiB\"";

    /// How much of what the server sends the kernel holds. `small` keeps a server that is near in its fast state;
    /// towards one that is far it limits the throughput to 32 KiB per round trip. `system` leaves it to the
    /// system. `auto` takes the small one where the first round trip takes less than 0.3 ms.
    SOURCE_RECEIVE_BUFFER: Choice<ReceiveBuffer> = Choice(&[
        ("auto", ReceiveBuffer::Auto), ("small", ReceiveBuffer::Small), ("system", ReceiveBuffer::System),
    ]), "source.receive_buffer", Text("auto"), "\"system\"";

    /// Bootstrap servers. A file may also give them as a list.
    KAFKA_BROKERS: Brokers = Brokers, "kafka.brokers", Required, "\"k1:9092,k2:9092\"";
    /// Compression of record batches.
    KAFKA_COMPRESSION: Choice<&'static str> = Choice(&[
        ("none", "none"), ("gzip", "gzip"), ("snappy", "snappy"), ("lz4", "lz4"), ("zstd", "zstd"),
    ]), "kafka.compression", Text("lz4"), "\"zstd\"";
    /// How long a record waits for company in its batch. Costs latency always. While the relay is far
    /// behind, by more than a second, records wait 8 ms at least: large batches are worth more then.
    KAFKA_LINGER: Span = Span { min: millis(0), max: seconds(1) }, "kafka.linger", Text("0ms"), "\"1ms\"";
    /// Records handed over and not yet acknowledged. When it is reached the relay stops routing.
    KAFKA_MAX_IN_FLIGHT_RECORDS: Count = Count { min: 1, max: 1_000_000 }, "kafka.max_in_flight_records",
        Text("20000"), "20000";
    /// Bytes handed over and not yet acknowledged. When it is reached the relay stops routing.
    KAFKA_MAX_IN_FLIGHT_BYTES: Size = Size { min: MIB, max: GIB }, "kafka.max_in_flight_bytes",
        Text("32MiB"), "\"32MiB\"";
    /// The largest record that is handed over, key and headers included. Below the smallest
    /// `message.max.bytes` of brokers and topics, and at most `kafka.max_in_flight_bytes`.
    KAFKA_MAX_RECORD_BYTES: Size = Size { min: KIB, max: 256 * MIB }, "kafka.max_record_bytes",
        Text("1000000"), "\"1MB\"";
    /// An event goes to the topic of this prefix and its aggregate type. Not together with `route.topic`.
    KAFKA_TOPIC_PREFIX: TopicPrefix = TopicPrefix, "kafka.topic_prefix", Text("outbox.event."),
        "\"outbox.event.\"";

    /// How often an event comes. `at_least_once`: once, and after a crash or a take-over some come again under the same
    /// id. `exactly_once`: once, in Kafka transactions that hold the events and the state record together, for
    /// whoever reads with `isolation.level=read_committed` (librdkafka's default, and this project's SDK's; Java's
    /// consumers have to set it). Events are seen when their Kafka transaction ends, so they come later by about
    /// `delivery.commit_interval`. A fill (`recovery.*`, `--existing=publish`) is at least once in either case.
    DELIVERY_GUARANTEE: Choice<Guarantee> = Choice(&[
        ("at_least_once", Guarantee::AtLeastOnce), ("exactly_once", Guarantee::ExactlyOnce),
    ]), "delivery.guarantee", Text("at_least_once"), "\"exactly_once\"";
    /// How long a Kafka transaction stays open under load, with `exactly_once`. It ends between two PostgreSQL
    /// transactions. While the relay is behind by more than a second it stays open up to twenty times as long (two
    /// seconds at most, unless this is more), since each end costs some milliseconds in which nothing is sent.
    DELIVERY_COMMIT_INTERVAL: Span = Span { min: millis(5), max: seconds(10) }, "delivery.commit_interval",
        Text("100ms"), "\"50ms\"";
    /// Records above which a Kafka transaction ends with the PostgreSQL transaction at hand.
    DELIVERY_MAX_RECORDS: Count = Count { min: 1, max: 10_000_000 }, "delivery.max_records", Text("500000"),
        "500000";
    /// Bytes above which it does.
    DELIVERY_MAX_BYTES: Size = Size { min: MIB, max: 16 * GIB }, "delivery.max_bytes", Text("256MiB"),
        "\"256MiB\"";
    /// Most records of one PostgreSQL transaction with `exactly_once`. A larger one would hold every reader back for
    /// as long as it takes, and exceed `delivery.transaction_timeout`.
    DELIVERY_MAX_TRANSACTION_RECORDS: Count = Count { min: 1, max: 100_000_000 },
        "delivery.max_transaction_records", Text("1000000"), "1000000";
    /// What becomes of a larger one: `halt` stops the relay before it; `split` publishes it in several Kafka
    /// transactions, with a warning. Readers may then see it in part, and after a crash its events come again.
    DELIVERY_LARGER: Choice<Larger> = Choice(&[("halt", Larger::Halt), ("split", Larger::Split)]),
        "delivery.larger", Text("halt"), "\"split\"";
    /// `transaction.timeout.ms` with `exactly_once`: how long the cluster leaves a Kafka transaction open whose relay
    /// is gone, and the longest that one PostgreSQL transaction may take to be published. At most the brokers'
    /// `transaction.max.timeout.ms` (15 min unless set).
    DELIVERY_TRANSACTION_TIMEOUT: Span = Span { min: seconds(60), max: seconds(900) },
        "delivery.transaction_timeout", Text("60s"), "\"60s\"";

    /// Whether a topic that rows route to and that does not exist is made. Otherwise it is waited for by
    /// name: a misspelled aggregate type makes no topic. `outbox-relay topics create` makes one by hand.
    TOPICS_CREATE: Flag = Flag, "topics.create", Text("false"), "true";
    /// Partitions of a topic that is made. Keys are spread over as many for as long as the topic lives,
    /// unless `outbox-relay topics switch` changes it.
    TOPICS_PARTITIONS: Count = Count { min: 1, max: 10_000 }, "topics.partitions", Text("12"), "12";
    /// Replicas of each partition of a topic that is made. A number that is given is never lowered: the
    /// relay waits until the cluster has as many brokers.
    TOPICS_REPLICATION: Count = Count { min: 1, max: 32 }, "topics.replication",
        Unset("3, or as many as there are brokers where the cluster has fewer; then it is logged"), "3";
    /// `min.insync.replicas` of a topic that is made.
    TOPICS_MIN_INSYNC_REPLICAS: Count = Count { min: 1, max: 32 }, "topics.min_insync_replicas",
        Unset("2 where the topic has three replicas or more, else 1; then it is logged"), "2";
    /// `retention.ms` of a topic that is made. To keep events for ever set `retention.ms` to `-1` under
    /// `topics.options`.
    TOPICS_RETENTION: Span = Span { min: millis(1), max: seconds(100 * 366 * 86_400) }, "topics.retention",
        Unset("the cluster's own"), "\"168h\"";
    /// How often a running relay asks the cluster whether its topics have grown or were set up anew.
    TOPICS_LOOK_INTERVAL: Span = Span { min: millis(100), max: seconds(3600) }, "topics.look_interval",
        Text("1m"), "\"1m\"";

    /// What the events are: rows of the outbox table, or messages that services write into the log with
    /// `outbox.emit()`. Messages stand in no table: nothing has to be cleaned up, and what a lost slot did not bring
    /// cannot be filled, so that every loss halts with the range of the log that is missing. A relay that changed
    /// from one to the other would pass over what is not published yet; give the new one another name.
    OUTBOX_FROM: Choice<EventsFrom> = Choice(&[
        ("table", EventsFrom::Table), ("messages", EventsFrom::Messages),
    ]), "outbox.from", Text("table"), "\"messages\"";
    /// The prefix of the messages that are events, with `outbox.from = "messages"`. `outbox.emit()` takes it from the
    /// setting `outbox.message_prefix` of the session, role or database, and has the same default.
    OUTBOX_MESSAGE_PREFIX: MessagePrefix = MessagePrefix, "outbox.message_prefix", Text("outbox.event"),
        "\"billing.event\"";
    /// Whether the relay follows the orders of `outbox-relay backfill`. An order is a message in the log that carries
    /// the rows themselves, and whoever may execute `pg_logical_emit_message` in this database can write one: that is
    /// everybody, until the right is taken from PUBLIC, which `check` looks for.
    OUTBOX_BACKFILL: Flag = Flag, "outbox.backfill", Text("false"), "true";
    /// The outbox table. A part with capitals or other characters stands in double quotes, as in SQL.
    OUTBOX_TABLE: TableName = TableName, "outbox.table", Text("outbox.events"), "'\"Sales\".outbox'";
    /// Column of the event's id.
    COLUMN_ID: ColumnName = ColumnName, "outbox.columns.id", Text("id"), "\"event_id\"";
    /// Column that routes the event to its topic.
    COLUMN_AGGREGATETYPE: ColumnName = ColumnName, "outbox.columns.aggregatetype", Text("aggregatetype"),
        "\"entity\"";
    /// Column of the record's key.
    COLUMN_AGGREGATEID: ColumnName = ColumnName, "outbox.columns.aggregateid", Text("aggregateid"),
        "\"entity_id\"";
    /// Column of the event's type.
    COLUMN_TYPE: ColumnName = ColumnName, "outbox.columns.type", Text("type"), "\"event_type\"";
    /// Column of the record's value.
    COLUMN_PAYLOAD: ColumnName = ColumnName, "outbox.columns.payload", Text("payload"), "\"body\"";
    /// Column of the event's schema version.
    COLUMN_SCHEMA_VERSION: ColumnName = ColumnName, "outbox.columns.schema_version", NO_SUCH_COLUMN,
        "\"schema_version\"";
    /// Column of the aggregate's own version.
    COLUMN_VERSION: ColumnName = ColumnName, "outbox.columns.version", NO_SUCH_COLUMN, "\"version\"";
    /// Column that overrides the record's key where it is not null.
    COLUMN_PARTITION_KEY: ColumnName = ColumnName, "outbox.columns.partition_key", NO_SUCH_COLUMN,
        "\"partition_key\"";
    /// Column of further headers, a JSON object.
    COLUMN_HEADERS: ColumnName = ColumnName, "outbox.columns.headers", NO_SUCH_COLUMN, "\"headers\"";
    /// Column of the trace context.
    COLUMN_TRACEPARENT: ColumnName = ColumnName, "outbox.columns.traceparent", NO_SUCH_COLUMN,
        "\"traceparent\"";
    /// Column of the time at which the event was made.
    COLUMN_CREATED_AT: ColumnName = ColumnName, "outbox.columns.created_at", NO_SUCH_COLUMN,
        "\"created_at\"";
    /// Column of the writing transaction (`xid8`). Without it what a lost slot did not bring cannot be
    /// found in the table.
    COLUMN_WRITER: ColumnName = ColumnName, "outbox.columns.writer", NO_SUCH_COLUMN, "\"writer\"";
    /// Column of the order in which rows are published from the table.
    COLUMN_SEQ: ColumnName = ColumnName, "outbox.columns.seq", NO_SUCH_COLUMN, "\"seq\"";
    /// Whether a row stays in the table until it is published. Where services delete it at once there is
    /// nothing to fill from, and every loss halts.
    OUTBOX_ROWS_STAY: Flag = Flag, "outbox.rows_stay",
        Unset("looked for: a fill halts where no published row stands in the table"), "true";

    /// The topic as a template such as `shop.{aggregatetype}.{region}`, in place of prefix and aggregate type.
    /// A placeholder is a part of `outbox.columns` or any column of the table; `init` publishes the columns
    /// that are named. A row whose column is NULL, or whose topic is not legal, cannot be published.
    ROUTE_TOPIC: TopicTemplate = TopicTemplate, "route.topic",
        Unset("`kafka.topic_prefix` and the aggregate type"), "\"shop.{aggregatetype}\"";
    /// Rewrites a topic that it matches from its beginning to its end; one that does not match stays as it is.
    /// It sees what `route.topic` makes (or prefix and aggregate type). Debezium's `route.by.field`,
    /// `route.topic.regex` and `route.topic.replacement` are `route.topic = "{field}"`, `route.regex` and
    /// `route.replacement`; its regex is `(?<routedByValue>.*)` where none is given.
    ROUTE_REGEX: WholeRegex = WholeRegex, "route.regex", Unset("no topic is rewritten"),
        "'(?<team>[a-z]+)\\.(.+)'";
    /// What a matching topic becomes, as in Java: `$1` and `${name}` are groups, `$0` is the whole, `\$` is a
    /// plain dollar. Given together with `route.regex`.
    ROUTE_REPLACEMENT: TopicReplacement = TopicReplacement, "route.replacement",
        Unset("no topic is rewritten"), "\"${team}.events.$2\"";
    /// The record's key as a template such as `{tenant}/{aggregateid}`. It takes the place of partition key
    /// and aggregate id. A row whose column is NULL cannot be published. A bytea counts as its bytes.
    ROUTE_KEY: AnyTemplate = AnyTemplate, "route.key", Unset("the partition key, else the aggregate's id"),
        "\"{tenant}/{aggregateid}\"";

    /// What a start does with rows that stand in the table while there is neither slot nor memory:
    /// refuse and ask, publish them first, or never publish them. `--existing` overrides it.
    START_EXISTING: Choice<Existing> = Choice(&[
        ("refuse", Existing::Refuse), ("publish", Existing::Publish), ("skip", Existing::Skip),
    ]), "start.existing", Text("refuse"), "\"publish\"";

    /// What follows when the slot is gone although the state record knows of it. `fill` makes a new one and
    /// publishes from the table every row that is not known to be published, under its own event id, with a
    /// new epoch; some may come twice. `halt` stops and names what may be missing.
    RECOVERY_SLOT_GONE: Choice<Answer> = ANSWERS, "recovery.slot_gone", WHERE_IT_CAN, "\"halt\"";
    /// What follows when the server has invalidated the slot, since it held back more log than was allowed.
    RECOVERY_SLOT_INVALIDATED: Choice<Answer> = ANSWERS, "recovery.slot_invalidated", WHERE_IT_CAN, "\"halt\"";
    /// What follows when the slot stands ahead of what is published: somebody advanced it or made it anew.
    RECOVERY_SLOT_AHEAD: Choice<Answer> = ANSWERS, "recovery.slot_ahead", WHERE_IT_CAN, "\"halt\"";
    /// What follows after a failover for which there is no usable slot. Where the slot survived, as a failover
    /// slot of PostgreSQL 17 does, the relay goes on with it whatever is said here.
    RECOVERY_FAILOVER: Choice<Answer> = ANSWERS, "recovery.failover", WHERE_IT_CAN, "\"halt\"";
    /// What follows when `source.url` leads to another database system, such as one that was made of a dump.
    /// `fill` publishes every row of its table, since nothing says which are published.
    RECOVERY_OTHER_SYSTEM: Choice<Answer> = ANSWERS, "recovery.other_system", Text("halt"), "\"fill\"";
    /// What follows when the server is an earlier state of itself: a disk that was restored, a timeline that
    /// is none of the recorded one's descendants. `fill` publishes every row of its table.
    RECOVERY_RESTORED: Choice<Answer> = ANSWERS, "recovery.restored", Text("halt"), "\"fill\"";
    /// Fills that may follow on losses within `recovery.window`; the next loss halts.
    RECOVERY_MAX_FILLS: Count = Count { min: 1, max: 16 }, "recovery.max_fills", Text("3"), "3";
    /// See `recovery.max_fills`.
    RECOVERY_WINDOW: Span = Span { min: seconds(1), max: seconds(366 * 86_400) }, "recovery.window", Text("24h"),
        "\"24h\"";

    /// What becomes of a row that cannot be published: too large, without a key, refused by the broker.
    /// `hold-key` puts it into the quarantine table with every later event of its key behind it, in order,
    /// until somebody decides (`outbox-relay quarantine`); everything else flows. `continue` puts it there
    /// and lets later events of its key pass. `halt` stops the relay before it. Other topics may have another:
    /// `quarantine.topics.<topic>`.
    QUARANTINE_POLICY: Choice<Policy> = POLICIES, "quarantine.policy", Text("hold-key"), "\"hold-key\"";
    /// Undecided rows and those behind them that the quarantine may hold; at one more the relay halts.
    QUARANTINE_MAX_ENTRIES: Count = Count { min: 1, max: 1_000_000 }, "quarantine.max_entries", Text("10000"),
        "10000";

    /// What becomes of published rows. `buckets` empties a past day's bucket of `outbox.events` as a whole
    /// once all of it is published and no entry of the quarantine refers to it; the database looks at that itself
    /// (`outbox.clean_bucket()`, which `outbox-relay init` installs: without it nothing is cleaned up). `delete`
    /// removes rows of another table in small batches; it needs `outbox.columns.writer` and
    /// `outbox.columns.created_at`, and the right, which `init` grants. `off` leaves everything. The rows of
    /// `outbox.events` are the relay's to remove, another table's may be counted on by others: hence the
    /// default. Rows that `--existing=skip` passed over count as published.
    CLEANUP_MODE: Choice<CleanupMode> = Choice(&[
        ("buckets", CleanupMode::Buckets), ("delete", CleanupMode::Delete), ("off", CleanupMode::Off),
    ]), "cleanup.mode", Unset("`buckets` for `outbox.events`, `off` for another table and for messages"), "\"off\"";
    /// How long published rows stay. A bucket goes when its youngest row is this old, so with 24 hours today's
    /// and yesterday's stay; at most 144 hours with `buckets`, since a bucket comes round after eight days.
    CLEANUP_KEEP: Span = Span { min: seconds(1), max: seconds(366 * 86_400) }, "cleanup.keep", Text("24h"),
        "\"48h\"";
    /// Time between two looks. Rows that were read in vain are looked at less and less often, down to once an
    /// hour.
    CLEANUP_INTERVAL: Span = Span { min: millis(100), max: seconds(86_400) }, "cleanup.interval", Text("5m"),
        "\"5m\"";
    /// Rows that one statement removes with `delete`.
    CLEANUP_BATCH_ROWS: Count = Count { min: 1, max: 100_000 }, "cleanup.batch_rows", Text("1000"), "1000";

    /// The compacted topic that holds what the relay remembers.
    STATE_TOPIC: TopicName = TopicName, "state.topic", Text("outbox.relay.state"), "\"outbox.relay.state\"";
    /// Least time between two state records while events are published.
    STATE_INTERVAL: Span = Span { min: millis(10), max: seconds(60) }, "state.interval", Text("1s"), "\"1s\"";
    /// Least time between two state records while none is. At least `state.interval`.
    STATE_IDLE_INTERVAL: Span = Span { min: millis(10), max: seconds(300) }, "state.idle_interval",
        Text("5s"), "\"5s\"";

    /// Where `/live`, `/ready`, `/metrics` and `/status` are served. Port 0 takes a free one and logs it.
    ADMIN_LISTEN: ListenAddress = ListenAddress, "admin.listen", Text("127.0.0.1:9464"), "\"127.0.0.1:9464\"";
    /// Allows `admin.listen` beyond loopback. The admin port asks for no password and shows topic names,
    /// positions and errors.
    ADMIN_ALLOW_REMOTE: Flag = Flag, "admin.allow_remote", Text("false"), "true";
    /// `/ready` turns false when the recorded position has not moved for this long although the server's
    /// log has gone on.
    ADMIN_STALLED_AFTER: Span = Span { min: seconds(1), max: seconds(86_400) }, "admin.stalled_after",
        Text("30s"), "\"30s\"";

    /// Lines for people or JSON for machines.
    LOG_FORMAT: Choice<LogFormat> = Choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        "log.format", Text("text"), "\"json\"";
    /// What is logged.
    LOG_FILTER: LogFilter = LogFilter, "log.filter", Text("info"), "\"info,outbox_relay::session=debug\"";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_default_and_example_is_accepted() {
        for key in TABLE {
            if let Text(default) = key.fallback() {
                assert!(key.accepts(default), "default of {}", key.path());
            }
            let example = key.example().trim_matches(['"', '\'']);
            let example = if key.example().starts_with('\'') {
                &key.example()[1..key.example().len() - 1]
            } else {
                example
            };
            assert!(key.accepts(example), "example of {}: {example}", key.path());
        }
    }

    #[test]
    fn no_two_keys_share_a_variable() {
        let names: HashSet<String> = TABLE.iter().map(|key| key.variable()).collect();
        assert_eq!(names.len(), TABLE.len());
        assert_eq!(SOURCE_URL.variable(), "OUTBOX_RELAY_SOURCE_URL");
        for section in FREE_SECTIONS {
            let options = variable_of(section);
            assert!(names.iter().all(|name| !name.starts_with(&options)));
        }
    }
}
