//! A record on its way out: its topic known and pinned, within the window, counted by the ledger, handed
//! over to the producer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;

pub use super::error::RouteError;
use super::topics::{TopicError, Topics};
use super::{Plan, Record, RowPosition, Scratch, Value, partition};
use crate::config::{KafkaSettings, OutboxSettings, QuarantineSettings, Settings};
use crate::ledger::{Settler, Writer};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::publisher::A_RIGHT;
use crate::publisher::{
    Charge, Firsts, Flow, Gate, HandOver, Load, Publisher, Publishers, Reach, Refusals, Window,
};
use crate::quarantine::desk::Outcome;
use crate::quarantine::{Cause, Desk, Holds};
use crate::session::{Ending, Refused, of_kafka};

/// How long a wait for room lasts before the session's end is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How long the answer to a record that was sent alone is waited for before it is looked for again.
const ALONE: Duration = Duration::from_micros(300);

/// How long what is in flight is waited for before it is looked at again.
const SETTLED: Duration = Duration::from_micros(300);

/// How long after a missing right the record is sent again.
const FORBIDDEN: Duration = Duration::from_secs(1);

/// How often a producer that knows less partitions than the topic has looks again before it is replaced.
const LEARNED: u32 = 3;

/// What a way out is built from.
pub struct Ways {
    /// Topics and pins.
    pub topics: Topics,
    /// The ledger's writing side.
    pub ledger: Writer,
    /// Settles rows that no delivery report will settle.
    pub settler: Settler,
    /// The producers of this session.
    pub publishers: Arc<Publishers>,
    /// The bound on what is in flight.
    pub window: Arc<Window>,
    /// Where Kafka transactions are cut, with exactly one delivery.
    pub gate: Option<Arc<Gate>>,
    /// Held keys and settled rows.
    pub holds: Holds,
    /// The way into the quarantine.
    pub desk: Arc<Desk>,
    /// What is seen from outside.
    pub observed: Arc<Observed>,
    /// The session's end.
    pub ending: Arc<Ending>,
}

/// The router's and the fill's way out.
pub struct Outlet {
    pub(super) topics: Topics,
    /// How many topics were in use when the size of batches was compared with them.
    topics_seen: usize,
    /// The ledger's writing side.
    pub ledger: Writer,
    pub(super) settler: Settler,
    publishers: Arc<Publishers>,
    /// The one of them in use.
    pub(super) publisher: Arc<Publisher>,
    /// Where the broker knows it.
    firsts: Firsts,
    /// When the transaction at hand began to be handed over.
    now: Instant,
    /// The bound on what is in flight.
    pub window: Arc<Window>,
    pub(super) gate: Option<Arc<Gate>>,
    /// Decisions that are carried out in the Kafka transaction at hand and written down after it.
    pub(super) carried: Vec<Outcome>,
    pub(super) holds: Holds,
    pub(super) desk: Arc<Desk>,
    pub(super) quarantine: QuarantineSettings,
    /// The table; for rows that come back from the quarantine.
    pub(super) outbox: OutboxSettings,
    /// Topic prefix and limits; for the same.
    pub(super) kafka: KafkaSettings,
    pub(super) observed: Arc<Observed>,
    /// The session's end.
    pub ending: Arc<Ending>,
}

/// What became of a record that was to be sent.
#[derive(Debug)]
pub(super) enum Sent {
    /// librdkafka has it, or the session is over.
    Gone,
    /// It is refused for good. If it was counted already, by this.
    Refused {
        /// What the ledger counted it as.
        opaque: Option<usize>,
        /// Why.
        cause: Cause,
        /// In words.
        reason: String,
    },
}

/// By what a row is told from every other.
fn place_of(at: &RowPosition) -> (u64, Lsn, u64) {
    (at.epoch, at.commit_lsn, at.ordinal)
}

/// What was said of a record that was handed over.
enum Answer {
    /// What became of it.
    Sent(Sent),
    /// The relay may not write to its topic.
    Forbidden(String),
}

