//! What must hold, looked at whenever something could break it.

use std::collections::{BTreeMap, BTreeSet};

use outbox_consumer::journal::{Entry, NAMED_LIMIT};
use outbox_consumer::metadata;

use crate::consumer::database::{Change, Database, Scope, State};
use crate::consumer::group::Tenure;
use crate::consumer::log::{End, EventId, KeyId, Log};
use crate::verdict::Verdict;

/// Deaths that convict a record.
pub const CONVICT_AFTER: u16 = 3;

/// The first thing that did not hold, and what is counted to find it.
#[derive(Debug, Default)]
pub struct Judge {
    /// What did not hold.
    pub verdict: Verdict,
    effects: BTreeMap<(Scope, EventId), u32>,
    /// Of each key, how many of its first events are settled for good.
    settled: BTreeMap<(Scope, KeyId), usize>,
    /// Of an event that a group names, or one behind a marker in a scope, how many processes it killed.
    deaths: BTreeMap<(bool, usize, EventId), u16>,
    /// Parked events that are given up because their attempts ended with their processes.
    given_up: BTreeSet<(Scope, EventId)>,
    /// Deaths that a process may have taken for its own, which it survived, and taken back.
    forgiven: BTreeMap<(usize, EventId), u16>,
}

/// Whether nothing more is to come of the event.
pub fn is_over(db: &Database, log: &Log, scope: Scope, event: EventId) -> bool {
    let over = matches!(db.row(scope, event), Some(State::Done | State::Rejected | State::Dead));
    over || log.events[event].end == End::Skip
}

/// Whether its offset need not come again.
fn is_settled(db: &Database, log: &Log, scope: Scope, event: EventId) -> bool {
    db.row(scope, event).is_some() || log.events[event].end == End::Skip
}

