//! What follows for the first record of a run that is not settled, as `worker::conclude`, `failure::failed`,
//! `failure::bury` and `failure::otherwise` have it: the ladder's word, and the transaction that carries it out.

use std::time::Duration;

use outbox_consumer::ladder::{Exhausted, Failure, History, Step};
use outbox_consumer::simulation::Work;

use super::turn::{TRANSIENT, Turn};
use super::worker::STATEMENT;
use super::{AGAIN, Core};
use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::database::{Answer, Claim, Delay, Follow, Said, State, TxId};
use crate::consumer::log::{EventId, KeyId, NAMED};

/// `failure::NOWHERE`.
const NOWHERE: u64 = 10_000;

/// Records of one key that a worker runs.
#[derive(Debug)]
pub struct Job {
    /// What the engine knows of them.
    pub work: Work,
    key: KeyId,
}

impl Job {
    /// One run of a key at a time is out, whatever its assignment (C28).
    pub fn new(core: &mut Core, around: &mut Around, work: Work) -> Job {
        let partition = work.lane().partition;
        let event = work.offsets().next().and_then(|offset| around.log.at(partition, offset));
        let key = event.map_or(NAMED, |event| around.log.events[event].key);
        if key < NAMED {
            around.judge.hold(!core.busy.contains(&key), || format!("two runs of key {key} are out"));
            core.busy.push(key);
        }
        Job { work, key }
    }
}

/// What becomes of a run; `worker::Fate`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// What is left of it comes when its turn comes.
    GoOn,
    /// It comes again after a while, and holds its key meanwhile.
    Again(u64),
    /// It comes again with its partition.
    Left,
}

/// `worker::end`: the only place that acts on what became of a run.
pub fn end(core: &mut Core, around: &mut Around, job: Job, fate: Fate) {
    if let Some(at) = core.busy.iter().position(|key| *key == job.key) {
        core.busy.swap_remove(at);
    }
    let wait = !matches!(fate, Fate::GoOn | Fate::Again(0));
    let hold = core.engine.end(job.work, wait);
    if let (Some(hold), Fate::Again(delay)) = (hold, fate) {
        core.holds.push((around.now + delay, hold));
    }
}

/// What is written of an event in place of its handler's effects; `failure::Instead`.
#[derive(Debug, Clone, Copy)]
enum Instead {
    Settle(State),
    Park(Delay),
}

#[derive(Debug, Clone, Copy)]
enum At {
    Begin,
    /// The dead letter is written.
    Letter,
    Claim(Instead, u64),
    Look(Instead),
    Write(Instead, u64, bool),
    Answer,
    Over(Fate),
}

/// A run whose first record is not settled.
#[derive(Debug)]
pub struct Conclusion {
    job: Job,
    turn: Turn,
    event: EventId,
    at: At,
    tx: Option<TxId>,
    settles: bool,
}

impl Conclusion {
    /// Of the first record of a run.
    pub fn new(job: Job, turn: Turn, event: EventId) -> Conclusion {
        Conclusion { job, turn, event, at: At::Begin, tx: None, settles: false }
    }

    /// Whether it is decided.
    pub fn is_over(&self) -> bool {
        matches!(self.at, At::Over(_))
    }

    /// Acts on it.
    pub fn end(mut self, core: &mut Core, around: &mut Around) {
        let At::Over(fate) = self.at else { return };
        if self.settles {
            around.judge.settled(&around.db, &around.log, core.scope, self.event);
            core.engine.settle(&mut self.job.work, 0, true);
        }
        end(core, around, self.job, fate);
    }

    fn over(&mut self, fate: Fate) -> bool {
        self.at = At::Over(fate);
        true
    }

    /// One step.
    pub fn step(&mut self, core: &mut Core, around: &mut Around) -> bool {
        if self.job.work.is_lost() {
            if let Some(tx) = self.tx.take() {
                around.db.drop_connection(tx, around.now);
            }
            return self.over(Fate::Left);
        }
        match self.at {
            At::Begin => self.begin(core, around),
            At::Letter => {
                if around.fault(10) {
                    // Kafka is away: it stays first of its key (C12).
                    return self.over(Fate::Again(NOWHERE));
                }
                self.otherwise(around, Instead::Settle(State::Dead))
            }
            At::Claim(instead, since) => self.claim(core, around, instead, since),
            At::Look(instead) => {
                let behind = around.db.is_marked(core.scope, around.log.events[self.event].key);
                self.at = At::Write(instead, around.now, behind);
                true
            }
            At::Write(instead, since, behind) => self.write(core, around, instead, since, behind),
            At::Answer => self.answer(around),
            At::Over(_) => false,
        }
    }

    fn begin(&mut self, core: &mut Core, around: &mut Around) -> bool {
        match self.turn {
            Turn::Rejected => self.otherwise(around, Instead::Settle(State::Rejected)),
            Turn::Failed(failure) => self.failed(core, around, failure),
            Turn::Convicted(_) => self.failed(core, around, Failure::Permanent),
            Turn::Later => self.over(Fate::Again(AGAIN / 5)),
            Turn::Settled(_) | Turn::Alone => self.over(Fate::Again(0)),
            Turn::Wait => self.over(Fate::Again(AGAIN)),
            Turn::Trouble => self.trouble(),
            Turn::Left => self.over(Fate::Left),
        }
    }

