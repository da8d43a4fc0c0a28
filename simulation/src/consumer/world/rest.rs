//! Whether everything comes to rest when faults end.

use super::{Instance, World};
use crate::consumer::around::Around;
use crate::schedule::How;

/// Steps within which everything has to come to rest.
const REST: u64 = 60_000;

impl World {
    /// Faults end: whoever is dead begins again, and everybody gets a step in turn until nothing is left to do.
    pub(super) fn rest(&mut self) {
        self.around.calm = true;
        self.around.how = How::new(0);
        self.around.db.down = false;
        while self.instances.iter().any(|instance| instance.frozen) {
            self.thaw();
        }
        self.around.tell(|| "faults have ended".to_owned());
        let (begin, mut idle) = (self.steps, 0);
        let mut pause = 20;
        while !self.around.judge.verdict.is_failed() {
            if self.round() {
                pause = 20;
                self.around.now += 5;
            } else if self.is_quiet() {
                let Around { judge, db, log, settings, .. } = &mut self.around;
                return judge.rest(db, log, settings.scopes);
            } else {
                idle += 1;
                self.around.now += pause;
                pause = (pause * 2).min(1_000);
            }
            if self.steps - begin + idle > REST {
                let what = self.what_is_left();
                self.around.judge.fail(|| format!("it never comes to rest: {what}"));
            }
        }
    }

    /// A step of everybody; whether any of them did something.
    pub(super) fn round(&mut self) -> bool {
        let mut on = 0;
        self.resume();
        for group in 0..self.around.groups.len() {
            on += u64::from(self.coordinate_of(group));
        }
        for at in 0..self.instances.len() {
            if self.may_begin(at) {
                on += u64::from(self.begin_of(at));
            }
            for _ in 0..6 {
                on += u64::from(self.client_of(at));
            }
            on += u64::from(self.broker_of(at));
            for worker in 0..self.around.settings.workers {
                on += u64::from(self.worker(at, worker));
            }
            on += u64::from(self.keeper_of(at));
        }
        while self.around.serve() {
            on += 1;
        }
        self.steps += on;
        on > 0
    }

    pub(super) fn is_quiet(&self) -> bool {
        let Around { db, groups, log, .. } = &self.around;
        let all_read = groups.iter().all(|group| {
            let behind = group
                .committed
                .iter()
                .zip(0..)
                .any(|((offset, _), partition)| !log.from(partition, offset.unwrap_or(0)).is_empty());
            !behind && group.owner.iter().all(Option::is_some)
        });
        let idle = |instance: &Instance| {
            instance.process.as_ref().is_some_and(|process| {
                process.client.is_quiet(&self.around, process.core.group)
                    && process.workers.iter().all(crate::consumer::process::worker::Worker::is_idle)
                    && process.keeper.is_idle()
                    && process.core.engine.held().count == 0
                    && !process.core.engine.has_to_be_isolated()
            })
        };
        all_read
            && db.is_quiet()
            && db.markers.values().all(|marker| marker.held)
            && self.instances.iter().all(idle)
    }

    pub(super) fn what_is_left(&self) -> String {
        let Around { db, groups, .. } = &self.around;
        let committed: Vec<_> = groups.iter().map(|group| &group.committed).collect();
        let held: Vec<_> = self
            .instances
            .iter()
            .filter_map(|instance| instance.process.as_ref())
            .map(|process| {
                let engine = &process.core.engine;
                (
                    engine.held().count,
                    engine.has_to_be_isolated(),
                    process.core.holds.len(),
                    process.client.reads(),
                )
            })
            .collect();
        format!(
            "committed {committed:?}; of each process what is held, isolated, waits, is read {held:?}; parked {:?}; {} transactions",
            db.markers,
            db.txs.len()
        )
    }
}
