//! A consumer under test: its database with the inbox and a table of effects, its topic, the program that is killed,
//! and the judge of what it did.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use outbox_schema::sql::inbox;
use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::cluster::postgres::{PASSWORD, SUPERUSER};
use crate::cluster::{Kafka, Postgres};
use crate::fault::process::{Launch, Process};
use crate::wait::eventually_async;

/// Partitions of the topic.
pub const PARTITIONS: usize = 6;

/// How long the database may be away before a question to it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

/// Limit of one question to Kafka.
const QUESTION: Duration = Duration::from_secs(5);

/// The scene of one test.
pub struct Orders<'s> {
    name: String,
    postgres: &'s Postgres,
    brokers: String,
    program: PathBuf,
    logs: tempfile::TempDir,
    /// The superuser's connection; made anew where it is gone.
    client: Mutex<Arc<Client>>,
    upstream: Arc<Upstream>,
}

/// How a handler shall fail, and how long it takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// A word that the consumer's program knows.
    pub fails: Option<&'a str>,
    /// With `until`: the first attempt that goes well.
    pub until: u32,
    /// How long the handler takes.
    pub millis: u64,
}

/// What was sent, and whoever sends it.
pub struct Upstream {
    topic: String,
    producer: BaseProducer,
    sent: Mutex<Vec<Sent>>,
}

/// An order, as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The event's id.
    pub id: Uuid,
    /// Its record's key.
    pub key: String,
    /// Its payload.
    pub payload: String,
}

/// What an instance is started with beyond the defaults.
#[derive(Debug, Clone, Default)]
pub struct With {
    /// Another port of 127.0.0.1 by which it reaches its database.
    pub database_port: Option<u16>,
    /// Bytes of data that it may have.
    pub memory: Option<u64>,
    /// Seconds of each rung of its ladder.
    pub rung: Option<u64>,
    /// Options of its Kafka client: `name=value`, with semicolons between.
    pub kafka: String,
    /// Another group than the one that is called as the consumer.
    pub group: Option<String>,
    /// What the program reads beside that.
    pub environment: Vec<(&'static str, String)>,
}

/// What was found of the effects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Events with an effect.
    pub happened: usize,
    /// Events with more than one.
    pub doubled: usize,
    /// Effects that came after a later one of their key.
    pub reordered: usize,
    /// Effects of what was never sent.
    pub unsent: usize,
}

impl Effects {
    /// What there should be: so many, each once and in order.
    pub fn once(happened: usize) -> Effects {
        Effects { happened, ..Effects::default() }
    }
}

impl Upstream {
    /// Sends the next order of a key; returns its number, which grows over all keys.
    ///
    /// # Panics
    /// When librdkafka's queue is full.
    pub fn order(&self, key: &str, asked: Asked<'_>) -> usize {
        let mut sent = self.sent.lock();
        let number = sent.len();
        let Asked { fails, until, millis } = asked;
        let fails = fails.map_or(String::new(), |fails| format!(",\"fails\":\"{fails}\",\"until\":{until}"));
        let payload = format!("{{\"number\":{number},\"millis\":{millis}{fails}}}");
        let order = Sent { id: Uuid::now_v7(), key: key.to_owned(), payload };
        self.send("OrderPlaced", order.id, &order.key, &order.payload);
        sent.push(order);
        number
    }

    /// What was sent, copies not counted, by number.
    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().clone()
    }

    /// Sends a copy of an order that was sent before; returns its key.
    ///
    /// # Panics
    /// When there was none of that number.
    pub fn again(&self, number: usize) -> String {
        let sent = self.sent.lock();
        let Sent { id, key, payload } = &sent[number];
        self.send("OrderPlaced", *id, key, payload);
        key.clone()
    }

    /// Orders that were sent, copies not counted.
    pub fn count(&self) -> usize {
        self.sent.lock().len()
    }

    /// Sends any record.
    ///
    /// # Panics
    /// When librdkafka's queue is full.
    pub fn send(&self, event_type: &str, id: Uuid, key: &str, payload: &str) {
        self.record(event_type, id, Some(key), payload);
    }

    /// Sends any record without a key.
    ///
    /// # Panics
    /// When librdkafka's queue is full.
    pub fn send_without_key(&self, event_type: &str, id: Uuid, payload: &str) {
        self.record(event_type, id, None, payload);
    }

    fn record(&self, event_type: &str, id: Uuid, key: Option<&str>, payload: &str) {
        let id = id.to_string();
        let headers = OwnedHeaders::new()
            .insert(Header { key: "id", value: Some(&id) })
            .insert(Header { key: "type", value: Some(event_type) });
        let record = BaseRecord::<str, str>::to(&self.topic).payload(payload).headers(headers);
        let record = match key {
            Some(key) => record.key(key),
            None => record,
        };
        self.producer.send(record).map_err(|(error, _)| error).expect("room in the producer");
        self.producer.poll(Duration::ZERO);
    }

    /// Waits until everything that was sent is acknowledged.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("acknowledgements");
    }
}

