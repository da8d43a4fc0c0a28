//! Partitions that leave, and their last commits.

use outbox_consumer::lane::Lane;
use outbox_consumer::simulation::Commit;

use super::super::{Core, Stepped};
use super::{Client, DRAIN, LAST_COMMIT, Last, Leaving, Signal};
use crate::consumer::Mutant;
use crate::consumer::around::Around;

impl Client {
    pub(super) fn lanes(core: &Core, partitions: &[i32]) -> Vec<Lane> {
        core.engine.assignment().into_iter().filter(|lane| partitions.contains(&lane.partition)).collect()
    }

    pub(super) fn begin_to_leave(&mut self, core: &mut Core, now: u64, partitions: Vec<i32>) {
        let lanes = Client::lanes(core, &partitions);
        lanes.iter().for_each(|lane| core.engine.leave(*lane));
        self.leaving.push(Leaving { partitions, lanes, until: now + DRAIN });
    }

    pub(super) fn lose(&mut self, core: &mut Core, partitions: &[i32]) {
        let lanes = Client::lanes(core, partitions);
        self.lost.extend(&lanes);
        let commits: Vec<Commit> = lanes.iter().filter_map(|lane| core.engine.lost(*lane)).collect();
        if !commits.is_empty() {
            self.send(commits);
        }
        self.reading.retain(|partition, _| !partitions.contains(partition));
    }

    pub(super) fn let_go(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let now = around.now;
        let engine = &core.engine;
        let gone = |leaving: &Leaving| {
            now >= leaving.until || leaving.lanes.iter().all(|lane| engine.running(*lane) == 0)
        };
        let (ready, leaving) = std::mem::take(&mut self.leaving).into_iter().partition::<Vec<_>, _>(gone);
        self.leaving = leaving;
        let on = !ready.is_empty();
        for Leaving { partitions, lanes, .. } in ready {
            let commits =
                lanes.iter().filter_map(|lane| core.engine.left(*lane, false, self.small)).collect();
            self.last.push_back(Last { commits: Some(commits), partitions, deadline: now + LAST_COMMIT });
        }
        on
    }

    /// `commit_at_last`, then `unassign`.
    pub(super) fn wait_for_last(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let mut on = self.read(core, around);
        if let Some(at) = self.signals.iter().position(|signal| matches!(signal, Signal::Committed(..)))
            && let Signal::Committed(number, results) = self.signals.remove(at)
        {
            self.answered(core, around, number, &results);
            on = true;
        }
        let Some(mut last) = self.last.pop_front() else { return on };
        let nothing = last.commits.as_ref().is_some_and(Vec::is_empty);
        let spared = |partition: &i32| around.is_on_trial(core.group, *partition);
        let waits = around.now < last.deadline || last.partitions.iter().any(spared);
        if !nothing && self.pending.is_some() && waits {
            self.last.push_front(last);
            return on;
        }
        match last.commits.take() {
            Some(commits) if !commits.is_empty() => {
                self.abandon(core, around);
                self.send(commits);
                let deadline = around.now + LAST_COMMIT;
                self.last.push_front(Last { commits: None, deadline, ..last });
            }
            sent => {
                if sent.is_none() {
                    self.abandon(core, around);
                }
                around.tell(|| format!("{:?} lets go of {:?}", core.who, last.partitions));
                for partition in last.partitions {
                    self.reading.remove(&partition);
                    around.groups[core.group].release(core.who, partition);
                }
            }
        }
        true
    }

    /// An answer that did not come in time is not waited for any longer: what was sent is sent again.
    pub(super) fn abandon(&mut self, core: &mut Core, around: &Around) {
        let Some((_, commits)) = self.pending.take() else { return };
        if !around.is(Mutant::AnswerOfAnother) {
            commits.iter().for_each(|commit| core.engine.not_committed(commit));
        }
    }

    /// Lets every partition go in order, and leaves the group.
    pub(super) fn stop(&mut self, core: &mut Core, around: &mut Around) -> Stepped {
        let now = around.now;
        let lanes = core.engine.assignment();
        let Some(until) = self.stops else {
            lanes.iter().for_each(|lane| core.engine.leave(*lane));
            self.stops = Some(now + DRAIN);
            return Stepped::On;
        };
        if lanes.is_empty() {
            around.groups[core.group].leave(core.who);
            return Stepped::Ended;
        }
        if now < until && lanes.iter().any(|lane| core.engine.running(*lane) > 0) {
            return self.read(core, around).into();
        }
        let partitions = lanes.iter().map(|lane| lane.partition).collect();
        let commits = lanes.iter().filter_map(|lane| core.engine.left(*lane, true, self.small)).collect();
        self.last.push_back(Last { commits: Some(commits), partitions, deadline: now + LAST_COMMIT });
        Stepped::On
    }
}