impl Judge {
    /// Something does not hold.
    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        self.verdict.fail(what);
    }

    /// Looks at something that has to hold.
    pub fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.verdict.hold(holds, what);
    }

    /// A transaction was committed: effects once, in the order of their key, and none without its settlement.
    pub fn transaction(&mut self, changes: &[Change], db: &Database, log: &Log) {
        for change in changes {
            if let Change::Effect(scope, event) = *change {
                let times = self.effects.entry((scope, event)).or_default();
                *times += 1;
                let times = *times;
                self.hold(times == 1, || {
                    format!("the effect of event {event} is there {times} times in scope {scope}")
                });
            }
        }
        for change in changes {
            match *change {
                Change::Effect(scope, event) => self.in_order(db, log, scope, event),
                Change::Settle(scope, event, State::Done) => {
                    let there = self.effects.contains_key(&(scope, event));
                    self.hold(there, || format!("event {event} is done in scope {scope} without its effect"));
                }
                Change::Settle(scope, event, _) => {
                    let none = !self.effects.contains_key(&(scope, event));
                    self.hold(none, || {
                        format!("event {event} is settled otherwise in scope {scope}, with its effect")
                    });
                }
                _ => {}
            }
        }
    }

    fn in_order(&mut self, db: &Database, log: &Log, scope: Scope, event: EventId) {
        let key = log.events[event].key;
        let events = log.of_key(key);
        let settled = self.settled.entry((scope, key)).or_default();
        while events.get(*settled).is_some_and(|first| is_over(db, log, scope, *first)) {
            *settled += 1;
        }
        if let Some(first) = events.get(*settled).filter(|_| *settled < log.events[event].nth) {
            let first = *first;
            self.fail(|| format!("event {event} overtook event {first} of key {key} in scope {scope}"));
        }
    }

    /// A process counts a record as settled.
    pub fn settled(&mut self, db: &Database, log: &Log, scope: Scope, event: EventId) {
        let settled = is_settled(db, log, scope, event);
        self.hold(settled, || format!("event {event} counts as settled in scope {scope} and is not"));
    }

    /// The broker has accepted a commit.
    pub fn committed(
        &mut self,
        (db, log): (&Database, &Log),
        scope: Scope,
        partition: i32,
        before: i64,
        at: (i64, &str),
    ) {
        let (offset, text) = at;
        self.hold(offset >= before, || {
            format!("partition {partition} was committed back from {before} to {offset}")
        });
        for (at, event) in log.from(partition, before).iter().take_while(|(at, _)| *at < offset) {
            let settled = is_settled(db, log, scope, *event);
            self.hold(settled, || format!("{offset} of partition {partition} was committed in scope {scope}; event {event} at {at} is not settled"));
        }
        let Ok(said) = metadata::parse(offset, text.as_bytes()) else {
            return self.fail(|| format!("the text {text:?} beside {offset} cannot be read"));
        };
        for range in said.completed.ranges() {
            for (at, event) in log.from(partition, range.start).iter().take_while(|(at, _)| *at < range.end) {
                let settled = is_settled(db, log, scope, *event);
                self.hold(settled, || {
                    format!("partition {partition}: event {event} at {at} is said to be completed and is not")
                });
            }
        }
    }

    /// A partition gets a new owner: whoever is named more often than before kills, or was alone with its transaction
    /// open when the process died.
    pub fn named(&mut self, log: &Log, partition: i32, former: Option<&Tenure>, now: &Entry) {
        for named in &now.named {
            let before =
                former.and_then(|former| former.before.named.iter().find(|n| n.offset == named.offset));
            let raised = named.deaths > before.map_or(0, |before| before.deaths);
            let Some(event) = log.at(partition, named.offset) else { continue };
            let guilty = log.events[event].end == End::Kill;
            let alone = former.is_some_and(|former| former.asked.contains(&named.offset));
            self.hold(!raised || guilty || alone, || {
                format!("event {event} of partition {partition} has a death counted, and its transaction was not open")
            });
        }
    }

    /// A process has named an event and may have lost its partition since: if the partition comes back to it, it takes
    /// one death back. Whether its own had arrived nobody can know.
    pub fn forgives(&mut self, group: usize, event: EventId) {
        *self.forgiven.entry((group, event)).or_default() += 1;
    }

    /// A handler ended its process, and had been counted before: behind a marker of a scope, or named by a group.
    pub fn killed(&mut self, log: &Log, parked: bool, of: usize, event: EventId) {
        // An entry has room for so many names. Where an innocent one needs a place, a killer's count may be lost.
        if log.killers_beside(event) + 1 >= NAMED_LIMIT {
            return;
        }
        let deaths = self.deaths.entry((parked, of, event)).or_default();
        *deaths += 1;
        let forgiven = if parked { 0 } else { self.forgiven.get(&(of, event)).copied().unwrap_or(0) };
        let (deaths, most) = (*deaths, CONVICT_AFTER + forgiven);
        self.hold(deaths <= most, || format!("event {event} killed {deaths} processes that had counted it"));
    }

    /// What follows from a parked event's deaths is that it is given up. That stays so until its dead letter is written.
    pub fn gives_up(&mut self, scope: Scope, event: EventId) {
        self.given_up.insert((scope, event));
    }

    /// An attempt of a parked event is about to be counted, and then made.
    pub fn counts_parked(&mut self, scope: Scope, event: EventId) {
        let given_up = self.given_up.contains(&(scope, event));
        self.hold(!given_up, || format!("parked event {event} was given up for its deaths, and runs again"));
    }

    /// An attempt is made. Where it was counted before, its process had only been taken for dead.
    pub fn runs_parked(&mut self, scope: Scope, event: EventId) {
        self.given_up.remove(&(scope, event));
    }

    /// A record is convicted.
    pub fn convicted(&mut self, log: &Log, event: EventId, deaths: u16) {
        let guilty = log.events[event].end == End::Kill;
        self.hold(guilty, || format!("event {event} was convicted for {deaths} deaths, and kills nobody"));
    }

    /// All has come to rest: every event is settled once and for all.
    pub fn rest(&mut self, db: &Database, log: &Log, scopes: usize) {
        for scope in 0..scopes {
            for (event, what) in log.events.iter().enumerate() {
                let effects = self.effects.get(&(scope, event)).copied().unwrap_or(0);
                let row = db.row(scope, event);
                let marker = db.markers.get(&(scope, what.key));
                let stands = match row {
                    Some(State::Done) => effects == 1,
                    Some(State::Parked) => {
                        effects == 0
                            && marker.is_some_and(|marker| marker.held && marker.queue.contains(&event))
                    }
                    Some(State::Rejected | State::Dead) => effects == 0,
                    None => effects == 0 && what.end == End::Skip,
                };
                self.hold(stands, || {
                    format!("at rest event {event} is {row:?} in scope {scope}, with {effects} effects")
                });
            }
        }
    }
}
