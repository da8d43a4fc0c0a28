//! Stops the flow when everything fails.
//!
//! When a dependency is down each record fails, climbs the ladder and ends among the dead letters,
//! thousands an hour, and somebody has to bring them all back (C20). The budget sees it by the share of
//! failures, or by how many came in a row, and stops: one record at a time probes, until one goes well.

use std::collections::VecDeque;
use std::time::Duration;

/// Parts of the window. More would forget more smoothly.
pub(super) const PARTS: u32 = 10;

/// When the flow stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The time that is looked at.
    pub window: Duration,
    /// Share of failures at which the flow stops, above 0 and at most 1.
    pub ratio: f64,
    /// Fewer outcomes than these in the window say nothing about the share.
    pub sample: u32,
    /// Failures in a row at which it stops, whatever the share; 0 for no such limit.
    pub consecutive: u32,
    /// First delay before a probe; it doubles with each that fails.
    pub probe_after: Duration,
    /// Longest delay before a probe.
    pub probe_most: Duration,
}

impl Default for Limits {
    /// Half of at least twenty outcomes in a minute, or fifty failures in a row; probes after 1 to 60 s.
    fn default() -> Limits {
        Limits {
            window: Duration::from_secs(60),
            ratio: 0.5,
            sample: 20,
            consecutive: 50,
            probe_after: Duration::from_secs(1),
            probe_most: Duration::from_secs(60),
        }
    }
}

/// What the budget lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Everything.
    Flowing,
    /// Nothing before this time, then one probe.
    Paused {
        /// On the caller's clock.
        probe_at: Duration,
    },
    /// Nothing while the probe is out.
    Probing,
}

/// The answer to "may this attempt begin?"
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admit {
    /// It may; it goes back with its outcome.
    Go(Admission),
    /// Not before this time.
    WaitUntil(Duration),
    /// Not before the probe is back.
    WaitForProbe,
}

/// An admitted attempt. It belongs to one phase of the flow: what comes back from before a pause says
/// nothing about the time after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    phase: u64,
    probe: bool,
}

impl Admission {
    /// Whether it is the one attempt that is tried while the flow stands still.
    pub fn is_probe(self) -> bool {
        self.probe
    }
}

#[derive(Debug, Clone, Copy)]
struct Part {
    number: u64,
    outcomes: u32,
    failures: u32,
}

/// The retry budget of a handler.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    flow: Flow,
    /// Counts pauses, probes and returns to the flow.
    phase: u64,
    /// Parts of the window that had outcomes, oldest first.
    parts: VecDeque<Part>,
    consecutive: u32,
    /// The delay that the next failed probe leads to.
    delay: Duration,
}

impl Budget {
    /// A budget that lets everything through.
    pub fn new(limits: Limits) -> Budget {
        let delay = limits.probe_after;
        Budget { limits, flow: Flow::Flowing, phase: 0, parts: VecDeque::new(), consecutive: 0, delay }
    }

    /// What the budget lets through.
    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Asks whether an attempt may begin. Once it is time the answer makes it the probe.
    pub fn admit(&mut self, now: Duration) -> Admit {
        match self.flow {
            Flow::Flowing => {}
            Flow::Paused { probe_at } if now < probe_at => return Admit::WaitUntil(probe_at),
            Flow::Paused { .. } => self.enter(Flow::Probing),
            Flow::Probing => return Admit::WaitForProbe,
        }
        Admit::Go(Admission { phase: self.phase, probe: self.flow == Flow::Probing })
    }

    /// So many attempts of an admission that is no probe have gone well.
    pub fn went_well(&mut self, admission: Admission, count: u32, now: Duration) {
        if admission.phase == self.phase && self.flow == Flow::Flowing {
            self.count(count, false, now);
        }
    }

    /// An admitted attempt ended. Only failures that count attempts are failures here; a rejected record
    /// is not one, since it says nothing about the others.
    pub fn ended(&mut self, admission: Admission, failed: bool, now: Duration) {
        if admission.phase != self.phase {
            return;
        }
        match self.flow {
            Flow::Flowing => self.count(1, failed, now),
            Flow::Probing if failed => {
                let delay = self.delay;
                self.delay = delay.saturating_mul(2).min(self.limits.probe_most.max(delay));
                self.pause(now, delay);
            }
            Flow::Probing => {
                self.delay = self.limits.probe_after;
                self.enter(Flow::Flowing);
            }
            Flow::Paused { .. } => {}
        }
    }

    /// An admitted attempt came to nothing that tells (its partition was revoked, say). If it was the
    /// probe, the next attempt is.
    pub fn abandoned(&mut self, admission: Admission, now: Duration) {
        if admission.phase == self.phase && self.flow == Flow::Probing {
            self.pause(now, Duration::ZERO);
        }
    }

    fn count(&mut self, outcomes: u32, failed: bool, now: Duration) {
        let part = (self.limits.window / PARTS).max(Duration::from_nanos(1));
        let number = u64::try_from(now.as_nanos() / part.as_nanos()).unwrap_or(u64::MAX);
        while self.parts.front().is_some_and(|part| part.number.saturating_add(PARTS.into()) <= number) {
            self.parts.pop_front();
        }
        // Outcomes may be reported a little out of order: they are counted with the newest.
        if self.parts.back().is_none_or(|part| part.number < number) {
            self.parts.push_back(Part { number, outcomes: 0, failures: 0 });
        }
        if let Some(part) = self.parts.back_mut() {
            part.outcomes = part.outcomes.saturating_add(outcomes);
            part.failures += u32::from(failed);
        }
        self.consecutive = if failed { self.consecutive.saturating_add(1) } else { 0 };
        if failed && self.is_exceeded() {
            let delay = self.delay;
            self.pause(now, delay);
        }
    }

    fn is_exceeded(&self) -> bool {
        let sum = |of: fn(&Part) -> u32| self.parts.iter().map(of).map(u64::from).sum::<u64>();
        let (outcomes, failures) = (sum(|part| part.outcomes), sum(|part| part.failures));
        let in_a_row = self.limits.consecutive > 0 && self.consecutive >= self.limits.consecutive;
        let share = failures as f64 >= self.limits.ratio * outcomes as f64;
        in_a_row || outcomes >= self.limits.sample.into() && share
    }

    fn pause(&mut self, now: Duration, delay: Duration) {
        self.enter(Flow::Paused { probe_at: now.saturating_add(delay) });
    }

    fn enter(&mut self, flow: Flow) {
        self.flow = flow;
        self.phase += 1;
        self.parts.clear();
        self.consecutive = 0;
    }
}
