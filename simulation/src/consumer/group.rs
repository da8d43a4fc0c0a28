//! A consumer group as its coordinator sees it: members, who owns which partition, and what is committed.
//!
//! A partition has one owner at a time, in one tenure; a commit of another tenure is refused, as the broker refuses one
//! of another generation. A member is told of one rebalance at a time (librdkafka waits for the answer to the last).

use std::collections::VecDeque;

use outbox_consumer::journal::Entry;
use outbox_consumer::metadata;

use crate::consumer::database::Scope;
use crate::consumer::judge::Judge;
use crate::consumer::log::Log;
use crate::schedule::How;

/// Instance and run of a process.
pub type Who = (usize, u64);

/// How long a member may be silent.
pub const SESSION: u64 = 10_000;

/// A partition in the hands of one process, until it goes.
#[derive(Debug)]
pub struct Tenure {
    /// The owner.
    pub who: Who,
    /// Never the same for two.
    pub number: u64,
    round: u64,
    told_to_go: bool,
    /// Commits that were accepted.
    pub commits: usize,
    /// The journal's entry at its beginning.
    pub before: Entry,
    /// Offsets whose handlers were about to start, alone, with their transaction open.
    pub asked: Vec<i64>,
}

/// What a member is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// Partitions, with their tenures.
    Assign(Vec<(i32, u64)>),
    /// Partitions have to go.
    Revoke(Vec<i32>),
    /// Partitions are another's by now.
    Lost(Vec<i32>),
}

#[derive(Debug)]
struct Member {
    who: Who,
    /// When it is given up; it is silent since.
    expires: Option<u64>,
    told: VecDeque<Told>,
    dead: bool,
}

/// A group.
#[derive(Debug)]
pub struct Group {
    number: usize,
    /// Whose settlements its consumers write.
    pub scope: Scope,
    cooperative: bool,
    members: Vec<Member>,
    /// Those that were expelled and do not know it.
    expelled: Vec<Member>,
    /// Of each partition.
    pub owner: Vec<Option<Tenure>>,
    former: Vec<Option<Tenure>>,
    target: Vec<Option<Who>>,
    /// Of each partition, offset and text.
    pub committed: Vec<(Option<i64>, String)>,
    changed: bool,
    round: u64,
    tenures: u64,
}

impl Group {
    /// A group without members.
    pub fn new(number: usize, scope: Scope, partitions: usize, cooperative: bool) -> Group {
        let none = || (0..partitions).map(|_| None).collect();
        Group {
            number,
            scope,
            cooperative,
            members: Vec::new(),
            expelled: Vec::new(),
            owner: none(),
            former: none(),
            target: vec![None; partitions],
            committed: vec![(None, String::new()); partitions],
            changed: false,
            round: 0,
            tenures: 0,
        }
    }

    /// A process joins.
    pub fn join(&mut self, who: Who) {
        self.members.push(Member { who, expires: None, told: VecDeque::new(), dead: false });
        self.changed = true;
    }

    /// A process leaves in order.
    pub fn leave(&mut self, who: Who) {
        self.members.retain(|member| member.who != who);
        self.expelled.retain(|member| member.who != who);
        self.free(who);
        self.changed = true;
    }

    /// Whether it is a member, or does not know that it is none.
    pub fn knows(&self, who: Who) -> bool {
        self.members.iter().chain(&self.expelled).any(|member| member.who == who)
    }

    /// A member is not heard of from now on, or again.
    pub fn silent(&mut self, who: Who, since: Option<u64>) {
        if let Some(member) = self.members.iter_mut().find(|member| member.who == who) {
            member.expires = since.map(|since| since + SESSION);
        }
    }

    /// A process is dead; the coordinator does not know it yet.
    pub fn died(&mut self, who: Who, now: u64) {
        self.expelled.retain(|member| member.who != who);
        self.silent(who, Some(now));
        self.members.iter_mut().filter(|member| member.who == who).for_each(|member| member.dead = true);
    }

    /// The coordinator gives a member up. Returns partitions and offsets that it had named, if it lives.
    pub fn expel(&mut self, who: Who) -> Vec<(i32, i64)> {
        let Some(at) = self.members.iter().position(|member| member.who == who) else { return Vec::new() };
        let mut member = self.members.remove(at);
        let tenures = self.owner.iter().zip(0..).filter_map(|(owner, at)| Some((at, owner.as_ref()?)));
        let tenures = tenures.filter(|(_, tenure)| tenure.who == who && !member.dead);
        let named =
            tenures.flat_map(|(at, tenure)| tenure.asked.iter().map(move |offset| (at, *offset))).collect();
        let owned = (0..self.owner.len()).filter(|at| self.owner[*at].as_ref().is_some_and(|t| t.who == who));
        member.told = [Told::Lost(owned.map(|at| at as i32).collect())].into();
        self.free(who);
        if !member.dead {
            self.expelled.push(member);
        }
        self.changed = true;
        named
    }