impl<'s> Orders<'s> {
    /// Makes database, inbox, effects and topic.
    ///
    /// # Panics
    /// When a server refuses.
    pub async fn prepare(name: &str, postgres: &'s Postgres, kafka: &Kafka, program: &Path) -> Orders<'s> {
        postgres.create_database(name).await;
        let client = postgres.connect(name).await;
        client.batch_execute(&inbox::up()).await.expect("the inbox");
        let tables = "CREATE TABLE effects (at bigserial PRIMARY KEY, event uuid NOT NULL, key text NOT NULL,
                          number bigint NOT NULL, attempt integer NOT NULL, made timestamptz NOT NULL DEFAULT clock_timestamp());
                      CREATE INDEX ON effects (number);
                      CREATE TABLE warehouse (open boolean NOT NULL); INSERT INTO warehouse VALUES (false)";
        client.batch_execute(tables).await.expect("the effects");
        kafka.create_topic(name, PARTITIONS, &[]).await;
        // A broker that is killed must not make upstream lose, double or reorder anything that the judge does not know of.
        let producer = ClientConfig::new()
            .set("bootstrap.servers", kafka.brokers())
            .set("partitioner", "murmur2_random")
            .set("enable.idempotence", "true")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "2")
            .set("linger.ms", "5")
            .create()
            .expect("a producer");
        let logs = tempfile::tempdir().expect("a directory");
        let upstream = Upstream { topic: name.to_owned(), producer, sent: Mutex::default() };
        Orders {
            name: name.to_owned(),
            postgres,
            brokers: kafka.brokers(),
            program: program.to_owned(),
            logs,
            client: Mutex::new(Arc::new(client)),
            upstream: Arc::new(upstream),
        }
    }

    /// Name of the consumer, and of its database, topic and group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whoever sends.
    pub fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Starts an instance of the consumer.
    pub fn start(&self, instance: usize) -> Process {
        self.start_with(instance, &With::default())
    }

    /// Starts an instance in another way. To PostgreSQL it is called by its number.
    pub fn start_with(&self, instance: usize, with: &With) -> Process {
        let port = |port: u16| format!(":{port}/{}", self.name);
        let own = port(self.postgres.port());
        let url = self.postgres.url(&self.name).replace(&own, &with.database_port.map_or(own.clone(), port));
        let environment = [
            ("KAFKA_BROKERS", self.brokers.clone()),
            ("DATABASE_URL", format!("{url}?application_name={}", called(instance))),
            ("ORDER_TOPIC", self.name.clone()),
            ("ORDER_CONSUMER", self.name.clone()),
            ("ORDER_RUNG", with.rung.unwrap_or(2).to_string()),
            ("ORDER_KAFKA", with.kafka.clone()),
            ("KAFKA_GROUP", with.group.clone().unwrap_or_default()),
        ];
        let environment = environment.into_iter().chain(with.environment.clone());
        let environment = environment.map(|(name, value)| (name.to_owned(), value));
        let program = self.program.display().to_string();
        let limited = |bytes: u64| vec!["prlimit".into(), format!("--data={bytes}"), "--core=0".into()];
        Process::start(Launch {
            name: format!("consumer {instance} of {}", self.name),
            command: with.memory.map(limited).unwrap_or_default().into_iter().chain([program]).collect(),
            environment: environment.collect(),
            user: None,
            on_test_death: "KILL",
            log: self.log_file(instance),
        })
    }

    /// Transactions that an instance has open, on which it does not work at the moment.
    pub async fn open_transactions(&self, instance: usize) -> i64 {
        let name = called(instance);
        let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND state = 'idle in transaction'";
        self.query(open, &[&name]).await[0].get(0)
    }

    /// What the effects say.
    pub async fn effects(&self) -> Effects {
        let rows = self.query("SELECT event, key, number FROM effects ORDER BY at", &[]).await;
        let mut times: BTreeMap<Uuid, usize> = BTreeMap::new();
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let mut effects = Effects::default();
        let sent = self.upstream.sent.lock();
        for row in rows {
            let (event, key, number): (Uuid, String, i64) = (row.get(0), row.get(1), row.get(2));
            let known = usize::try_from(number).ok().and_then(|number| sent.get(number));
            effects.unsent += usize::from(known.is_none_or(|sent| sent.id != event || sent.key != key));
            *times.entry(event).or_default() += 1;
            let before = newest.entry(key).or_insert(number);
            effects.reordered += usize::from(number < *before);
            *before = (*before).max(number);
        }
        effects.happened = times.len();
        effects.doubled = times.values().filter(|count| **count > 1).count();
        effects
    }

    /// Waits until so many events have an effect, and judges.
    ///
    /// # Panics
    /// When they have not in time, with the ends of the instances' logs.
    pub async fn happened(&self, count: usize, limit: Duration, instances: &[usize]) -> Effects {
        let events = "SELECT count(DISTINCT event) FROM effects";
        let found = async {
            while usize::try_from(self.number(events).await).unwrap_or(0) < count {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        if tokio::time::timeout(limit, found).await.is_err() {
            let logs: Vec<String> = instances.iter().map(|instance| self.log(*instance)).collect();
            let missing = self.missing().await;
            panic!("{:?} of {count}; missing {missing}\n{}", self.effects().await, logs.join("\n---\n"));
        }
        self.effects().await
    }

    /// Numbers and keys of some orders without an effect.
    async fn missing(&self) -> String {
        let rows = self.query("SELECT DISTINCT number FROM effects", &[]).await;
        let found: std::collections::BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
        let sent = self.upstream.sent.lock();
        let missing = sent.iter().zip(0..).filter(|(_, number)| !found.contains(number));
        let missing: Vec<String> =
            missing.map(|(sent, number)| format!("{number} of {}", sent.key)).collect();
        format!("{}: {}", missing.len(), missing[..missing.len().min(12)].join(", "))
    }

    /// Waits until a group's committed offsets are at the end of every partition.
    ///
    /// # Panics
    /// When they are not in time.
    pub async fn committed_to_the_end(&self, group: &str, limit: Duration) {
        let mut config = ClientConfig::new();
        let config = config.set("bootstrap.servers", &self.brokers).set("group.id", group);
        let asks: BaseConsumer = config.create().expect("a client");
        let partitions = 0..i32::try_from(PARTITIONS).expect("few");
        let mut seen = String::new();
        let reached = async || {
            let mut list = TopicPartitionList::new();
            partitions.clone().for_each(|partition| _ = list.add_partition(&self.name, partition));
            let committed = asks.committed_offsets(list, QUESTION).ok()?;
            let mut behind = Vec::new();
            for element in committed.elements() {
                let (begin, end) = asks.fetch_watermarks(&self.name, element.partition(), QUESTION).ok()?;
                if end > begin && element.offset() != Offset::Offset(end) {
                    behind.push(format!("{}: {:?} of {end}", element.partition(), element.offset()));
                }
            }
            seen = behind.join(", ");
            behind.is_empty().then_some(())
        };
        let watched =
            tokio::time::timeout(limit, eventually_async(limit * 2, "committed offsets", reached)).await;
        assert!(watched.is_ok(), "after {limit:?} offsets are not committed to the end: {seen}");
    }

    /// The rows of a query, from whatever server is there in the end.
    ///
    /// # Panics
    /// When it fails for a minute.
    pub async fn query(&self, query: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<Row> {
        let asked = async {
            loop {
                let client = self.client.lock().clone();
                match client.query(query, parameters).await {
                    Ok(rows) => return rows,
                    Err(error) if error.as_db_error().is_some_and(|e| !e.code().code().starts_with("57")) => {
                        panic!("{query}: {error:?}")
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
                let (user, password) = (SUPERUSER, PASSWORD);
                if let Ok(client) = self.postgres.connect_as(user, password, &self.name).await {
                    *self.client.lock() = Arc::new(client);
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("no answer to {query}"))
    }

    /// A number that a query answers.
    pub async fn number(&self, query: &str) -> i64 {
        self.query(query, &[]).await[0].get(0)
    }

    /// Opens the warehouse, and handlers that wait for it succeed, or closes it again.
    pub async fn warehouse(&self, open: bool) {
        self.query("UPDATE warehouse SET open = $1", &[&open]).await;
    }

    /// How often an instance has logged something.
    pub fn said(&self, instance: usize, what: &str) -> usize {
        self.read_log(instance).matches(what).count()
    }

    /// What an instance has logged of something, line by line.
    pub fn lines(&self, instance: usize, what: &str) -> Vec<String> {
        self.read_log(instance).lines().filter(|line| line.contains(what)).map(str::to_owned).collect()
    }

    /// The end of an instance's log, for a panic's message.
    pub fn log(&self, instance: usize) -> String {
        let text = self.read_log(instance);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn read_log(&self, instance: usize) -> String {
        std::fs::read_to_string(self.log_file(instance)).unwrap_or_default()
    }

    fn log_file(&self, instance: usize) -> PathBuf {
        self.logs.path().join(format!("{instance}.log"))
    }
}

/// What PostgreSQL knows an instance by.
fn called(instance: usize) -> String {
    format!("consumer-{instance}")
}