impl Outlet {
    /// Builds the way out, and lets what is held be seen.
    pub fn new(settings: &Settings, ways: Ways) -> Outlet {
        let Ways { topics, ledger, settler, publishers, window, gate, holds, desk, observed, ending } = ways;
        let outlet = Outlet {
            topics: topics.with_batches_of(publishers.batch_bytes()),
            topics_seen: 0,
            ledger,
            settler,
            publisher: publishers.current(),
            firsts: Firsts::default(),
            now: Instant::now(),
            publishers,
            window,
            gate,
            carried: Vec::new(),
            holds,
            desk,
            quarantine: settings.quarantine.clone(),
            outbox: settings.outbox.clone(),
            kafka: settings.kafka.clone(),
            observed,
            ending,
        };
        outlet.show_holds();
        outlet
    }

    /// Makes a record of a row and hands it over, or puts the row aside; waits for its topic and for room.
    /// Returns without having done so only when the session is over.
    ///
    /// # Errors
    /// The row cannot be published and not be put aside.
    pub fn publish(
        &mut self,
        plan: &Plan,
        row: &[Value<'_>],
        at: &RowPosition,
        scratch: &mut Scratch,
    ) -> Result<(), RouteError> {
        if self.holds.meet(at, || plan.event_id(row)) {
            self.show_holds();
            let opaque = self.ledger.row();
            self.settler.settle(opaque);
            return Ok(());
        }
        let (opaque, cause, reason) = match plan.record(row, at, scratch) {
            Ok(record) if self.is_held(&record) => {
                (None, Cause::Behind, "an earlier event of its key is held".to_owned())
            }
            Ok(record) => match self.send(&record, at)? {
                Sent::Gone => return Ok(()),
                Sent::Refused { opaque, cause, reason } => (opaque, cause, reason),
            },
            Err(why) => (None, Cause::of(&why), why.to_string()),
        };
        self.put_aside(plan, row, at, opaque, cause, reason)
    }

    fn is_held(&self, record: &Record<'_>) -> bool {
        record.key.is_some_and(|key| self.holds.holds(record.topic, key))
    }

    /// Notes how far records are handed over from now on. Past everything that a refused producer had been
    /// given, records leave in full flow again.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn reach(&mut self, reach: Reach) -> Result<(), RouteError> {
        if self.gate.is_some() {
            return self.reach_in_transaction(reach);
        }
        self.now = Instant::now();
        // Looked at while nothing is in flight anyway, so that nobody has to wait for that later.
        if self.window.records() == 0 && !self.publisher.has_failed() {
            self.firsts.all_taken();
        }
        self.publishers.refusals().hand(reach);
        if self.publisher.flow() == Flow::OneAtATime && self.publishers.refusals().has_passed(reach) {
            self.publishers.refusals().passed();
            self.switch(Flow::Full)?;
            self.observed.waiting_for(None);
            tracing::info!("past the refused records: sending in full flow again");
        }
        Ok(())
    }

    /// The same with exactly one delivery: the producer stays, and only what may hold the refused record goes alone.
    fn reach_in_transaction(&mut self, reach: Reach) -> Result<(), RouteError> {
        let refusals = self.publishers.refusals();
        refusals.hand(reach);
        let alone = self.publisher.flow() == Flow::OneAtATime && refusals.is_doubted(reach.commit_lsn);
        if alone == self.publishers.sends_alone() || !self.all_taken() {
            return Ok(());
        }
        self.publishers.send_alone(alone);
        Ok(())
    }

    /// What sessions know of refused records.
    pub fn refusals(&self) -> &Refusals {
        self.publishers.refusals()
    }

    /// Whether a transaction that commits here lies behind all that a refused producer had been given, so that the
    /// next session may send in full flow.
    pub fn is_past_refusals(&self, commit_lsn: Lsn) -> bool {
        self.publisher.flow() == Flow::OneAtATime && self.refusals().has_passed(Reach::whole(commit_lsn))
    }

    /// Lets records wait for company, or no longer, as suits a stream that is so far behind. Between two
    /// transactions.
    ///
    /// # Errors
    /// librdkafka refuses the configuration.
    pub fn keep_pace(&mut self, lag: Duration) -> Result<(), RouteError> {
        let flow = self.publisher.flow().at(lag);
        if flow == self.publisher.flow() || self.gate.is_some() {
            return Ok(());
        }
        if self.all_taken() {
            tracing::debug!(?flow, ?lag, "another flow");
            self.switch(flow)?;
        }
        Ok(())
    }

