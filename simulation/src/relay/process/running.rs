//! The threads of a session that streams, but for router and keeper: the reader, the poller, the recorder, the pings.

use std::collections::VecDeque;

use outbox_relay::session::End;
use outbox_relay::simulation::{Session, Writing, is_anothers};
use uuid::Uuid;

use super::keeper::Keeper;
use super::router::Router;
use super::{BYTES, Links, fence, lost};
use crate::relay::Mutant;
use crate::relay::around::Around;
use crate::relay::broker::{Answer, Report};
use crate::relay::source::{Message, Received};

/// A session that streams.
pub(super) struct Running {
    /// Never the same for two.
    pub(super) number: u64,
    pub(super) links: (u64, u64),
    pub(super) session: Session,
    pub(super) producer: u64,
    chunks: VecDeque<Message>,
    asked: bool,
    writing: Option<Writing>,
    router: Router,
    keeper: Keeper,
    flushed: u64,
}

impl Running {
    pub(super) fn new(number: u64, links: (u64, u64), session: Session, producer: u64) -> Running {
        Running {
            number,
            links,
            session,
            producer,
            chunks: VecDeque::new(),
            asked: false,
            writing: None,
            router: Router::default(),
            keeper: Keeper::default(),
            flushed: 0,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        let keepalives = self.chunks.iter().all(|next| matches!(next, Message::Keepalive(_)));
        self.session.in_flight() == 0
            && self.writing.is_none()
            && keepalives
            && self.router.is_idle()
            && self.keeper.is_idle()
    }

    pub(super) fn says(&self) -> String {
        format!(
            "{} in flight, {} outstanding, {:?} next, router {:?}, keeper idle {}, recorded {}",
            self.session.in_flight(),
            self.session.outstanding(),
            self.chunks.front(),
            self.router,
            self.keeper.is_idle(),
            self.session.recorded()
        )
    }

    /// One thread's step.
    pub(super) fn step(
        &mut self,
        links: &mut Links,
        seen: &mut Option<(Uuid, u64)>,
        around: &mut Around,
    ) -> Result<bool, End> {
        if around.calm {
            return self.all(links, seen, around);
        }
        let on = match around.how.pick(12) {
            0..5 => self.route(around),
            5 | 6 => self.read(around),
            7 | 8 => self.poll(around),
            9 => self.record(links, seen, around),
            10 => self.keep(around),
            _ => self.ping(around),
        }?;
        self.bounded(around);
        Ok(on)
    }

    fn all(
        &mut self,
        links: &mut Links,
        seen: &mut Option<(Uuid, u64)>,
        around: &mut Around,
    ) -> Result<bool, End> {
        let mut on = self.read(around)?;
        for _ in 0..4 {
            on |= self.route(around)?;
        }
        on |= self.poll(around)?;
        on |= self.record(links, seen, around)?;
        on |= self.keep(around)?;
        self.ping(around)?;
        self.bounded(around);
        Ok(on)
    }

    fn bounded(&self, around: &mut Around) {
        let bounds = &around.settings.bounds;
        let (records, transactions) = (bounds.records as u64, bounds.transactions as u64);
        let (flying, outstanding) = (self.session.in_flight(), self.session.outstanding());
        around
            .judge
            .hold(flying <= records, || format!("{flying} records are in flight, more than {records}"));
        around.judge.hold(outstanding <= transactions, || {
            format!("{outstanding} transactions are outstanding, more than {transactions}")
        });
    }

    /// The router reads nothing before the first record is acknowledged.
    fn route(&mut self, around: &mut Around) -> Result<bool, End> {
        if !self.session.has_begun() {
            return Ok(false);
        }
        let mut router = std::mem::take(&mut self.router);
        let stepped = router.step(self, around);
        self.router = router;
        stepped
    }

    pub(super) fn next(&mut self) -> Option<Message> {
        self.chunks.pop_front()
    }

    pub(super) fn keeper(&mut self) -> &mut Keeper {
        &mut self.keeper
    }

    fn read(&mut self, around: &mut Around) -> Result<bool, End> {
        let stream = self.links.1;
        let many = 1 + around.how.pick(4);
        let mut on = false;
        for _ in 0..many {
            if self.chunks.len() >= around.settings.read_ahead {
                break;
            }
            match around.source.receive(stream) {
                Received::Ended => return Err(lost("the stream")),
                Received::Nothing => break,
                Received::Message(message) => {
                    self.asked |= matches!(message, Message::Keepalive(_));
                    self.chunks.push_back(message);
                    on = true;
                }
            }
        }
        if let Some(flushed) = self.session.feedback(around.now, std::mem::take(&mut self.asked)) {
            around.source.feed_back(stream, flushed);
            on |= flushed.0 > self.flushed;
            self.flushed = flushed.0;
        }
        Ok(on)
    }

    fn poll(&mut self, around: &mut Around) -> Result<bool, End> {
        let mut on = false;
        let many = 1 + around.how.pick(4);
        if let Some(producer) = around.broker.producers.get_mut(&self.producer) {
            for _ in 0..many {
                let Some((record, report)) = producer.report() else { break };
                on = true;
                match report {
                    Report::Taken => self.session.taken(record.word, BYTES),
                    Report::Refused => self.session.not_taken(record.word, false),
                    Report::Echo => self.session.not_taken(record.word, true),
                }
            }
        }
        let outstanding = self.session.outstanding();
        match self.session.polled() {
            Some(end) => Err(end),
            None => Ok(on || self.session.outstanding() != outstanding),
        }
    }

    fn record(
        &mut self,
        links: &mut Links,
        seen: &mut Option<(Uuid, u64)>,
        around: &mut Around,
    ) -> Result<bool, End> {
        let Some(writing) = &self.writing else {
            let Some(next) = self.session.due(around.now) else { return Ok(false) };
            around.broker.state.write(links.epoch, next.record().clone());
            self.writing = Some(next);
            return Ok(true);
        };
        match around.broker.state.answer(links.epoch) {
            None => Ok(false),
            Some(Answer::Committed) => {
                *seen = Some((writing.record().writer, writing.record().sequence));
                let now = around.now;
                if let Some(writing) = self.writing.take() {
                    self.session.acknowledged(writing, now);
                }
                Ok(true)
            }
            // A dead producer is no proof of another owner: a new one fences, and the record is read (R45).
            Some(Answer::Dead) => {
                let record = writing.record().clone();
                links.epoch = fence(around);
                let found = around.broker.state.newest.as_ref();
                if found.is_some_and(|found| is_anothers(found, &record, *seen)) {
                    return Err(End::Fenced("another relay has written the state record".to_owned()));
                }
                around.broker.state.write(links.epoch, record);
                Ok(true)
            }
        }
    }

    fn keep(&mut self, around: &mut Around) -> Result<bool, End> {
        let mut keeper = std::mem::take(&mut self.keeper);
        let stepped = keeper.step(self, around);
        self.keeper = keeper;
        stepped
    }

    fn ping(&mut self, around: &Around) -> Result<bool, End> {
        let (sql, stream) = self.links;
        if !around.source.is_connected(sql) && !around.is(Mutant::LossesApart) {
            return Err(lost("the SQL connection"));
        }
        if !around.source.is_streamed_by(stream) {
            return Err(lost("the slot"));
        }
        Ok(false)
    }

    /// Its session is over, and the process lives.
    pub(super) fn gone(self, around: &mut Around) {
        let outlives = around.is(Mutant::ProducerOutlives);
        around.broker.retire(self.producer, outlives);
    }

    /// Its process is dead.
    pub(super) fn died(self, around: &mut Around) {
        around.broker.retire(self.producer, false);
    }
}
