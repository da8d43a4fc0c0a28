//! From given values to settings: every key is read, every mistake kept, and only then is there a result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use outbox_admin_port::may_be_on;
use outbox_kafka_link::protocol::{PROTOCOL, protocol};
use outbox_postgres_link::url::ParsedUrl;
use outbox_postgres_link::{password, tls};
use secrecy::SecretString;

use super::given::{AllGiven, Form};
use super::keys::{self, AnyKey, Fallback, HEADERS, KAFKA_OPTIONS, Key, QUARANTINE_TOPICS, TOPIC_OPTIONS};
use super::kinds::{AnyTemplate, HIDDEN, Kind};
use super::messages::{self, Contradiction};
use super::mistakes::{Mistake, Mistakes, Origin};
use super::recovery::hindrance;
use super::rules::{Rewrite, Rules, Template, TopicRule};
use super::{
    AdminSettings, Answer, CleanupMode, CleanupSettings, ColumnNames, EventsFrom, Existing, KafkaSettings,
    LaneId, LogSettings, Loss, OutboxSettings, QuarantineSettings, RecoverySettings, RuleColumns, Settings,
    SourceSettings, StateSettings, TopicSettings, kafka_options, topic_options,
};

/// A bucket is written into again eight days after its day, so it has to be empty before.
const LONGEST_KEPT_BUCKET: Duration = Duration::from_secs(6 * 86_400);

/// Reads every key, for one lane. `None` where there is a mistake, which then stands in `mistakes`.
pub fn settings(
    given: &AllGiven,
    lane: LaneId,
    existing: Option<Existing>,
    mistakes: &mut Mistakes,
) -> Option<Settings> {
    let mut reader = Reader { given, mistakes };
    let name = reader.get(&keys::NAME);
    let source = reader.source(name.as_deref());
    let kafka = reader.kafka();
    let delivery = reader.delivery();
    let topics = reader.topics();
    let outbox = reader.outbox(kafka.as_ref().map(|kafka| kafka.topic_prefix.as_str()));
    let quarantine = reader.quarantine();
    let cleanup = reader.cleanup(outbox.as_ref());
    let configured = reader.get(&keys::START_EXISTING);
    reader.no_rows(outbox.as_ref(), existing.or(configured));
    let recovery = reader.recovery(outbox.as_ref());
    let state = reader.state();
    let admin = reader.admin();
    let drain_timeout = reader.get(&keys::DRAIN_TIMEOUT);
    let log = reader.log();
    Some(Settings {
        name: name?,
        lane,
        source: source?,
        kafka: kafka?,
        delivery: delivery?,
        topics: topics?,
        outbox: outbox?,
        quarantine: quarantine?,
        cleanup: cleanup?,
        existing: existing.or(configured)?,
        recovery: recovery?,
        state: state?,
        admin: admin?,
        drain_timeout: drain_timeout?,
        log: log?,
    })
}