    fn switch(&mut self, flow: Flow) -> Result<(), RouteError> {
        self.publisher =
            self.publishers.switch(flow).map_err(|error| RouteError::Producer(error.to_string()))?;
        self.firsts.forget();
        Ok(())
    }

    /// Waits until the broker has taken everything that was handed over; false when the session is over. What is not in
    /// flight any more may have been refused: then the session ends, and nothing may pass it.
    pub(super) fn all_taken(&self) -> bool {
        while self.window.records() > 0 || self.publisher.has_failed() {
            if self.ending.is_over() {
                return false;
            }
            self.ending.pause(SETTLED);
        }
        !self.ending.is_over()
    }

    /// Waits until the record may go to its partition; false when the session is over.
    fn may_go(&mut self, topic: &str, partition: i32) -> bool {
        // What is sent alone is waited for anyway, and of a transaction that fails nobody sees anything.
        if self.publishers.sends_alone()
            || self.gate.is_some()
            || self.firsts.may_go(topic, partition, self.now)
        {
            return true;
        }
        if !self.all_taken() {
            return false;
        }
        self.now = Instant::now();
        self.firsts.all_taken();
        self.firsts.may_go(topic, partition, self.now)
    }

    /// Hands one record over. One that is sent alone is waited for.
    ///
    /// # Errors
    /// Its topic cannot be published to, or its time is refused.
    pub(super) fn send(&mut self, record: &Record<'_>, at: &RowPosition) -> Result<Sent, RouteError> {
        if self.gate.is_some()
            && let Some(reason) = self.refusals().why_alone(place_of(at))
        {
            return Ok(Sent::Refused { opaque: None, cause: Cause::Refused, reason });
        }
        let count = match self.topics.partitions(record.topic, record.timestamp_ms) {
            Ok(Some(count)) => count,
            Ok(None) => return Ok(Sent::Gone),
            Err(error @ TopicError::Illegal { .. }) => {
                let (cause, reason) = (Cause::IllegalTopic, error.to_string());
                return Ok(Sent::Refused { opaque: None, cause, reason });
            }
            Err(error) => return Err(error.into()),
        };
        self.fit_batches()?;
        // A record without a key has no order to keep; its id spreads such records.
        let partition = partition(record.key.unwrap_or(record.id), count);
        if !self.may_go(record.topic, partition) {
            return Ok(Sent::Gone);
        }
        let charge = record.charge();
        let mut opaque = None;
        let mut forbidden = false;
        loop {
            while !self.window.take(charge) {
                self.window.wait(charge, LOOK);
                if self.ending.is_over() {
                    return Ok(Sent::Gone);
                }
            }
            let opaque = *opaque.get_or_insert_with(|| self.ledger.row());
            match self.hand_over(record, partition, (opaque, charge), at)? {
                Answer::Sent(sent) => {
                    if forbidden {
                        self.observed.waiting_for(None);
                    }
                    return Ok(sent);
                }
                Answer::Forbidden(said) => {
                    // Nothing is in flight, and nothing passes this record: it is sent again until it is taken.
                    if !std::mem::replace(&mut forbidden, true) {
                        tracing::warn!("waiting for a right: {said}");
                    }
                    self.observed.error(said.clone());
                    self.observed.waiting_for(Some(said));
                    self.ending.pause(FORBIDDEN);
                    if self.ending.is_over() {
                        return Ok(Sent::Gone);
                    }
                }
            }
        }
    }

    fn hand_over(
        &mut self,
        record: &Record<'_>,
        partition: i32,
        (opaque, charge): (usize, Charge),
        at: &RowPosition,
    ) -> Result<Answer, RouteError> {
        let mut learned = 0;
        loop {
            match self.publisher.hand_over(record, partition, charge.beside(opaque)) {
                // The topic has grown, and its keys were switched, since the producer looked at it.
                HandOver::Refused(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition)
                        && learned < LEARNED
                        && !self.ending.is_over() =>
                {
                    learned += 1;
                    self.publisher.learn(record.topic);
                }
                HandOver::Accepted => {
                    if let Some(gate) = &self.gate {
                        gate.sent(charge.bytes());
                    }
                    let alone = self.publishers.sends_alone();
                    return if alone { self.answer(opaque, at) } else { Ok(Answer::Sent(Sent::Gone)) };
                }
                HandOver::Full if !self.ending.is_over() => self.ending.pause(Duration::from_millis(1)),
                // The session is over or about to be: the poller says why.
                HandOver::Full | HandOver::Dead => return Ok(Answer::Sent(Sent::Gone)),
                HandOver::Refused(error) => {
                    self.firsts.unsent(record.topic, partition);
                    self.window.give_back(Load::default().and(charge));
                    return self.refused(opaque, at, error.rdkafka_error_code(), &error);
                }
            }
        }
    }