    fn trouble(&mut self) -> bool {
        let mut tries = self.job.work.tries();
        tries.uncounted += 1;
        self.job.work.tried(tries);
        self.over(Fate::Again(AGAIN * 2_u64.pow(tries.uncounted.min(4))))
    }

    fn failed(&mut self, core: &Core, around: &mut Around, failure: Failure) -> bool {
        let now = Duration::from_millis(around.now);
        let mut tries = self.job.work.tries();
        let first_failure = *tries.first_failure.get_or_insert(now);
        if failure == Failure::Uncounted {
            tries.uncounted += 1;
            self.job.work.alone(0);
        } else {
            (tries.counted, tries.uncounted) = (tries.counted + 1, 0);
        }
        self.job.work.tried(tries);
        let history = History { attempts: tries.counted, uncounted: tries.uncounted, first_failure };
        let step = around.settings.ladder.step(history, now, failure, &mut around.rng);
        around.tell(|| {
            format!("{:?}: event {} failed {} times: {step:?}", core.who, self.event, tries.counted)
        });
        let (attempts, now) = (tries.counted, around.now);
        let said = Said::default();
        match step {
            Step::RetryIn(delay) => self.over(Fate::Again(millis(delay))),
            Step::Park { due, .. } => {
                let delay = Delay { due: millis(due), attempts, held: false, said, now };
                self.otherwise(around, Instead::Park(delay))
            }
            Step::Exhausted(Exhausted::Hold) => {
                self.otherwise(around, Instead::Park(Delay { due: now, attempts, held: true, said, now }))
            }
            Step::Exhausted(Exhausted::Skip | Exhausted::Halt) => {
                self.at = At::Letter;
                true
            }
        }
    }

    /// Claims the event anew and writes what becomes of it.
    fn otherwise(&mut self, around: &Around, instead: Instead) -> bool {
        if around.is(Mutant::SettledWithoutRow) {
            self.settles = true;
            return self.over(Fate::GoOn);
        }
        self.at = At::Claim(instead, around.now);
        true
    }

    fn claim(&mut self, core: &Core, around: &mut Around, instead: Instead, since: u64) -> bool {
        let now = around.now;
        let tx = match self.tx {
            Some(tx) if around.db.hear(tx, now).is_ok() => tx,
            Some(_) => return self.gone(),
            None => match around.db.begin(core.who, now) {
                Ok(tx) => tx,
                Err(_) => return self.gone(),
            },
        };
        self.tx = Some(tx);
        match around.db.claim(tx, core.scope, self.event, false) {
            Claim::Run => {
                self.at = At::Look(instead);
                true
            }
            Claim::Settled(_) => {
                around.db.abort(tx, None);
                self.settles = true;
                self.over(Fate::GoOn)
            }
            Claim::Waits if now < since + AGAIN => false,
            Claim::Waits => {
                around.db.abort(tx, None);
                self.over(Fate::Again(AGAIN))
            }
        }
    }

    fn gone(&mut self) -> bool {
        self.tx = None;
        self.trouble()
    }

    fn write(
        &mut self,
        core: &Core,
        around: &mut Around,
        instead: Instead,
        since: u64,
        behind: bool,
    ) -> bool {
        let (scope, event, now) = (core.scope, self.event, around.now);
        let Some(tx) = self.tx.filter(|tx| around.db.hear(*tx, now).is_ok()) else { return self.gone() };
        let key = around.log.events[event].key;
        let followed = match instead {
            Instead::Settle(state) => {
                around.db.settle(tx, scope, event, Some(state));
                Follow::Parked
            }
            Instead::Park(_) if behind => around.db.follow(tx, scope, key, event),
            Instead::Park(delay) => around.db.park(tx, scope, key, event, delay),
        };
        match followed {
            Follow::Parked => {
                around.db.commit(tx);
                self.at = At::Answer;
                true
            }
            // The marker has gone meanwhile: look again.
            Follow::Unmarked => {
                around.db.abort(tx, None);
                self.over(Fate::Again(0))
            }
            Follow::Waits if now < since + STATEMENT => false,
            Follow::Waits => {
                around.db.abort(tx, None);
                self.gone()
            }
        }
    }

    fn answer(&mut self, around: &mut Around) -> bool {
        let Some(answer) = self.tx.and_then(|tx| around.db.answer(tx)) else { return false };
        self.settles = answer == Answer::Yes;
        self.over(if self.settles { Fate::GoOn } else { Fate::Again(AGAIN) })
    }
}

/// Of a parked key: the ladder's word, with the attempts so far and for how long it fails.
pub fn ladder(around: &mut Around, attempts: u32, failing_for: u64, failure: Failure) -> Step {
    let history = History { attempts, uncounted: 1, first_failure: Duration::ZERO };
    around.settings.ladder.step(history, Duration::from_millis(failing_for), failure, &mut around.rng)
}

/// Milliseconds, rounded up: nothing is due early.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// A failure that a died process stands for.
pub const DEATH: Failure = TRANSIENT;
