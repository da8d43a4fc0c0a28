//! Rows on their way into Kafka transactions, with the producer, the gate and the recorder of a session, against a cluster
//! in memory, which knows transactions.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::fixture::{native_row, plan};
use super::outlet::{Outlet, RouteError, Ways};
use super::topics::Topics;
use super::topics::cluster::Cluster;
use super::{RowPosition, Scratch};
use crate::config::{Overrides, Settings, load};
use crate::ledger::{self, Transaction};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::publisher::{
    Confirmations, Contact, Gate, Poller, Publishers, Reach, Refusals, Transactional, Window,
};
use crate::quarantine::{Desk, Holds};
use crate::reader::Positions;
use crate::session::{End, Ending};
use crate::state::{Place, Recorder, RecorderParts, StateRecord, Store, StoreError, Together, peek};

const LIMIT: Duration = Duration::from_secs(60);
const TOPIC: &str = "outbox.event.order";
/// Where the sessions begin.
const START: Lsn = Lsn(10);

type InMemory = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> InMemory {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("outbox.relay.state", 1, 1).unwrap();
    cluster.create_topic(TOPIC, 3, 1).unwrap();
    cluster
}

/// A session from its fence on.
struct Stage {
    settings: Settings,
    observed: Arc<Observed>,
    ending: Arc<Ending>,
    recorder: Arc<Recorder>,
    gate: Arc<Gate>,
    outlet: Outlet,
    poller: Poller,
    recording: JoinHandle<()>,
}

impl Stage {
    fn set(cluster: &InMemory, refusals: &Arc<Refusals>) -> Stage {
        Stage::set_with(cluster, refusals, |_| {}).unwrap_or_else(|error| panic!("{error}"))
    }

    /// `between`: what happens after the record was read and before the transactional id is taken over.
    fn set_with(
        cluster: &InMemory,
        refusals: &Arc<Refusals>,
        between: impl FnOnce(&Settings),
    ) -> Result<Stage, StoreError> {
        let variables = [
            ("OUTBOX_RELAY_NAME", "orders".to_owned()),
            ("OUTBOX_RELAY_SOURCE_URL", "postgres://relay@localhost/orders".to_owned()),
            ("OUTBOX_RELAY_KAFKA_BROKERS", cluster.bootstrap_servers()),
            ("OUTBOX_RELAY_DELIVERY_GUARANTEE", "exactly_once".to_owned()),
            ("OUTBOX_RELAY_QUARANTINE_POLICY", "halt".to_owned()),
        ];
        let variables: Vec<_> = variables.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        let settings = load(None, &|| variables.clone(), Overrides::default()).unwrap().into_first();
        let (observed, ending) = (Arc::new(Observed::new()), Arc::new(Ending::default()));
        let mut store = Store::fence(&settings, 0, Contact::default(), &ending).unwrap();
        let found = store.read(&ending).unwrap();
        let mut record = found.unwrap_or_else(|| StateRecord::first("orders", 0, "1", 1, START));
        (record.writer, record.sequence) = (uuid::Uuid::now_v7(), 0);
        let position = record.position;
        let flow = refusals.flow(&mut record);
        let (writer, settler, head) = ledger::ledger(64, position);
        let window = Arc::new(Window::new(1_000, 1 << 20));
        let transactional =
            Transactional { id: Store::id_of(&settings, 0), timeout: settings.delivery.transaction_timeout };
        let publishers = Publishers::new(
            &settings.kafka,
            settler.clone(),
            window.clone(),
            observed.clone(),
            refusals.clone(),
            flow,
            Some(transactional),
        );
        let publishers = Arc::new(publishers.unwrap());
        let confirmations = Confirmations::new(position);
        let (seen, over) = (observed.clone(), ending.clone());
        let poller = Poller::spawn(publishers.clone(), head, confirmations.clone(), seen, over).unwrap();
        let gate = Arc::new(Gate::new(position));
        between(&settings);
        let together = Together::take_over(store, publishers.clone(), gate.clone(), window.clone(), &ending);
        let together = together.inspect_err(|error| ending.end(End::halt(error)))?;
        let pins = record.partitions.clone();
        let (recorder, recording) = Recorder::spawn(RecorderParts {
            place: Place::Together(Box::new(together), settings.delivery.clone()),
            record,
            believed: true,
            confirmations,
            positions: Arc::new(Positions::default()),
            settings: settings.state.clone(),
            observed: observed.clone(),
            ending: ending.clone(),
        })
        .unwrap();
        recorder.begun(&ending);
        assert_eq!(ending.told(), None);
        let (recorded, seen, over) = (recorder.clone(), observed.clone(), ending.clone());
        let known = Arc::new(Cluster::new(&settings.kafka).unwrap());
        let topics = Topics::new(pins, known, &settings.kafka, &settings.topics, recorded, seen, over)
            .unwrap()
            .behind(Some(gate.clone()));
        let ways = Ways {
            topics,
            ledger: writer,
            settler,
            publishers,
            window,
            gate: Some(gate.clone()),
            holds: Holds::default(),
            desk: Arc::new(Desk::default()),
            observed: observed.clone(),
            ending: ending.clone(),
        };
        let outlet = Outlet::new(&settings, ways);
        Ok(Stage { settings, observed, ending, recorder, gate, outlet, poller, recording })
    }

