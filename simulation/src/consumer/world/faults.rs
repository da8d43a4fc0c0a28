//! What goes wrong: processes that are killed or frozen, a coordinator that gives them up, a database that goes away.

use super::World;
use crate::consumer::Mutant;
use crate::consumer::around::Around;

impl World {
    /// Whether the process may die, or lose its partitions, by chance. Nothing can tell three such accidents of one
    /// innocent record from three deaths of its own, so one that is named twice is spared.
    pub(super) fn may_have_bad_luck(&self, at: usize) -> bool {
        let Some(process) = &self.instances[at].process else { return false };
        let group = &self.around.groups[process.core.group];
        let held = group
            .committed
            .iter()
            .zip(0..)
            .map(|((offset, text), at)| (at, offset.unwrap_or(0), text.as_str()));
        let mut texts = held.chain(process.client.on_their_way());
        !texts.any(|(partition, offset, text)| self.around.on_trial(partition, offset, text))
    }

    pub(super) fn crash(&mut self) -> bool {
        let Some(at) = self.picked(|_| true) else { return false };
        if !self.may_have_bad_luck(at) {
            return false;
        }
        self.around.tell(|| format!("instance {at} is killed from outside"));
        self.die(at);
        true
    }

    pub(super) fn freeze(&mut self) -> bool {
        let Some(at) = self.picked(|_| true) else { return false };
        let Some(process) = &self.instances[at].process else { return false };
        let (who, group) = (process.core.who, process.core.group);
        if !self.may_have_bad_luck(at) {
            return false;
        }
        self.around.tell(|| format!("instance {at} is frozen"));
        self.instances[at].frozen = true;
        let now = self.around.now;
        self.around.groups[group].silent(who, Some(now));
        true
    }

    pub(super) fn thaw(&mut self) -> bool {
        let frozen: Vec<usize> = (0..self.instances.len()).filter(|at| self.instances[*at].frozen).collect();
        let Some(at) = frozen.get(self.around.how.pick(frozen.len())).copied() else { return false };
        self.instances[at].frozen = false;
        self.around.tell(|| format!("instance {at} wakes up"));
        if let Some(process) = &self.instances[at].process {
            self.around.groups[process.core.group].silent(process.core.who, None);
        }
        true
    }

    /// The coordinator gives up a member that lives.
    pub(super) fn lose(&mut self) -> bool {
        let Some(at) = self.picked(|_| true) else { return false };
        if !self.may_have_bad_luck(at) {
            return false;
        }
        let Some(process) = &self.instances[at].process else { return false };
        let (who, group) = (process.core.who, process.core.group);
        self.around.tell(|| format!("the coordinator gives up instance {at}"));
        let Around { groups, judge, log, .. } = &mut self.around;
        for (partition, offset) in groups[group].expel(who) {
            log.at(partition, offset).into_iter().for_each(|event| judge.forgives(group, event));
        }
        true
    }

    pub(super) fn disconnect(&mut self) -> bool {
        let open: Vec<u64> = self.around.db.txs.keys().copied().collect();
        let Some(tx) = open.get(self.around.how.pick(open.len())).copied() else { return false };
        let now = self.around.now;
        self.around.tell(|| format!("the connection of transaction {tx} breaks"));
        self.around.db.drop_connection(tx, now);
        true
    }

    /// The database goes; and whoever looks after the processes by it kills some of them, now and later.
    pub(super) fn outage(&mut self) -> bool {
        if self.around.db.down {
            let Some(at) = self.picked(|_| true) else { return false };
            return self.kill_in_outage(at);
        }
        self.around.outage();
        self.down_until = self.around.now + 20_000;
        true
    }

    pub(super) fn kill_in_outage(&mut self, at: usize) -> bool {
        // Whoever is named since before the outage has had bad luck.
        if !self.may_have_bad_luck(at) && self.around.mutant != Some(Mutant::AskBeforeClaim) {
            return false;
        }
        self.around.tell(|| format!("instance {at} is killed, for the database is down"));
        self.die(at);
        true
    }

    pub(super) fn end_outage(&mut self) -> bool {
        if !self.around.db.down {
            return false;
        }
        if self.around.now < self.down_until && self.around.how.pick(2) == 0 {
            let Some(at) = self.picked(|_| true) else { return false };
            return self.kill_in_outage(at);
        }
        self.around.tell(|| "the database is back".to_owned());
        self.around.db.down = false;
        true
    }

    pub(super) fn stop(&mut self) -> bool {
        let Some(at) = self.picked(|process| !process.core.stopping) else { return false };
        self.around.tell(|| format!("instance {at} is told to stop"));
        if let Some(process) = &mut self.instances[at].process {
            process.core.stopping = true;
        }
        true
    }

    pub(super) fn rebalance(&mut self) -> bool {
        let at = self.around.how.pick(self.around.groups.len());
        self.around.groups[at].rebalance();
        true
    }
}