    fn free(&mut self, who: Who) {
        let owned = |tenure: &Option<Tenure>| tenure.as_ref().is_some_and(|tenure| tenure.who == who);
        for at in (0..self.owner.len()).filter(|at| owned(&self.owner[*at])).collect::<Vec<_>>() {
            self.former[at] = self.owner[at].take();
        }
    }

    /// A member lets a partition go.
    pub fn release(&mut self, who: Who, partition: i32) {
        let at = partition as usize;
        if self.owner[at].as_ref().is_some_and(|tenure| tenure.who == who) {
            self.former[at] = self.owner[at].take();
        }
    }

    /// What the member is told next.
    pub fn told(&mut self, who: Who) -> Option<Told> {
        if let Some(member) = self.members.iter_mut().find(|member| member.who == who) {
            return member.told.pop_front();
        }
        let at = self.expelled.iter().position(|member| member.who == who)?;
        self.expelled.remove(at).told.pop_front()
    }

    /// The tenure of a partition, if it is this process's.
    pub fn tenure(&mut self, who: Who, partition: i32) -> Option<&mut Tenure> {
        self.owner[partition as usize].as_mut().filter(|tenure| tenure.who == who)
    }

    /// Assignments that no longer fit.
    pub fn rebalance(&mut self) {
        self.changed = true;
    }

    /// What the coordinator does next.
    pub fn step(&mut self, now: u64, how: &mut How, log: &Log, judge: &mut Judge) -> bool {
        let expired = self.members.iter().find(|member| member.expires.is_some_and(|at| at <= now));
        if let Some(who) = expired.map(|member| member.who) {
            for (partition, offset) in self.expel(who) {
                log.at(partition, offset).into_iter().for_each(|event| judge.forgives(self.number, event));
            }
            return true;
        }
        if self.changed {
            self.changed = false;
            self.plan(how);
            return true;
        }
        self.take_back() || self.hand_out(log, judge)
    }

    fn plan(&mut self, how: &mut How) {
        self.round += 1;
        let members: Vec<Who> = self.members.iter().map(|member| member.who).collect();
        let first = how.pick(members.len());
        for (at, target) in self.target.iter_mut().enumerate() {
            *target = members.get((at + first) % members.len().max(1)).copied();
        }
    }

    fn take_back(&mut self) -> bool {
        let mut told = false;
        for member in &mut self.members {
            let mut go = Vec::new();
            for (at, (owner, target)) in self.owner.iter_mut().zip(&self.target).enumerate() {
                let Some(tenure) = owner.as_mut().filter(|tenure| tenure.who == member.who) else { continue };
                let stays = *target == Some(tenure.who) && (self.cooperative || tenure.round == self.round);
                if !stays && !tenure.told_to_go {
                    tenure.told_to_go = true;
                    go.push(at as i32);
                }
            }
            if !go.is_empty() {
                member.told.push_back(Told::Revoke(go));
                told = true;
            }
        }
        told
    }

    fn hand_out(&mut self, log: &Log, judge: &mut Judge) -> bool {
        let waits = |tenure: &Tenure| tenure.round != self.round;
        if !self.cooperative && self.owner.iter().flatten().any(waits) {
            return false;
        }
        let mut told = false;
        for member in &mut self.members {
            let mut come = Vec::new();
            for at in 0..self.owner.len() {
                if self.owner[at].is_some() || self.target[at] != Some(member.who) {
                    continue;
                }
                let (offset, text) = &self.committed[at];
                let said = metadata::parse(offset.unwrap_or(0), text.as_bytes()).unwrap_or_default();
                judge.named(log, at as i32, self.former[at].as_ref(), &said.journal);
                self.tenures += 1;
                come.push((at as i32, self.tenures));
                self.owner[at] = Some(Tenure {
                    who: member.who,
                    number: self.tenures,
                    round: self.round,
                    told_to_go: false,
                    commits: 0,
                    before: said.journal,
                    asked: Vec::new(),
                });
            }
            if !come.is_empty() {
                member.told.push_back(Told::Assign(come));
                told = true;
            }
        }
        told
    }

    /// Takes a commit, or refuses it.
    pub fn commit(&mut self, partition: i32, tenure: u64, offset: i64, text: &str) -> Option<i64> {
        let at = partition as usize;
        let tenure = self.owner[at].as_mut().filter(|owner| owner.number == tenure)?;
        tenure.commits += 1;
        let before = self.committed[at].0.unwrap_or(0);
        self.committed[at] = (Some(offset), text.to_owned());
        Some(before)
    }
}