/// Reads keys and keeps what is wrong. A section reads all its keys before it gives up for one.
pub(super) struct Reader<'a> {
    given: &'a AllGiven,
    mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    /// The value of a key, given or by default; `None` after a mistake, or where it may be unset.
    pub(super) fn get<K: Kind + Sync>(&mut self, key: &Key<K>) -> Option<K::Value> {
        let Some(given) = self.given.get(key.path) else {
            return match key.fallback {
                Fallback::Text(text) => key.kind.read(text).map_err(|problem| self.refuse(key, problem)).ok(),
                Fallback::Unset(_) => None,
                Fallback::Required => {
                    let problem = format!("has to be given: {}", key.kind.expectation());
                    self.refuse(key, problem);
                    None
                }
            };
        };
        let wrong_form = match given.form {
            Form::Text => false,
            Form::Scalar => key.kind.only_text(),
            Form::List => !key.kind.may_be_list(),
            Form::Nothing => true,
        };
        if wrong_form {
            let quotes = if given.form == Form::Scalar { " (text, in quotes)" } else { "" };
            self.refuse(key, format!("expected {}{quotes}", key.kind.expectation()));
            return None;
        }
        key.kind.read(&given.text).map_err(|problem| self.refuse(key, problem)).ok()
    }

    /// Keeps a mistake of a key with its value, if that may be shown, and its place.
    fn refuse(&mut self, key: &dyn AnyKey, problem: String) {
        let given = self.given.get(key.path());
        let value = given.filter(|given| given.form != Form::Nothing).map(|given| key.show(&given.text));
        let origin = given.map_or(Origin::Nowhere, |given| given.origin.clone());
        self.mistakes.add(Mistake { key: key.path().into(), value, origin, problem });
    }

    fn source(&mut self, name: Option<&str>) -> Option<SourceSettings> {
        let url = self.get(&keys::SOURCE_URL);
        let password_file = self.get(&keys::SOURCE_PASSWORD_FILE);
        let password = self.password(url.as_ref(), password_file.clone());
        let connect_timeout = self.get(&keys::SOURCE_CONNECT_TIMEOUT);
        let wal_sender_timeout = self.get(&keys::SOURCE_WAL_SENDER_TIMEOUT);
        let max_row_bytes = self.get(&keys::SOURCE_MAX_ROW_BYTES);
        let read_ahead_bytes = self.get(&keys::SOURCE_READ_AHEAD_BYTES);
        let receive_buffer = self.get(&keys::SOURCE_RECEIVE_BUFFER);
        let failover_slot = self.get(&keys::SOURCE_FAILOVER_SLOT);
        if max_row_bytes.zip(read_ahead_bytes).is_some_and(|(row, ahead)| row > ahead) {
            let problem = "is more than source.read_ahead_bytes: such a row would never fit";
            self.refuse(&keys::SOURCE_MAX_ROW_BYTES, problem.into());
        }
        let in_url = url.as_ref().and_then(|url| url.connect_timeout);
        if in_url.is_some() && self.given.contains_key(keys::SOURCE_CONNECT_TIMEOUT.path) {
            let problem = "is given twice: here and as connect_timeout in source.url";
            self.refuse(&keys::SOURCE_CONNECT_TIMEOUT, problem.into());
        }
        let url = url?;
        let first = tls::check(&url.transport, &url.host);
        let others = url.others.iter().flat_map(|place| tls::check(&place.transport, &place.host));
        let mut problems: Vec<String> = first.into_iter().chain(others).collect();
        problems.dedup();
        for problem in problems {
            self.refuse(&keys::SOURCE_URL, problem);
        }
        Some(SourceSettings {
            host: url.host,
            port: url.port,
            user: url.user,
            password,
            password_file,
            database: url.database,
            transport: url.transport,
            others: url.others,
            application_name: url.application_name.unwrap_or(format!("outbox_{}", name?)),
            connect_timeout: in_url.or(connect_timeout)?,
            wal_sender_timeout: wal_sender_timeout?,
            max_row_bytes: max_row_bytes?,
            read_ahead_bytes: read_ahead_bytes?,
            receive_buffer: receive_buffer?,
            failover_slot: failover_slot?,
        })
    }

    /// The password, from one place only: with two, whoever changes one of them would change nothing.
    fn password(&mut self, url: Option<&ParsedUrl>, file: Option<PathBuf>) -> Option<SecretString> {
        let in_url = url.and_then(|url| url.password.clone());
        let given = self.get(&keys::SOURCE_PASSWORD);
        let mut places = Vec::new();
        if in_url.is_some() {
            places.push("source.url".to_string());
        }
        if let Some(value) = self.given.get(keys::SOURCE_PASSWORD.path) {
            places.push(format!("source.password ({})", value.origin));
            places.extend(value.overrode.iter().map(|origin| format!("source.password ({origin})")));
        }
        if self.given.contains_key(keys::SOURCE_PASSWORD_FILE.path) {
            places.push("source.password_file".into());
        }
        if places.len() > 1 {
            let problem = format!("the password is given more than once: {}; keep one", places.join(", "));
            self.mistakes.add(Mistake {
                key: keys::SOURCE_PASSWORD.path.into(),
                value: Some(HIDDEN.into()),
                origin: self
                    .given
                    .get(keys::SOURCE_PASSWORD.path)
                    .map_or(Origin::Nowhere, |v| v.origin.clone()),
                problem,
            });
        }
        let from_file = file.and_then(|path| self.password_from(path));
        in_url.or(given).or(from_file)
    }

    fn password_from(&mut self, path: PathBuf) -> Option<SecretString> {
        let read = password::from_file(&path);
        read.map_err(|problem| self.refuse(&keys::SOURCE_PASSWORD_FILE, problem)).ok()
    }

    fn kafka(&mut self) -> Option<KafkaSettings> {
        let brokers = self.get(&keys::KAFKA_BROKERS);
        let compression = self.get(&keys::KAFKA_COMPRESSION);
        let linger = self.get(&keys::KAFKA_LINGER);
        let max_in_flight_records = self.get(&keys::KAFKA_MAX_IN_FLIGHT_RECORDS);
        let max_in_flight_bytes = self.get(&keys::KAFKA_MAX_IN_FLIGHT_BYTES);
        let max_record_bytes = self.get(&keys::KAFKA_MAX_RECORD_BYTES);
        let topic_prefix = self.get(&keys::KAFKA_TOPIC_PREFIX);
        let options = self.kafka_options();
        if max_record_bytes.zip(max_in_flight_bytes).is_some_and(|(record, flight)| record > flight) {
            let problem = "is more than kafka.max_in_flight_bytes: such a record would never be handed over";
            self.refuse(&keys::KAFKA_MAX_RECORD_BYTES, problem.into());
        }
        let protocol = self.kafka_protocol(brokers.as_deref().unwrap_or_default(), &options);
        Some(KafkaSettings {
            brokers: brokers?,
            compression: compression?.into(),
            linger: linger?,
            max_in_flight_records: max_in_flight_records?,
            max_in_flight_bytes: max_in_flight_bytes?,
            max_record_bytes: max_record_bytes?,
            topic_prefix: topic_prefix?,
            protocol: protocol?,
            options,
        })
    }

    fn kafka_protocol(&mut self, brokers: &str, options: &[(String, String)]) -> Option<String> {
        let problem = match protocol(brokers, options) {
            Ok(protocol) => return Some(protocol),
            Err(problem) => problem,
        };
        let key = format!("{KAFKA_OPTIONS}{PROTOCOL}");
        let given = self.given.get(&key);
        let value = given.map(|given| show_option(PROTOCOL, &given.text));
        let origin = given.map_or(Origin::Nowhere, |given| given.origin.clone());
        self.mistakes.add(Mistake { key, value, origin, problem });
        None
    }

    fn kafka_options(&mut self) -> Vec<(String, String)> {
        let options = self.options(KAFKA_OPTIONS, kafka_options::check, show_option);
        // What is wrong alone would be told twice.
        let told = |mistake: &Mistake| mistake.key.starts_with(KAFKA_OPTIONS);
        if !options.is_empty()
            && !self.mistakes.iter().any(told)
            && let Err(problem) = kafka_options::check_together(&options)
        {
            let key = KAFKA_OPTIONS.trim_end_matches('.').to_string();
            self.mistakes.add(Mistake { key, value: None, origin: Origin::Several, problem });
        }
        options
    }

    /// The keys of a section that are another's.
    fn options(
        &mut self,
        section: &str,
        check: fn(&str, &str) -> Result<(), String>,
        show: fn(&str, &str) -> String,
    ) -> Vec<(String, String)> {
        let mut options = Vec::new();
        for (path, given) in self.given {
            let Some(name) = path.strip_prefix(section) else { continue };
            let checked = match given.form {
                Form::Text | Form::Scalar => check(name, &given.text),
                Form::List | Form::Nothing => Err("expected text, a number or a truth value".into()),
            };
            if let Err(problem) = checked {
                let value = show(name, &given.text);
                let origin = given.origin.clone();
                self.mistakes.add(Mistake { key: path.clone(), value: Some(value), origin, problem });
            }
            options.push((name.to_string(), given.text.clone()));
        }
        options
    }

    fn topics(&mut self) -> Option<TopicSettings> {
        let create = self.get(&keys::TOPICS_CREATE);
        let partitions = self.get(&keys::TOPICS_PARTITIONS);
        let replication = self.get(&keys::TOPICS_REPLICATION);
        let min_insync_replicas = self.get(&keys::TOPICS_MIN_INSYNC_REPLICAS);
        let retention = self.get(&keys::TOPICS_RETENTION);
        let look_interval = self.get(&keys::TOPICS_LOOK_INTERVAL);
        let options = self.options(TOPIC_OPTIONS, topic_options::check, |_, text| format!("{text:?}"));
        if replication.zip(min_insync_replicas).is_some_and(|(all, least)| least > all) {
            let problem = "is more than topics.replication: no record would ever be acknowledged";
            self.refuse(&keys::TOPICS_MIN_INSYNC_REPLICAS, problem.into());
        }
        if retention.is_some() && options.iter().any(|(name, _)| name == "retention.ms") {
            let problem = "is given twice: here and as topics.options.retention.ms";
            self.refuse(&keys::TOPICS_RETENTION, problem.into());
        }
        Some(TopicSettings {
            create: create?,
            partitions: partitions?,
            replication,
            min_insync_replicas,
            retention,
            options,
            look_interval: look_interval?,
        })
    }

    fn outbox(&mut self, topic_prefix: Option<&str>) -> Option<OutboxSettings> {
        let from = self.get(&keys::OUTBOX_FROM);
        let prefix = self.get(&keys::OUTBOX_MESSAGE_PREFIX);
        let backfill = self.get(&keys::OUTBOX_BACKFILL);
        let table = self.get(&keys::OUTBOX_TABLE);
        let columns = self.columns(table.as_ref().is_some_and(|(s, t)| s == "outbox" && t == "events"));
        let rules = self.rules(columns.as_ref(), topic_prefix);
        let format = self.get(&keys::SOURCE_FORMAT);
        match from {
            Some(EventsFrom::Messages) => {
                let given = self.given;
                self.refuse_all(messages::of_a_table(|path| given.contains_key(path)));
                self.refuse_all(rules.as_ref().map(messages::of_rules).unwrap_or_default());
                for (name, template) in rules.iter().flat_map(|rules| &rules.headers) {
                    let Some(problem) = messages::of_template(template) else { continue };
                    let key = format!("{HEADERS}{name}");
                    let origin = given.get(&key).map_or(Origin::Nowhere, |given| given.origin.clone());
                    self.mistakes.add(Mistake { key, value: None, origin, problem });
                }
            }
            Some(EventsFrom::Table) if self.given.contains_key(keys::OUTBOX_MESSAGE_PREFIX.path) => {
                let problem =
                    "is given with outbox.from = \"table\": nothing would be read from such messages";
                self.refuse(&keys::OUTBOX_MESSAGE_PREFIX, problem.into());
            }
            Some(EventsFrom::Table) | None => {}
        }
        let (schema, table) = table?;
        let (columns, rules, prefix) = (columns?, rules?, prefix?);
        let columns = ColumnNames { rules: rules.columns(), ..columns };
        let (columns, message_prefix) = match from? {
            EventsFrom::Table => (columns, None),
            EventsFrom::Messages => (ColumnNames { writer: None, seq: None, ..columns }, Some(prefix)),
        };
        Some(OutboxSettings {
            schema,
            table,
            columns,
            rules,
            format: format?,
            message_prefix,
            backfill: backfill?,
        })
    }

    fn refuse_all(&mut self, wrong: Vec<Contradiction>) {
        for (key, problem) in wrong {
            self.refuse(key, problem);
        }
    }

    /// Where events are messages, nothing may be wanted of rows.
    fn no_rows(&mut self, outbox: Option<&OutboxSettings>, existing: Option<Existing>) {
        if outbox.is_some_and(|outbox| outbox.message_prefix.is_some()) {
            let cleanup = self.get(&keys::CLEANUP_MODE);
            self.refuse_all(messages::of_rows(existing, cleanup));
        }
    }

    /// How topic, key and headers are made, with columns by their names.
    fn rules(&mut self, columns: Option<&ColumnNames>, topic_prefix: Option<&str>) -> Option<Rules> {
        let template = self.get(&keys::ROUTE_TOPIC);
        let rewrite = self.rewrite();
        let key = self.get(&keys::ROUTE_KEY);
        let headers = self.header_rules();
        let given = |key: &dyn AnyKey| self.given.contains_key(key.path());
        if given(&keys::ROUTE_TOPIC) && given(&keys::KAFKA_TOPIC_PREFIX) {
            let problem =
                "is given together with kafka.topic_prefix; keep one, a template holds its own prefix";
            self.refuse(&keys::ROUTE_TOPIC, problem.into());
        }
        let columns = columns?;
        let prefixed = || topic_prefix.map(Template::prefixed).filter(|_| rewrite.is_some());
        let template = template.or_else(prefixed).map(|template| template.resolve(columns));
        Some(Rules {
            topic: template.map(|template| TopicRule { template, rewrite }),
            key: key.map(|key| key.resolve(columns)),
            headers: headers.into_iter().map(|(name, header)| (name, header.resolve(columns))).collect(),
        })
    }

    fn rewrite(&mut self) -> Option<Rewrite> {
        let regex = self.get(&keys::ROUTE_REGEX);
        let replacement = self.get(&keys::ROUTE_REPLACEMENT);
        let given = |key: &dyn AnyKey| self.given.contains_key(key.path());
        let pair: [(&dyn AnyKey, &dyn AnyKey); 2] =
            [(&keys::ROUTE_REGEX, &keys::ROUTE_REPLACEMENT), (&keys::ROUTE_REPLACEMENT, &keys::ROUTE_REGEX)];
        let alone = pair.into_iter().find(|(one, other)| given(*one) && !given(*other));
        if let Some((one, other)) = alone {
            self.refuse(one, format!("is given without {}", other.path()));
        }
        let refused = |problem| self.refuse(&keys::ROUTE_REPLACEMENT, problem);
        Rewrite::new(regex?, &replacement?).map_err(refused).ok()
    }

    fn header_rules(&mut self) -> Vec<(String, Template)> {
        let mut rules = Vec::new();
        for (path, given) in self.given {
            let Some(name) = path.strip_prefix(HEADERS) else { continue };
            let template = if name.is_empty() || name.contains('\0') {
                Err("has no name that a header can have".into())
            } else if outbox_schema::record::header::is_reserved(name) {
                Err("has a name that is reserved for the relay's own headers".into())
            } else if given.form != Form::Text {
                Err(format!("expected {} (text, in quotes)", AnyTemplate.expectation()))
            } else {
                AnyTemplate.read(&given.text)
            };
            match template {
                Ok(template) => rules.push((name.to_string(), template)),
                Err(problem) => {
                    let value = Some(format!("{:?}", given.text));
                    let origin = given.origin.clone();
                    self.mistakes.add(Mistake { key: path.clone(), value, origin, problem });
                }
            }
        }
        rules
    }

    /// Where the table is the contract's own, a column that is not named has the contract's name.
    fn columns(&mut self, ours: bool) -> Option<ColumnNames> {
        let mut optional =
            |key: &Key<_>, name: &str| self.get(key).or_else(|| ours.then(|| name.to_string()));
        let schema_version = optional(&keys::COLUMN_SCHEMA_VERSION, "schema_version");
        let version = optional(&keys::COLUMN_VERSION, "version");
        let partition_key = optional(&keys::COLUMN_PARTITION_KEY, "partition_key");
        let headers = optional(&keys::COLUMN_HEADERS, "headers");
        let traceparent = optional(&keys::COLUMN_TRACEPARENT, "traceparent");
        let created_at = optional(&keys::COLUMN_CREATED_AT, "created_at");
        let writer = optional(&keys::COLUMN_WRITER, "writer");
        let seq = optional(&keys::COLUMN_SEQ, "seq");
        let id = self.get(&keys::COLUMN_ID);
        let aggregatetype = self.get(&keys::COLUMN_AGGREGATETYPE);
        let aggregateid = self.get(&keys::COLUMN_AGGREGATEID);
        let r#type = self.get(&keys::COLUMN_TYPE);
        let payload = self.get(&keys::COLUMN_PAYLOAD);
        Some(ColumnNames {
            id: id?,
            aggregatetype: aggregatetype?,
            aggregateid: aggregateid?,
            r#type: r#type?,
            payload: payload?,
            schema_version,
            version,
            partition_key,
            headers,
            traceparent,
            created_at,
            writer,
            seq,
            rules: RuleColumns::default(),
        })
    }

    /// What follows on losses; a table that cannot be filled from halts, and where it shall be it is a mistake.
    fn recovery(&mut self, outbox: Option<&OutboxSettings>) -> Option<RecoverySettings> {
        let rows_stay = self.get(&keys::OUTBOX_ROWS_STAY);
        let max_fills = self.get(&keys::RECOVERY_MAX_FILLS);
        let window = self.get(&keys::RECOVERY_WINDOW);
        let mut answer = |loss: Loss, key: &Key<_>| {
            let given = self.get(key);
            let hindrance = hindrance(loss, outbox?, rows_stay);
            if let (Some(Answer::Fill), Some(why)) = (given, hindrance) {
                self.refuse(key, why.into());
            }
            let otherwise = if hindrance.is_some() { Answer::Halt } else { Answer::Fill };
            Some(given.unwrap_or(otherwise))
        };
        let slot_gone = answer(Loss::SlotGone, &keys::RECOVERY_SLOT_GONE);
        let slot_invalidated = answer(Loss::SlotInvalidated, &keys::RECOVERY_SLOT_INVALIDATED);
        let slot_ahead = answer(Loss::SlotAhead, &keys::RECOVERY_SLOT_AHEAD);
        let failover = answer(Loss::Failover, &keys::RECOVERY_FAILOVER);
        let other_system = answer(Loss::OtherSystem, &keys::RECOVERY_OTHER_SYSTEM);
        let restored = answer(Loss::Restored, &keys::RECOVERY_RESTORED);
        Some(RecoverySettings {
            slot_gone: slot_gone?,
            slot_invalidated: slot_invalidated?,
            slot_ahead: slot_ahead?,
            failover: failover?,
            other_system: other_system?,
            restored: restored?,
            max_fills: max_fills?,
            window: window?,
            rows_stay,
        })
    }

    fn quarantine(&mut self) -> Option<QuarantineSettings> {
        let policy = self.get(&keys::QUARANTINE_POLICY);
        let max_entries = self.get(&keys::QUARANTINE_MAX_ENTRIES);
        let mut topics = BTreeMap::new();
        for (path, given) in self.given {
            let Some(topic) = path.strip_prefix(QUARANTINE_TOPICS) else { continue };
            let read = match given.form {
                Form::Text => keys::POLICIES.read(&given.text),
                Form::Scalar | Form::List | Form::Nothing => {
                    Err(format!("expected {}", keys::POLICIES.expectation()))
                }
            };
            match read {
                Ok(policy) => drop(topics.insert(topic.to_owned(), policy)),
                Err(problem) => {
                    let value = Some(format!("{:?}", given.text));
                    let origin = given.origin.clone();
                    self.mistakes.add(Mistake { key: path.clone(), value, origin, problem });
                }
            }
        }
        Some(QuarantineSettings { policy: policy?, topics, max_entries: max_entries? as u64 })
    }

    /// What may be removed, and how, follows from the table.
    fn cleanup(&mut self, outbox: Option<&OutboxSettings>) -> Option<CleanupSettings> {
        let given = self.get(&keys::CLEANUP_MODE);
        let keep = self.get(&keys::CLEANUP_KEEP);
        let interval = self.get(&keys::CLEANUP_INTERVAL);
        let batch_rows = self.get(&keys::CLEANUP_BATCH_ROWS);
        let outbox = outbox?;
        let ours = outbox.is_contract();
        let mode = given.unwrap_or(if ours { CleanupMode::Buckets } else { CleanupMode::Off });
        // What is given besides was refused.
        let mode = if outbox.message_prefix.is_some() { CleanupMode::Off } else { mode };
        let problem = match mode {
            CleanupMode::Buckets if !ours => {
                Some("is for outbox.events, which has buckets; for another table it is \"delete\" or \"off\"")
            }
            CleanupMode::Delete if ours => {
                Some("is for tables of another shape; for outbox.events it is \"buckets\" or \"off\"")
            }
            CleanupMode::Delete if outbox.columns.writer.is_none() => {
                Some("needs outbox.columns.writer: nothing else says which rows are published")
            }
            CleanupMode::Delete if outbox.columns.created_at.is_none() => {
                Some("needs outbox.columns.created_at: nothing else says how old a row is")
            }
            CleanupMode::Buckets | CleanupMode::Delete | CleanupMode::Off => None,
        };
        if let Some(problem) = problem {
            self.refuse(&keys::CLEANUP_MODE, problem.into());
        }
        if mode == CleanupMode::Buckets && keep.is_some_and(|keep| keep > LONGEST_KEPT_BUCKET) {
            let problem = "is more than 144h: with cleanup.mode = \"buckets\" a bucket has to be empty before it comes \
                           round after eight days";
            self.refuse(&keys::CLEANUP_KEEP, problem.into());
        }
        Some(CleanupSettings { mode, keep: keep?, interval: interval?, batch_rows: batch_rows? })
    }

    fn state(&mut self) -> Option<StateSettings> {
        let topic = self.get(&keys::STATE_TOPIC);
        let interval = self.get(&keys::STATE_INTERVAL);
        let idle_interval = self.get(&keys::STATE_IDLE_INTERVAL);
        if interval.zip(idle_interval).is_some_and(|(busy, idle)| idle < busy) {
            self.refuse(&keys::STATE_IDLE_INTERVAL, "is less than state.interval".into());
        }
        // A list of lanes says how many more.
        let partitions = 1;
        Some(StateSettings { topic: topic?, partitions, interval: interval?, idle_interval: idle_interval? })
    }

    fn admin(&mut self) -> Option<AdminSettings> {
        let listen = self.get(&keys::ADMIN_LISTEN);
        let allow_remote = self.get(&keys::ADMIN_ALLOW_REMOTE);
        let stalled_after = self.get(&keys::ADMIN_STALLED_AFTER);
        if listen.zip(allow_remote).is_some_and(|(address, allowed)| !may_be_on(address, allowed)) {
            let problem = "is not on loopback, and the admin port asks for no password; where the network \
                           around it is trusted set admin.allow_remote = true";
            self.refuse(&keys::ADMIN_LISTEN, problem.into());
        }
        Some(AdminSettings { listen: listen?, stalled_after: stalled_after? })
    }

    fn log(&mut self) -> Option<LogSettings> {
        let format = self.get(&keys::LOG_FORMAT);
        let filter = self.get(&keys::LOG_FILTER);
        Some(LogSettings { format: format?, filter: filter? })
    }
}

/// One of librdkafka's options as it may be printed.
pub fn show_option(name: &str, text: &str) -> String {
    if kafka_options::may_show(name) { format!("{text:?}") } else { HIDDEN.into() }
}