    /// A topic that takes less than a batch of this producer would refuse whole batches, with records that are
    /// small enough in them: the session begins anew with smaller ones (R17).
    fn fit_batches(&mut self) -> Result<(), RouteError> {
        let topics = self.topics.number_used();
        if topics == self.topics_seen {
            return Ok(());
        }
        self.topics_seen = topics;
        match self.topics.batch_limit() {
            Some(limit) if self.publishers.limit_batches(limit) => Err(RouteError::Batches { limit }),
            Some(_) | None => Ok(()),
        }
    }

    /// Waits for the answer to the only record in flight.
    fn answer(&self, opaque: usize, at: &RowPosition) -> Result<Answer, RouteError> {
        while self.window.records() > 0 {
            if self.ending.is_over() {
                return Ok(Answer::Sent(Sent::Gone));
            }
            self.ending.pause(ALONE);
        }
        let failed = self.publisher.has_failed();
        match self.publisher.take_refusal() {
            Some(refusal) if self.gate.is_some() => Err(self.aborts(at, refusal.code, &refusal)),
            Some(refusal) => self.refused(opaque, at, Some(refusal.code), &refusal),
            None if failed && self.gate.is_some() => Err(self.dropped()),
            None if failed => {
                Err(RouteError::Producer("librdkafka dropped a record without a reason".into()))
            }
            None => Ok(Answer::Sent(Sent::Gone)),
        }
    }

    /// The broker has refused a record of the Kafka transaction at hand, which has to be aborted: the next session puts
    /// the row aside without sending it.
    fn aborts(&self, at: &RowPosition, code: RDKafkaErrorCode, said: &dyn std::fmt::Display) -> RouteError {
        match of_kafka(code) {
            Refused::TheRecord => {
                if code == RDKafkaErrorCode::MessageSizeTooLarge {
                    self.refusals().was_a_record();
                }
                self.refusals().refused_alone(place_of(at), said.to_string());
                RouteError::Anew(format!("{said}; its Kafka transaction begins anew without it"))
            }
            Refused::ItsTime => RouteError::Time { position: at.text(), reason: said.to_string() },
            Refused::TheRight => RouteError::HoldsBack(said.to_string()),
            Refused::TheProducer => RouteError::Producer(said.to_string()),
        }
    }

    /// The record that was sent alone was dropped with its transaction.
    fn dropped(&self) -> RouteError {
        // Said at about the same time, on another thread.
        let deadline = Instant::now() + LOOK;
        while self.publisher.broken().is_none() && Instant::now() < deadline {
            self.ending.pause(ALONE);
        }
        match self.publisher.broken() {
            Some(said) if said.contains(A_RIGHT) => RouteError::HoldsBack(format!(
                "{said}; give the relay's user the right to write to the topic"
            )),
            Some(said) => RouteError::Producer(said),
            None => RouteError::Producer("librdkafka dropped a record without a reason".into()),
        }
    }

    fn refused(
        &self,
        opaque: usize,
        at: &RowPosition,
        code: Option<RDKafkaErrorCode>,
        said: &dyn std::fmt::Display,
    ) -> Result<Answer, RouteError> {
        match code.map_or(Refused::TheProducer, of_kafka) {
            Refused::TheRecord => {
                if code == Some(RDKafkaErrorCode::MessageSizeTooLarge) {
                    self.publishers.refusals().was_a_record();
                }
                let (opaque, cause, reason) = (Some(opaque), Cause::Refused, said.to_string());
                Ok(Answer::Sent(Sent::Refused { opaque, cause, reason }))
            }
            Refused::ItsTime => Err(RouteError::Time { position: at.text(), reason: said.to_string() }),
            Refused::TheRight if self.gate.is_none() && self.publishers.sends_alone() => {
                Ok(Answer::Forbidden(said.to_string()))
            }
            Refused::TheRight | Refused::TheProducer => Err(RouteError::Producer(said.to_string())),
        }
    }
}
