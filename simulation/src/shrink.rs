//! Makes a failing schedule short: steps are dropped, from halves down to one by one, and numbers are lowered, as long as
//! it fails. Dropping a step leaves the meaning of all others as it was, since each step's numbers are its own.

use crate::schedule::Schedule;
use crate::subject::Subject;

/// Runs that the search may take.
const RUNS: usize = 25_000;

/// The shortest that was found, and what fails in it.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The schedule.
    pub schedule: Schedule,
    /// What does not hold.
    pub violation: String,
    /// Runs that were made to find it.
    pub runs: usize,
}

struct Search {
    best: Schedule,
    violation: String,
    subject: Subject,
    runs: usize,
}

/// Shrinks a schedule that fails; `None` where it does not.
pub fn shrink(schedule: &Schedule, subject: Subject) -> Option<Shrunk> {
    let violation = subject.run(schedule, false).violation?;
    let mut search = Search { best: schedule.clone(), violation, subject, runs: 1 };
    let mut size = usize::MAX;
    while search.runs < RUNS && weight(&search.best) < size {
        size = weight(&search.best);
        search.drop_steps();
        search.lower();
    }
    Some(Shrunk { schedule: search.best, violation: search.violation, runs: search.runs })
}

/// What is made small: the number of steps first.
fn weight(schedule: &Schedule) -> usize {
    let numbers = schedule.steps.iter().map(|step| usize::from(step.who > 0) + usize::from(step.how > 0));
    schedule.steps.len() * 1_000
        + numbers.sum::<usize>()
        + schedule.setup.iter().map(|n| usize::from(*n)).sum::<usize>()
}

impl Search {
    /// Whether it fails, too; then it is the best so far.
    fn fails(&mut self, other: Schedule) -> bool {
        if self.runs >= RUNS || other == self.best {
            return false;
        }
        self.runs += 1;
        match self.subject.run(&other, false).violation {
            Some(violation) => {
                (self.best, self.violation) = (other, violation);
                true
            }
            None => false,
        }
    }

    fn drop_steps(&mut self) {
        let mut many = self.best.steps.len() / 2;
        while many > 0 {
            let mut from = 0;
            while from < self.best.steps.len() {
                let mut other = self.best.clone();
                other.steps.drain(from..(from + many).min(other.steps.len()));
                if !self.fails(other) {
                    from += many;
                }
            }
            many /= 2;
        }
    }

    fn lower(&mut self) {
        for at in 0..self.best.setup.len() {
            for to in [0, 1, 2] {
                let mut other = self.best.clone();
                if other.setup[at] > to {
                    other.setup[at] = to;
                    if self.fails(other) {
                        break;
                    }
                }
            }
        }
        for at in 0..self.best.steps.len() {
            let mut other = self.best.clone();
            other.steps[at].how = 0;
            if self.fails(other) {
                continue;
            }
            for shorter in [2, 16, 256] {
                let mut other = self.best.clone();
                other.steps[at].how %= shorter;
                if self.fails(other) {
                    break;
                }
            }
        }
    }
}
