//! Topics against a cluster in memory, which knows metadata and transactions, but no configuration of
//! topics: what may not be described is published to all the same.

use std::thread::{self, JoinHandle};
use std::time::Instant;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaRespErr;

use super::*;
use crate::config::{Overrides, Settings, load};
use crate::lsn::Lsn;
use crate::observe::Grown;
use crate::publisher::Confirmations;
use crate::publisher::Contact;
use crate::reader::Positions;
use crate::session::End;
use crate::state::{Place, RecorderParts, StateRecord, Store, peek};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "outbox.event.order";

type InMemory = MockCluster<'static, DefaultProducerContext>;

/// A session's recorder and topics, on a cluster of its own.
struct Stage {
    cluster: InMemory,
    settings: Settings,
    observed: Arc<Observed>,
    ending: Arc<Ending>,
    recording: JoinHandle<()>,
    topics: Topics,
}

impl Stage {
    fn set(pins: &[(&str, u32)]) -> Stage {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("outbox.relay.state", 1, 1).unwrap();
        let variables = [
            ("OUTBOX_RELAY_NAME", "orders".to_owned()),
            ("OUTBOX_RELAY_SOURCE_URL", "postgres://relay@localhost/orders".to_owned()),
            ("OUTBOX_RELAY_KAFKA_BROKERS", cluster.bootstrap_servers()),
        ];
        let variables: Vec<_> = variables.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let settings = load(None, &|| variables.clone(), Overrides::default()).unwrap().into_first();
        let (observed, ending) = (Arc::new(Observed::new()), Arc::new(Ending::default()));
        let mut record = StateRecord::first("orders", 0, "1", 1, Lsn(1));
        record.partitions = pins.iter().map(|(topic, count)| ((*topic).to_owned(), *count)).collect();
        let (recorder, recording) = Recorder::spawn(RecorderParts {
            place: Place::Apart(Box::new(Store::fence(&settings, 0, Contact::default(), &ending).unwrap())),
            record: record.clone(),
            believed: true,
            confirmations: Confirmations::new(Lsn(1)),
            positions: Arc::new(Positions::default()),
            settings: settings.state.clone(),
            observed: observed.clone(),
            ending: ending.clone(),
        })
        .unwrap();
        recorder.begun(&ending);
        let topics = Topics::new(
            record.partitions,
            Arc::new(Cluster::new(&settings.kafka).unwrap()),
            &settings.kafka,
            &settings.topics,
            recorder,
            observed.clone(),
            ending.clone(),
        );
        Stage { cluster, settings, observed, ending, recording, topics: topics.unwrap() }
    }

    fn partitions(&mut self) -> Option<u32> {
        self.topics.partitions(TOPIC, now()).unwrap().map(NonZeroU32::get)
    }

    fn switch(&mut self, topic: &str, count: u32) {
        self.topics.switch(topic, NonZeroU32::new(count).unwrap()).unwrap();
    }

    /// The pin on Kafka.
    fn recorded(&self) -> Option<u32> {
        peek(&self.settings, 0, LIMIT).unwrap()?.partitions.get(TOPIC).copied()
    }

    fn last_error(&self) -> String {
        self.observed.last_error().map(|(_, message)| message).unwrap_or_default()
    }

    /// Asks for the partitions on a thread, waits until `part` is what is waited for, mends, and answers
    /// what was found.
    fn waits(&mut self, part: &str, mend: impl FnOnce(&InMemory)) -> Option<u32> {
        let Stage { cluster, observed, topics, .. } = self;
        thread::scope(|scope| {
            let asking = scope.spawn(|| topics.partitions(TOPIC, now()).unwrap().map(NonZeroU32::get));
            let began = Instant::now();
            while !observed.phase().2.is_some_and(|waiting| waiting.contains(part)) {
                assert!(began.elapsed() < LIMIT, "waited in vain for {part}: {:?}", observed.phase());
                assert!(!asking.is_finished(), "did not wait");
                thread::yield_now();
            }
            mend(cluster);
            asking.join().unwrap()
        })
    }

