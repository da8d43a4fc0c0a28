//! The keeper, in the order of `quarantine/keeper.rs`: each statement is a step, and each may be the last.

use std::collections::VecDeque;

use outbox_relay::lsn::Lsn;
use outbox_relay::quarantine::desk::{Answer, Question};
use outbox_relay::quarantine::entry::position_text;
use outbox_relay::quarantine::{Entry, State};
use outbox_relay::session::End;
use outbox_relay::simulation::Counted;
use outbox_relay::state::ListedEntry;

use super::lost;
use super::running::Running;
use crate::relay::Mutant;
use crate::relay::around::Around;
use crate::relay::source::EventId;

/// A row put aside.
#[derive(Debug)]
pub(super) struct Aside {
    pub(super) entry: Entry,
    pub(super) event: EventId,
    pub(super) counted: Counted,
}

#[derive(Debug)]
enum Order {
    Enter(Box<Aside>),
    Ask(Box<Question>),
}

/// How far it is with the entries that it has taken.
#[derive(Debug, Default)]
enum Doing {
    #[default]
    Next,
    /// They are committed.
    Committed(Vec<Aside>),
    /// They wait for the record that lists them.
    Listing(Vec<Aside>, u64),
}

/// The keeper and its desk.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    doing: Doing,
    orders: VecDeque<Order>,
    answer: Option<Answer>,
}

impl Keeper {
    pub(super) fn enter(&mut self, aside: Aside) {
        self.orders.push_back(Order::Enter(Box::new(aside)));
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.orders.push_back(Order::Ask(Box::new(question)));
    }

    pub(super) fn answer(&mut self) -> Option<Answer> {
        self.answer.take()
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.doing, Doing::Next) && self.orders.is_empty() && self.answer.is_none()
    }

    pub(super) fn step(&mut self, running: &mut Running, around: &mut Around) -> Result<bool, End> {
        let stands = around.source.is_connected(running.links.0);
        let gone = || Err(lost("the SQL connection"));
        match std::mem::take(&mut self.doing) {
            Doing::Next if self.orders.is_empty() => Ok(false),
            Doing::Next if !stands => gone(),
            Doing::Next => {
                self.next(running, around);
                Ok(true)
            }
            Doing::Committed(_) if !stands => gone(),
            Doing::Committed(taken) => {
                let entry_lsn: Lsn = around.source.wal();
                let listed = taken.iter().map(|aside| {
                    let Entry { at, place, .. } = &aside.entry;
                    ListedEntry::new(place.event_id.as_deref(), position_text(at), entry_lsn)
                });
                let ticket = running.session.list(listed.collect());
                self.doing = Doing::Listing(taken, ticket);
                Ok(true)
            }
            Doing::Listing(taken, ticket) if running.session.listed() < ticket => {
                self.doing = Doing::Listing(taken, ticket);
                Ok(false)
            }
            Doing::Listing(taken, _) => {
                if !around.is(Mutant::SettledUncommitted) && !around.is(Mutant::SettledUnlisted) {
                    taken.iter().for_each(|aside| running.session.settle(aside.counted));
                }
                Ok(true)
            }
        }
    }

    fn next(&mut self, running: &mut Running, around: &mut Around) {
        let mut taken = Vec::new();
        let most = 1 + around.how.pick(3);
        while taken.len() < most {
            match self.orders.pop_front() {
                Some(Order::Enter(aside)) => taken.push(*aside),
                Some(Order::Ask(question)) if taken.is_empty() => {
                    self.answer = Some(reply(*question, around));
                    return;
                }
                Some(asked) => {
                    self.orders.push_front(asked);
                    break;
                }
                None => break,
            }
        }
        for aside in taken.iter().filter(|aside| aside.entry.state == State::Held) {
            around.judge.holds_from(&around.source, aside.event);
        }
        let committed = around.source.wal();
        let table = around.source.write_table();
        for aside in &taken {
            table.insert(&aside.entry, aside.event, committed);
        }
        if around.is(Mutant::SettledUnlisted) {
            taken.iter().for_each(|aside| running.session.settle(aside.counted));
        }
        self.doing = Doing::Committed(taken);
    }
}

fn reply(question: Question, around: &mut Around) -> Answer {
    match question {
        Question::Decision { id, .. } => Answer::Decision(around.source.table().decision(id).map(Box::new)),
        Question::Behind { queue, after } => Answer::Behind(around.source.table().behind(&queue, after)),
        Question::Outcome(outcome) => {
            let settled = around.source.write_table().settle(&outcome);
            around.judge.written_down(&around.source);
            Answer::Settled(settled)
        }
    }
}
