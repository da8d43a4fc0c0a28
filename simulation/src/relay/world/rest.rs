//! Whether everything comes to rest when faults end.

use super::World;
use crate::relay::around::Around;
use crate::relay::process::Process;
use crate::schedule::How;

/// Steps within which everything has to come to rest.
const REST: u64 = 30_000;

impl World {
    /// Faults end: whoever is dead begins again, and everybody gets a step in turn until nothing is left to do.
    pub(super) fn rest(&mut self) {
        self.around.calm = true;
        self.around.how = How::new(0);
        self.around.broker.comes_back();
        while self.thaw() {}
        let now = self.around.now;
        self.around.source.end_all(now);
        self.around.tell(|| "faults have ended".to_owned());
        let (begin, mut idle) = (self.steps, 0);
        let mut pause = 20;
        while !self.around.judge.verdict.is_failed() {
            if self.round() {
                pause = 20;
                self.around.now += 5;
            } else if self.has_halted() {
                return;
            } else if self.is_quiet() {
                let Around { judge, source, broker, .. } = &mut self.around;
                return judge.rest(source, broker.state.newest.as_ref());
            } else {
                // A keepalive, since nothing else is left to be sent.
                self.send();
                idle += 1;
                self.around.now += pause;
                pause = (pause * 2).min(1_000);
            }
            if self.steps - begin + idle > REST {
                let what = self.what_is_left();
                self.around.judge.verdict.fail(|| format!("it never comes to rest: {what}"));
            }
        }
    }

    /// A step of everybody; whether any of them did something.
    fn round(&mut self) -> bool {
        let mut on = 0;
        self.around.how = How::new(0);
        while self.begin() {
            on += 1;
        }
        for at in 0..self.instances.len() {
            on += u64::from(self.relay_at(at));
        }
        for _ in 0..6 {
            on += u64::from(!self.is_all_sent() && self.send());
        }
        for _ in 0..8 {
            on += u64::from(self.around.brokers());
        }
        on += u64::from(self.around.late()) + u64::from(self.around.settle()) + u64::from(self.expire());
        while self.around.hear() {}
        self.steps += on;
        on > 0
    }

    fn send(&mut self) -> bool {
        let Around { source, how, .. } = &mut self.around;
        source.send(how)
    }

    /// Whether only keepalives are left to be sent.
    fn is_all_sent(&self) -> bool {
        self.around.source.is_all_sent()
    }

    fn has_halted(&self) -> bool {
        self.instances.iter().all(|instance| instance.process.as_ref().is_some_and(Process::has_halted))
    }

    fn is_quiet(&self) -> bool {
        let around = &self.around;
        let processes = || self.instances.iter().filter_map(|instance| instance.process.as_ref());
        let streams = processes().filter(|process| process.is_quiet(around)).count();
        let others = processes().filter(|process| process.waits()).count();
        let end = around.source.log().last().map_or(around.source.confirmed, |committed| committed.end);
        let recorded = around.broker.state.newest.as_ref().is_some_and(|record| record.position >= end);
        streams == 1
            && others + 1 == self.instances.len()
            && around.broker.is_quiet()
            && !around.broker.state.is_open()
            && self.is_all_sent()
            && recorded
            && around.source.confirmed >= end
    }

    fn what_is_left(&self) -> String {
        let Around { source, broker, .. } = &self.around;
        let relays: Vec<String> = self
            .instances
            .iter()
            .map(|instance| instance.process.as_ref().map_or("is dead".to_owned(), Process::says))
            .collect();
        let recorded = broker.state.newest.as_ref().map(|record| record.position);
        format!(
            "relays {relays:?}; recorded {recorded:?}, confirmed {} of {}; broker quiet {}",
            source.confirmed,
            source.wal(),
            broker.is_quiet()
        )
    }
}
