//! Whose step is next.
//!
//! | module | what it has |
//! |---|---|
//! | [`faults`] | what goes wrong |
//! | [`rest`] | whether everything comes to rest when faults end |

mod faults;
mod rest;

use crate::consumer::Mutant;
use crate::consumer::around::Around;
use crate::consumer::group::Who;
use crate::consumer::process::{Process, Stepped};
use crate::schedule::{How, Schedule, Step};
use crate::verdict::Outcome;

/// The place of a process, which may be empty.
struct Instance {
    group: usize,
    process: Option<Process>,
    frozen: bool,
    /// When the next one begins.
    again: u64,
}

/// All of it.
pub struct World {
    around: Around,
    instances: Vec<Instance>,
    runs: u64,
    steps: u64,
    /// Until then whoever looks after the processes by the database kills them.
    down_until: u64,
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
        let instance = |group: &usize| Instance { group: *group, process: None, frozen: false, again: 0 };
        let instances = around.settings.instances.iter().map(instance).collect();
        World { around, instances, runs: 0, steps: 0, down_until: 0 }
    }

    fn step(&mut self, step: Step) {
        self.around.how = How::new(step.how);
        self.around.now += 1;
        self.resume();
        // The weights: mostly work, now and then something new, seldom a fault.
        let on = match step.who % 1_000 {
            0..420 => self.work(),
            420..600 => self.client(),
            600..700 => self.broker(),
            700..790 => self.around.serve(),
            790..820 => self.coordinate(),
            820..860 => self.keeper(),
            860..900 => self.produce(),
            900..945 => self.time(),
            945..970 => self.begin(),
            970..974 => self.crash(),
            974..978 => self.freeze(),
            978..983 => self.thaw(),
            983..986 => self.lose(),
            986..990 => self.disconnect(),
            990..992 => self.outage(),
            992..996 => self.end_outage(),
            996 => self.stop(),
            _ => self.rebalance(),
        };
        self.steps += u64::from(on);
    }

    fn resume(&mut self) {
        let now = self.around.now;
        for instance in self.instances.iter_mut().filter(|instance| !instance.frozen) {
            if let Some(process) = &mut instance.process {
                process.resume(now);
            }
        }
    }

    /// Instances whose process lives and is not frozen, and for which something is to be done.
    fn alive(&self, busy: impl Fn(&Process) -> bool) -> Vec<usize> {
        let lives = |at: &usize| {
            let instance = &self.instances[*at];
            !instance.frozen && instance.process.as_ref().is_some_and(&busy)
        };
        (0..self.instances.len()).filter(lives).collect()
    }

    fn picked(&mut self, busy: impl Fn(&Process) -> bool) -> Option<usize> {
        let alive = self.alive(busy);
        alive.get(self.around.how.pick(alive.len())).copied()
    }

    fn work(&mut self) -> bool {
        let busy = |process: &Process| {
            process.core.engine.ready() > 0 || process.workers.iter().any(|worker| !worker.is_idle())
        };
        let Some(at) = self.picked(busy) else { return self.client() };
        let Some(process) = &self.instances[at].process else { return false };
        let ready = process.core.engine.ready() > 0;
        let busy: Vec<usize> =
            (0..process.workers.len()).filter(|at| ready || !process.workers[*at].is_idle()).collect();
        let worker = busy.get(self.around.how.pick(busy.len())).copied().unwrap_or(0);
        self.worker(at, worker)
    }

    fn worker(&mut self, at: usize, worker: usize) -> bool {
        let Some(process) = &mut self.instances[at].process else { return false };
        let stepped = process.workers[worker].step(&mut process.core, &mut self.around);
        self.stepped(at, stepped)
    }

    fn stepped(&mut self, at: usize, stepped: Stepped) -> bool {
        match stepped {
            Stepped::Idle => false,
            Stepped::On => true,
            Stepped::Killed(event) => {
                self.around.tell(|| format!("event {event} kills instance {at}"));
                self.die(at);
                true
            }
            Stepped::Ended => {
                self.around.tell(|| format!("instance {at} has ended in order"));
                self.die(at);
                true
            }
        }
    }

    fn die(&mut self, at: usize) {
        let instance = &mut self.instances[at];
        instance.frozen = false;
        instance.again = self.around.now + 100;
        if let Some(process) = instance.process.take() {
            process.die(&mut self.around);
        }
    }

    fn client(&mut self) -> bool {
        self.picked(|_| true).is_some_and(|at| self.client_of(at))
    }

    fn client_of(&mut self, at: usize) -> bool {
        let Some(process) = &mut self.instances[at].process else { return false };
        let stepped = process.client.step(&mut process.core, &mut self.around);
        self.stepped(at, stepped)
    }

    fn broker(&mut self) -> bool {
        let Some(at) = self.picked(|process| process.client.on_their_way().next().is_some()) else {
            return self.client();
        };
        self.broker_of(at)
    }

    fn broker_of(&mut self, at: usize) -> bool {
        let Some(process) = &mut self.instances[at].process else { return false };
        process.client.broker(&process.core, &mut self.around)
    }

    fn coordinate(&mut self) -> bool {
        let at = self.around.how.pick(self.around.groups.len());
        self.coordinate_of(at)
    }

    fn coordinate_of(&mut self, at: usize) -> bool {
        let Around { groups, judge, how, log, now, .. } = &mut self.around;
        groups[at].step(*now, how, log, judge)
    }

    fn keeper(&mut self) -> bool {
        self.picked(|_| true).is_some_and(|at| self.keeper_of(at))
    }

    fn keeper_of(&mut self, at: usize) -> bool {
        // A parked event whose handler kills is an accident for whoever is on trial beside it.
        let runs = self.instances[at].process.as_ref().is_some_and(|process| process.keeper.runs());
        if runs && !self.may_have_bad_luck(at) {
            return false;
        }
        let Some(process) = &mut self.instances[at].process else { return false };
        let stepped = process.keeper.step(&mut process.core, &mut self.around);
        self.stepped(at, stepped)
    }

    fn produce(&mut self) -> bool {
        let Around { log, how, settings, .. } = &mut self.around;
        if how.once_in(8) {
            let partition = how.pick(settings.partitions);
            log.mark(partition);
            return true;
        }
        let said = log.append(how, settings.kills);
        let on = said.is_some();
        self.around.tell(|| said.unwrap_or_default());
        on
    }

    fn time(&mut self) -> bool {
        self.around.now += [5, 20, 100, 500, 2_000, 5_000][self.around.how.pick(6)];
        true
    }

    fn begin(&mut self) -> bool {
        let dead: Vec<usize> = (0..self.instances.len()).filter(|at| self.may_begin(*at)).collect();
        let Some(at) = dead.get(self.around.how.pick(dead.len())).copied() else { return false };
        self.begin_of(at)
    }

    fn may_begin(&self, at: usize) -> bool {
        self.instances[at].process.is_none() && self.instances[at].again <= self.around.now
    }

    fn begin_of(&mut self, at: usize) -> bool {
        self.runs += 1;
        let group = self.instances[at].group;
        let who: Who = (at, self.runs);
        self.instances[at].process = Some(Process::new(&mut self.around, who, group));
        true
    }
}
