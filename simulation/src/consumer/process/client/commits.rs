//! Commits of offsets: what is due, what is on its way, and the broker that takes it.

use outbox_consumer::simulation::Commit;

use super::super::Core;
use super::{COMMIT_EVERY, Client, Signal};
use crate::consumer::Mutant;
use crate::consumer::around::Around;

impl Client {
    pub(super) fn commit_when_due(&mut self, core: &mut Core, around: &mut Around) -> bool {
        let due = around.now >= self.committed_at + COMMIT_EVERY;
        if self.pending.is_some() || !core.engine.commit_is_urgent() && !due {
            return false;
        }
        self.committed_at = around.now;
        for (partition, reading) in &self.reading {
            core.engine.read_up_to(*partition, reading.position);
        }
        let commits = core.engine.commits(self.small);
        let on = !commits.is_empty();
        if on {
            self.send(commits);
        }
        on
    }

    pub(super) fn send(&mut self, commits: Vec<Commit>) {
        let sent = commits.iter().map(|commit| {
            let partition = commit.lane.partition;
            let tenure = self.reading.get(&partition).map(|reading| reading.tenure);
            // A commit of what is lost has no tenure that counts.
            let tenure = tenure.filter(|_| !self.lost.contains(&commit.lane));
            (partition, tenure, commit.offset, commit.metadata.clone())
        });
        self.numbers += 1;
        self.sent.push_back((self.numbers, sent.collect()));
        self.pending = Some((self.numbers, commits));
    }

    pub(super) fn answered(&mut self, core: &mut Core, around: &Around, number: u64, results: &[bool]) {
        let another =
            |(pending, _): &mut (u64, Vec<Commit>)| *pending == number || around.is(Mutant::AnswerOfAnother);
        let Some((_, commits)) = self.pending.take_if(another) else { return };
        for (commit, result) in commits.iter().zip(results) {
            match result {
                true => core.engine.committed(commit),
                false => core.engine.not_committed(commit),
            }
        }
    }

    /// The broker's side: takes the first commit that is on its way, or lets its answer come.
    pub fn broker(&mut self, core: &Core, around: &mut Around) -> bool {
        let Some((number, sent)) = self.sent.front() else { return false };
        if let Some(answer) = self.answer.take() {
            self.signals.push(Signal::Committed(*number, answer));
            self.sent.pop_front();
            return true;
        }
        let results = sent.iter().map(|commit| accept(core, around, commit)).collect();
        self.answer = Some(results);
        true
    }

    /// The process dies: of what is on its way, some arrives.
    pub fn cut(self, around: &mut Around, core: &Core) {
        let skip = usize::from(self.answer.is_some());
        let arrive = around.how.pick(self.sent.len().saturating_sub(skip) + 1);
        for (_, sent) in self.sent.iter().skip(skip).take(arrive) {
            for commit in sent {
                accept(core, around, commit);
            }
        }
    }

    /// Texts of commits that are on their way.
    pub fn on_their_way(&self) -> impl Iterator<Item = (i32, i64, &str)> {
        self.sent
            .iter()
            .flat_map(|(_, sent)| sent)
            .map(|(partition, _, offset, text)| (*partition, *offset, text.as_str()))
    }
}

/// The broker takes a commit, or refuses it; or takes it, and the answer says otherwise.
fn accept(core: &Core, around: &mut Around, commit: &(i32, Option<u64>, i64, String)) -> bool {
    let (partition, tenure, offset, text) = commit;
    let Some(tenure) = *tenure else {
        around
            .judge
            .fail(|| format!("offset {offset} of partition {partition} was committed after it was lost"));
        return false;
    };
    let spared = around.is_on_trial(core.group, *partition);
    if around.fault(14) && !spared {
        around.tell(|| format!("{:?}: the commit of {partition}@{offset} is refused", core.who));
        return false;
    }
    let group = &mut around.groups[core.group];
    let scope = group.scope;
    let Some(before) = group.commit(*partition, tenure, *offset, text) else { return false };
    around.judge.committed((&around.db, &around.log), scope, *partition, before, (*offset, text));
    around.tell(|| format!("{:?}: partition {partition} is committed at {offset} {text:?}", core.who));
    !around.fault(14) || spared
}