    fn close(self) {
        self.ending.end(End::Drained);
        self.recording.join().unwrap();
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

#[test]
fn a_switch_is_recorded_and_followed() {
    let mut stage = Stage::set(&[(TOPIC, 3)]);
    stage.cluster.create_topic(TOPIC, 8, 1).unwrap();
    assert_eq!(stage.partitions(), Some(3));
    assert_eq!(stage.observed.grown_topics(), [Grown { topic: TOPIC.into(), pinned: 3, found: 8 }]);
    // What does not fit changes nothing.
    for (topic, count, part) in [
        (TOPIC, 9, "has 8 partitions, not 9"),
        (TOPIC, 2, "never over fewer"),
        ("other", 8, "not published to"),
    ] {
        stage.switch(topic, count);
        assert!(stage.last_error().contains(part), "{}", stage.last_error());
        assert_eq!((stage.partitions(), stage.recorded()), (Some(3), Some(3)));
    }
    stage.switch(TOPIC, 8);
    assert_eq!((stage.partitions(), stage.recorded()), (Some(8), Some(8)));
    assert_eq!(stage.observed.grown_topics(), []);
    // The same order, read again after a crash, and an older one.
    let said = stage.last_error();
    stage.switch(TOPIC, 8);
    assert_eq!(stage.last_error(), said);
    stage.switch(TOPIC, 5);
    assert_eq!((stage.partitions(), stage.recorded()), (Some(8), Some(8)));
    stage.close();
}

#[test]
fn a_new_topic_is_pinned_before_its_first_record() {
    let mut stage = Stage::set(&[]);
    stage.cluster.create_topic(TOPIC, 5, 1).unwrap();
    assert_eq!(stage.partitions(), Some(5));
    assert_eq!(stage.recorded(), Some(5));
    stage.close();
}

#[test]
fn a_smaller_topic_is_an_error() {
    let mut stage = Stage::set(&[(TOPIC, 3)]);
    stage.cluster.create_topic(TOPIC, 2, 1).unwrap();
    let error = stage.topics.partitions(TOPIC, now()).unwrap_err();
    assert!(matches!(error, TopicError::Shrunk { .. }), "{error}");
    stage.close();
}

#[test]
fn a_name_that_kafka_never_takes_is_not_waited_for() {
    let mut stage = Stage::set(&[]);
    stage.cluster.create_topic(TOPIC, 2, 1).unwrap();
    stage.cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION).unwrap();
    let error = stage.topics.partitions(TOPIC, now()).unwrap_err();
    assert!(matches!(error, TopicError::Illegal { .. }), "{error}");
    stage.close();
}

#[test]
fn a_missing_right_is_named_and_waited_for() {
    let mut stage = Stage::set(&[]);
    stage.cluster.create_topic(TOPIC, 2, 1).unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    stage.cluster.topic_error(TOPIC, refused).unwrap();
    let granted = |cluster: &InMemory| {
        cluster.topic_error(TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    };
    assert_eq!(stage.waits("rights Describe and Write", granted), Some(2));
    assert_eq!(stage.observed.phase().2, None);
    stage.close();
}

#[test]
fn a_missing_topic_is_named_and_waited_for() {
    let mut stage = Stage::set(&[]);
    let make = |cluster: &InMemory| cluster.create_topic(TOPIC, 4, 1).unwrap();
    assert_eq!(stage.waits("does not exist", make), Some(4));
    stage.close();
}

#[test]
fn the_end_of_the_session_ends_the_waiting() {
    let mut stage = Stage::set(&[]);
    let ending = stage.ending.clone();
    assert_eq!(stage.waits("does not exist", |_| ending.end(End::Drained)), None);
    stage.close();
}

#[test]
fn limits_are_those_of_topics_in_use() {
    let mut stage = Stage::set(&[]);
    stage.cluster.create_topic(TOPIC, 1, 1).unwrap();
    stage.partitions();
    assert_eq!(stage.topics.max_message_bytes(TOPIC), None, "the cluster in memory describes nothing");
    let small = Facts { max_message_bytes: Some(2000), retention_ms: Some(1000), ..Facts::default() };
    stage.topics.table.learn(TOPIC, small, now());
    assert_eq!(stage.topics.max_message_bytes(TOPIC), Some(2000));
    assert_eq!((stage.topics.smallest_limit(), stage.topics.batch_limit()), (Some(2000), Some(2000)));
    // Not only the first record of a topic is judged.
    let error = stage.topics.partitions(TOPIC, now() - 5000).unwrap_err();
    assert!(matches!(error, TopicError::TooOld { limit: 1000, .. }), "{error}");
    assert_eq!(stage.partitions(), Some(1));
    stage.topics = stage.topics.with_batches_of(1500);
    assert_eq!(stage.topics.batch_limit(), None);
    stage.ending.end(End::Drained);
    stage.recording.join().unwrap();
}

#[test]
fn the_watch_sees_growth_and_newer_facts_beside_the_router() {
    let mut stage = Stage::set(&[(TOPIC, 3)]);
    stage.cluster.create_topic(TOPIC, 8, 1).unwrap();
    let watching = stage.topics.watch().unwrap();
    let began = Instant::now();
    while stage.observed.grown_topics().is_empty() {
        assert!(began.elapsed() < LIMIT, "growth was not noticed");
        thread::yield_now();
    }
    assert_eq!(stage.partitions(), Some(3));
    stage.ending.end(End::Drained);
    watching.join().unwrap();
    stage.recording.join().unwrap();
}
