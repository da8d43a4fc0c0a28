//! Whose step is next.
//!
//! | module | what it has |
//! |---|---|
//! | [`faults`] | what goes wrong |
//! | [`rest`] | whether everything comes to rest when faults end |

mod faults;
mod rest;

use super::Mutant;
use super::around::Around;
use super::process::Process;
use super::source::Bad;
use crate::schedule::{How, Schedule, Step};
use crate::verdict::Outcome;

/// The place of a relay, which may be empty.
struct Instance {
    process: Option<Process>,
    frozen: bool,
    /// When the next one begins.
    again: u64,
}

/// All of it.
pub struct World {
    around: Around,
    instances: Vec<Instance>,
    steps: u64,
}

/// Runs a schedule, and then lets everything come to rest.
pub fn run(schedule: &Schedule, mutant: Option<Mutant>, story: bool) -> Outcome {
    let mut world = World::new(schedule, mutant, story);
    for step in &schedule.steps {
        world.step(*step);
        if world.around.judge.verdict.is_failed() {
            break;
        }
    }
    if !world.around.judge.verdict.is_failed() {
        world.rest();
    }
    let Around { judge, story, .. } = world.around;
    Outcome { steps: world.steps, violation: judge.verdict.violation(), story: story.unwrap_or_default() }
}

impl World {
    fn new(schedule: &Schedule, mutant: Option<Mutant>, story: bool) -> World {
        let around = Around::new(schedule, mutant, story);
        let instance = |_| Instance { process: None, frozen: false, again: 0 };
        let instances = (0..around.settings.relays).map(instance).collect();
        World { around, instances, steps: 0 }
    }

    fn step(&mut self, step: Step) {
        self.around.how = How::new(step.how);
        self.around.now += 1;
        // The weights: mostly work, now and then something new, seldom a fault.
        let on = match step.who % 1_000 {
            0..480 => self.relay(),
            480..640 => self.around.brokers(),
            640..720 => {
                let Around { source, how, .. } = &mut self.around;
                source.send(how)
            }
            720..760 => self.around.hear(),
            760..800 => self.around.settle(),
            800..845 => self.insert(),
            845..885 => self.end_transaction(),
            885..892 => self.write_elsewhere(),
            892..925 => self.time(),
            925..936 => self.decide(),
            936..944 => self.mend(),
            944..954 => self.around.late(),
            954..964 => self.begin(),
            964..968 => self.kill(),
            968..971 => self.freeze(),
            971..977 => self.thaw(),
            977..981 => self.cut(),
            981..983 => self.restart(),
            983..986 => self.copy(),
            986 => self.go_back(),
            987..990 => self.away(),
            990..992 => self.grow(),
            _ => self.expire(),
        };
        self.steps += u64::from(on);
    }

    /// Instances whose process lives and is not frozen.
    fn picked(&mut self) -> Option<usize> {
        let alive: Vec<usize> = (0..self.instances.len())
            .filter(|at| !self.instances[*at].frozen && self.instances[*at].process.is_some())
            .collect();
        alive.get(self.around.how.pick(alive.len())).copied()
    }

    fn relay(&mut self) -> bool {
        match self.picked() {
            Some(at) => self.relay_at(at),
            None => self.begin(),
        }
    }

    fn relay_at(&mut self, at: usize) -> bool {
        if self.instances[at].frozen {
            return false;
        }
        let Some(process) = &mut self.instances[at].process else { return false };
        process.step(&mut self.around)
    }

    fn insert(&mut self) -> bool {
        let Around { source, how, .. } = &mut self.around;
        let said = source.insert(how);
        self.said(said)
    }

    fn end_transaction(&mut self) -> bool {
        let Around { source, how, now, .. } = &mut self.around;
        let said = source.end(how, *now);
        self.said(said)
    }

    fn said(&mut self, said: Option<String>) -> bool {
        let Some(said) = said else { return false };
        self.around.tell(|| format!("server: {said}"));
        true
    }

    fn write_elsewhere(&mut self) -> bool {
        let Around { source, how, .. } = &mut self.around;
        source.write_elsewhere(how);
        true
    }

    fn time(&mut self) -> bool {
        self.around.now += [5, 20, 100, 500, 2_000, 6_000][self.around.how.pick(6)];
        true
    }

    /// A person decides of an entry: it is marked, and the message written, in one transaction.
    fn decide(&mut self) -> bool {
        let undecided = self.around.source.undecided();
        let Around { source, how, now, .. } = &mut self.around;
        let discard = how.once_in(4);
        let Some(id) = undecided.get(how.pick(undecided.len())).copied() else { return false };
        if !source.write_table().decide(id, discard) {
            return false;
        }
        let said = source.decide(id, *now);
        self.around.tell(|| format!("decided, {}: {said}", if discard { "discard" } else { "release" }));
        true
    }

    /// What is wrong with an event is mended.
    fn mend(&mut self) -> bool {
        let Around { source, how, .. } = &mut self.around;
        let bad: Vec<usize> =
            (0..source.events.len()).filter(|at| source.events[*at].bad != Bad::No).collect();
        let Some(event) = bad.get(how.pick(bad.len())).copied() else { return false };
        source.events[event].bad = Bad::No;
        self.around.tell(|| format!("event {event} is mended"));
        true
    }

    fn begin(&mut self) -> bool {
        let now = self.around.now;
        let free = |instance: &Instance| instance.process.is_none() && instance.again <= now;
        let free: Vec<usize> = (0..self.instances.len()).filter(|at| free(&self.instances[*at])).collect();
        let Some(at) = free.get(self.around.how.pick(free.len())).copied() else { return false };
        self.instances[at].process = Some(Process::new());
        self.around.tell(|| format!("relay {at} begins"));
        true
    }

    fn expire(&mut self) -> bool {
        let Around { source, how, now, .. } = &mut self.around;
        let on = source.expire(*now, how);
        if on {
            self.around.tell(|| "server: a silent connection is given up".to_owned());
        }
        on
    }
}