    /// A transaction of so many rows, as the router walks it.
    fn transaction(&mut self, commit_lsn: u64, rows: u64) -> Result<(), RouteError> {
        let (plan, row, mut scratch) = (plan(), native_row(&[]), Scratch::default());
        let commit_lsn = Lsn(commit_lsn);
        assert!(self.gate.enter(&self.ending));
        self.outlet.reach(Reach::whole(commit_lsn))?;
        self.outlet.ledger.open(Transaction { commit_lsn, xid: 7, commit_time: 0 }).unwrap();
        let commit_unix_millis = jiff::Timestamp::now().as_millisecond();
        for ordinal in 0..rows {
            let at = RowPosition { epoch: 1, commit_lsn, ordinal, commit_unix_millis };
            self.outlet.publish(&plan, &row, &at, &mut scratch)?;
        }
        let end = Lsn(commit_lsn.0 + 5);
        self.outlet.ledger.commit(end);
        self.gate.leave(end);
        Ok(())
    }

    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < LIMIT, "waited in vain for {what}: {:?}", self.ending.told());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for the session's end, and lets go of everything.
    fn ended(self) -> (End, Arc<Observed>, Settings) {
        self.until("the end", || self.ending.is_over());
        let Stage { settings, observed, ending, poller, recording, .. } = self;
        recording.join().unwrap();
        poller.stop();
        (ending.told().unwrap(), observed, settings)
    }

    fn close(self) -> (End, Arc<Observed>, Settings) {
        self.ending.end(End::Drained);
        self.ended()
    }
}

#[test]
fn events_and_record_are_committed_together_and_nobody_waits_for_the_pin() {
    let cluster = cluster();
    let mut stage = Stage::set(&cluster, &Arc::default());
    stage.transaction(20, 3).unwrap();
    stage.transaction(30, 2).unwrap();
    stage.until("the record", || stage.recorder.recorded_up_to(Lsn(35)));
    assert_eq!(stage.observed.kafka_committed_records.get(), 5);
    assert!(stage.observed.kafka_commits.get() >= 2, "the first record, and that with the events");
    let record = peek(&stage.settings, 0, LIMIT).unwrap().unwrap();
    assert_eq!((record.position, record.partitions.get(TOPIC)), (Lsn(35), Some(&3)));
    // One that is not at its end holds the commit up.
    assert!(stage.gate.enter(&stage.ending));
    let ticket = stage.gate.want();
    stage.recorder.wake();
    std::thread::sleep(Duration::from_millis(100));
    assert!(!stage.gate.has_cut(ticket));
    stage.gate.leave(Lsn(35));
    stage.until("the cut", || stage.gate.has_cut(ticket));
    let (_, observed, _) = stage.close();
    assert_eq!(observed.kafka_aborts.get(), 0, "nothing was left open");
}

#[test]
fn a_refused_record_aborts_its_transaction_and_is_put_aside_unsent_by_the_session_after_the_next() {
    let cluster = cluster();
    let refusals = Arc::new(Refusals::default());
    let refuse = || {
        let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        cluster.request_errors(RDKafkaApiKey::Produce, &[error]);
    };
    let mut first = Stage::set(&cluster, &refusals);
    refuse();
    first.transaction(20, 1).unwrap();
    let (end, observed, settings) = first.ended();
    assert!(matches!(end, End::Again(_)), "{end:?}");
    assert_eq!((observed.kafka_aborts.get(), refusals.until()), (1, Some(Reach::whole(Lsn(20)))));
    let position = || peek(&settings, 0, LIMIT).unwrap().unwrap().position;
    assert_eq!(position(), START, "nothing of it is recorded");

    refusals.begin();
    let mut second = Stage::set(&cluster, &refusals);
    refuse();
    let error = second.transaction(20, 1).unwrap_err();
    assert!(matches!(error, RouteError::Anew(_)), "{error}");
    second.ending.end(error.end());
    assert!(matches!(second.ended().0, End::Again(_)));

    let mut third = Stage::set(&cluster, &refusals);
    let error = third.transaction(20, 1).unwrap_err();
    assert!(matches!(error, RouteError::Row { .. }), "the policy is to halt before it: {error}");
    third.close();
    assert_eq!(position(), START);
}

/// The cluster in memory fences nobody, so what is left to find another by is the record.
#[test]
fn a_record_that_another_has_written_since_it_was_read_ends_the_take_over() {
    let cluster = cluster();
    Stage::set(&cluster, &Arc::default()).close();
    let between = |settings: &Settings| {
        let ending = Ending::default();
        let mut another = Store::fence(settings, 0, Contact::default(), &ending).unwrap();
        let mut record = another.read(&ending).unwrap().unwrap();
        (record.writer, record.sequence) = (uuid::Uuid::now_v7(), 1);
        another.write(&record, &ending).unwrap();
    };
    let taken = Stage::set_with(&cluster, &Arc::default(), between);
    assert!(matches!(taken, Err(StoreError::Fenced { .. })));
}
