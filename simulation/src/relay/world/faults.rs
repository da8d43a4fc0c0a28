//! What goes wrong: relays that are killed or frozen, connections that are cut, a server that starts again, fails over or has
//! its disk put back, partitions without leader, a topic that grows.

use super::World;
use crate::relay::around::Around;
use crate::relay::broker::MOST_PARTITIONS;

impl World {
    pub(super) fn kill(&mut self) -> bool {
        let Some(at) = self.picked() else { return false };
        let silently = self.around.how.once_in(3);
        self.around
            .tell(|| format!("relay {at} is killed{}", if silently { ", its machine with it" } else { "" }));
        let instance = &mut self.instances[at];
        instance.again = self.around.now + 100;
        if let Some(process) = instance.process.take() {
            process.die(&mut self.around, silently);
        }
        true
    }

    pub(super) fn freeze(&mut self) -> bool {
        let Some(at) = self.picked() else { return false };
        self.around.tell(|| format!("relay {at} is frozen"));
        self.instances[at].frozen = true;
        let now = self.around.now;
        if let Some(process) = &self.instances[at].process {
            process.silent(&mut self.around, Some(now));
        }
        true
    }

    pub(super) fn thaw(&mut self) -> bool {
        let frozen: Vec<usize> = (0..self.instances.len()).filter(|at| self.instances[*at].frozen).collect();
        let Some(at) = frozen.get(self.around.how.pick(frozen.len())).copied() else { return false };
        self.instances[at].frozen = false;
        self.around.tell(|| format!("relay {at} wakes up"));
        if let Some(process) = &self.instances[at].process {
            process.silent(&mut self.around, None);
        }
        true
    }

    /// One of a relay's connections breaks.
    pub(super) fn cut(&mut self) -> bool {
        let Some(at) = self.picked() else { return false };
        let sql = self.around.how.pick(2) == 0;
        self.around
            .tell(|| format!("relay {at} loses its {} connection", if sql { "SQL" } else { "replication" }));
        match &self.instances[at].process {
            Some(process) => process.is_cut(&mut self.around, sql),
            None => false,
        }
    }

    pub(super) fn restart(&mut self) -> bool {
        let crash = self.around.how.pick(2) == 1;
        self.around.tell(|| format!("the server {}", if crash { "crashes" } else { "starts again" }));
        self.around.source.restart(crash);
        true
    }

    /// A copy of the server's disk is as far as the disk itself; or what is confirmed is written to it.
    pub(super) fn copy(&mut self) -> bool {
        if self.around.settings.goes_back.is_some() && self.around.how.pick(2) == 0 {
            self.around.tell(|| "the server's disk is copied".to_owned());
            self.around.source.copy();
        } else {
            self.around.source.checkpoint();
        }
        true
    }

    pub(super) fn go_back(&mut self) -> bool {
        let Some(new_timeline) = self.around.settings.goes_back else { return false };
        if !self.around.source.go_back(new_timeline) {
            return false;
        }
        let wal = self.around.source.wal();
        self.around.tell(|| {
            let how = if new_timeline { "fails over" } else { "is put back" };
            format!("the server {how}, to {wal}")
        });
        self.around.judge.went_back();
        true
    }

    pub(super) fn away(&mut self) -> bool {
        let Around { broker, how, now, .. } = &mut self.around;
        broker.goes_away(how.pick(MOST_PARTITIONS), *now + 1_000);
        true
    }

    pub(super) fn grow(&mut self) -> bool {
        let partitions = &mut self.around.broker.partitions;
        let on = (*partitions as usize) < MOST_PARTITIONS;
        *partitions += u32::from(on);
        on
    }
}
