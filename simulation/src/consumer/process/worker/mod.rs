//! A worker, as `consumer-sdk/src/runtime/{worker,transaction,permit}.rs` have it, one statement or wait a step:
//!
//! | step | where it comes from |
//! |---|---|
//! | `Idle` | `worker::next`, `worker::plan` |
//! | `Claim`, `Look` | `inbox::claim_now`: claim first, then look for markers (C52); in [`claim`] |
//! | `LineUp` | `Group::line_up` |
//! | `Ask` | `Group::one_by_one`, `permit::permit`; in [`handle`] |
//! | `Handle` | `Group::one`, `Group::look_behind`; the handler itself |
//! | `End`, `Answer` | `Group::end`, `inbox::commit`; in [`outcome`] |
//! | `Decide` | `worker::decide`; the rest is in [`conclude`](super::conclude) |
//!
//! Before each step it looks whether a partition of its records was lost, as the `select!` of `worker::work` does.

mod claim;
mod handle;
mod outcome;

use std::collections::VecDeque;
use std::ops::Range;

use outbox_consumer::journal::Ending;
use outbox_consumer::simulation::Permit;

use super::conclude::{Conclusion, Fate, Job, end};
use super::turn::{Place, Turn};
use super::{Core, Stepped};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::TxId;
use crate::consumer::log::{End, EventId};

/// What ends a statement that waits for another transaction.
pub const STATEMENT: u64 = 30_000;

#[derive(Debug, Clone, Copy)]
enum At {
    Idle,
    Claim { since: u64 },
    Look,
    LineUp { key: usize, since: u64 },
    Ask { place: usize },
    Handle { place: usize },
    End,
    Answer,
    Decide,
    Conclude,
}

/// A worker.
#[derive(Debug)]
pub struct Worker {
    at: At,
    works: Vec<Job>,
    places: Vec<Place>,
    keys: Vec<Range<usize>>,
    parked: Vec<bool>,
    tx: Option<TxId>,
    rest: VecDeque<Conclusion>,
}

impl Worker {
    /// A worker without work.
    pub fn idle() -> Worker {
        Worker {
            at: At::Idle,
            works: Vec::new(),
            places: Vec::new(),
            keys: Vec::new(),
            parked: Vec::new(),
            tx: None,
            rest: VecDeque::new(),
        }
    }

    /// Whether it has nothing in hand.
    pub fn is_idle(&self) -> bool {
        matches!(self.at, At::Idle)
    }

    /// One step.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        if self.works.iter().any(|job| job.work.is_lost()) {
            self.leave(core, around);
            return Stepped::On;
        }
        match self.at {
            At::Idle => self.next(core, around).into(),
            At::Claim { since } => self.claim(core, around, since).into(),
            At::Look => self.look(core, around).into(),
            At::LineUp { key, since } => self.line_up(core, around, key, since).into(),
            At::Ask { place } => self.ask(core, around, place).into(),
            At::Handle { place } => self.handle(core, around, place),
            At::End => self.end(core, around).into(),
            At::Answer => self.answer(core, around).into(),
            At::Decide => self.decide(core, around).into(),
            At::Conclude => self.conclude(core, around).into(),
        }
    }

    fn alone(&self) -> bool {
        self.places.len() == 1
    }

    fn next(&mut self, core: &mut Core, around: &mut Around) -> bool {
        if core.stopping {
            return false;
        }
        let works = core.engine.take(around.settings.workers);
        if works.is_empty() {
            return false;
        }
        self.works = works.into_iter().map(|work| Job::new(core, around, work)).collect();
        self.places.clear();
        self.keys.clear();
        for Job { work, .. } in &self.works {
            let begin = self.places.len();
            for offset in work.offsets() {
                let Some(event) = around.log.at(work.lane().partition, offset) else { continue };
                if around.log.events[event].end == End::Skip {
                    break;
                }
                let (turn, running) = (None, None);
                self.places.push(Place {
                    offset,
                    event,
                    claimed: false,
                    repeats: false,
                    turn,
                    running,
                    named: false,
                });
            }
            self.keys.push(begin..self.places.len());
        }
        around.tell(|| {
            let events: Vec<EventId> = self.places.iter().map(|place| place.event).collect();
            format!("{:?} takes events {events:?}", core.who)
        });
        if self.places.is_empty() {
            // Nobody's concern: settled without a handler.
            for mut job in std::mem::take(&mut self.works) {
                core.engine.settle(&mut job.work, 0, true);
                end(core, around, job, Fate::GoOn);
            }
            return true;
        }
        match around.db.begin(core.who, around.now) {
            Ok(tx) => {
                self.tx = Some(tx);
                self.at = At::Claim { since: around.now };
                if around.is(Mutant::LookBeforeClaim) {
                    self.see_markers(core, around);
                }
            }
            Err(_) => {
                if around.is(Mutant::AskBeforeClaim) {
                    self.ask_early(core);
                }
                self.all(Turn::Trouble);
            }
        }
        true
    }

    /// A mutant asks the journal although the database is away.
    fn ask_early(&mut self, core: &mut Core) {
        if let (true, Permit::Start(running)) = (self.alone(), core.engine.may_start(&self.works[0].work, 0))
        {
            core.engine.handler_ended(running, Ending::Survived);
        }
    }

    /// The transaction came to nothing, and so did everything in it.
    fn all(&mut self, turn: Turn) {
        for place in &mut self.places {
            place.turn = Some(turn);
        }
        self.at = At::Decide;
    }

    fn key_of(&self, place: usize) -> usize {
        self.keys.iter().position(|range| range.contains(&place)).unwrap_or(0)
    }
}
