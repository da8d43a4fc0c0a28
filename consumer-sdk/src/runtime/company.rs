//! With whom a record runs next when its turn has not settled it.
//!
//! Where a group or a batch came to nothing and nobody knows through whom, its records run again in parts, and those of a
//! part that comes to nothing in parts of that: few transactions find the one, and the others stay together. Whoever is
//! known runs alone, and everybody else in company as before: nothing is forgotten but what the next turn needs.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::attempt::Attempt;
use super::transaction::Turn;
use crate::ladder::Failure;
use crate::outcome::Outcome;
use crate::record::{Company, Record};

/// Into how many parts records fall that came to nothing together. Two would take fewer runs for one that fails, and
/// many more where all do.
const PARTS: usize = 8;

/// Numbers of parts have this bit; those of handlers have not.
const PART: u32 = 1 << 31;

/// With whom a record runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its company.
    Company,
    /// A part of those it ran with.
    Part,
    Alone,
}

/// What a turn says of the next one. `failed`: its handler has failed with it before, by itself.
fn next(turn: &Turn, batch: bool, failed: bool) -> Next {
    match turn {
        Turn::Apart => Next::Part,
        // What met another transaction once may meet it again (C44), and so may whoever waits for another's claim (C55).
        Turn::Attempted(Attempt::Failed(Failure::Uncounted, _)) | Turn::Blocked | Turn::Alone => Next::Alone,
        Turn::Convicted(_) => Next::Alone,
        // A batch has no savepoints: one that fails takes the others with it.
        Turn::Attempted(_) if batch => Next::Alone,
        _ if batch && failed => Next::Alone,
        Turn::Attempted(_)
        | Turn::Settled(_)
        | Turn::GiveUp(..)
        | Turn::TooOld
        | Turn::Later
        | Turn::Again
        | Turn::Wait(_)
        | Turn::Full
        | Turn::Trouble(_)
        | Turn::Left => Next::Company,
    }
}

/// The parts of records that came to nothing together.
pub(super) struct Parts {
    first: u32,
    size: usize,
    given: usize,
}

impl Parts {
    /// Parts of so many records, with numbers that nobody else has.
    pub(super) fn of(records: usize, numbers: &AtomicU32) -> Parts {
        let first = numbers.fetch_add(PARTS as u32, Relaxed);
        Parts { first, size: records.div_ceil(PARTS), given: 0 }
    }

    /// With whom a record runs next, whose company is `company` where nothing speaks against it.
    pub(super) fn company(
        &mut self,
        record: &Record,
        turn: &Turn,
        company: Option<Company>,
    ) -> Option<Company> {
        let company = company?;
        match next(turn, company.number > 0, record.tries.counted > 0) {
            Next::Company => Some(company),
            Next::Part => self.part(company),
            Next::Alone => None,
        }
    }

    /// The next place in a part; a part of one is nobody's company.
    fn part(&mut self, company: Company) -> Option<Company> {
        let part = self.given / self.size.max(1);
        self.given += 1;
        let number = PART | self.first.wrapping_add(u32::try_from(part).unwrap_or(0));
        (self.size > 1).then_some(Company::new(number, self.size.min(company.most())))
    }
}

/// What a batch handler's answer means for each of its events; `None` where all are done.
pub(super) fn of_batch(outcomes: Option<&[Outcome]>) -> Option<Vec<Turn>> {
    let outcomes = outcomes?;
    let done = |outcome: &Outcome| matches!(outcome, Outcome::Done | Outcome::Completed { .. });
    if outcomes.iter().all(done) {
        return None;
    }
    // Whose fault it is the handler says itself.
    Some(outcomes.iter().map(|outcome| if done(outcome) { Turn::Again } else { Turn::Alone }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::attempt::{Reason, TRANSIENT};

    fn company() -> Company {
        Company::new(3, 500)
    }

    /// How many runs it takes until only the one is left, and how many of the others ran alone.
    fn search(records: usize, culprit: usize, numbers: &AtomicU32) -> (usize, usize) {
        let (mut runs, mut alone, mut waiting) = (0, 0, vec![(0..records).collect::<Vec<_>>()]);
        while let Some(group) = waiting.pop() {
            runs += 1;
            if group == [culprit] {
                continue;
            }
            alone += usize::from(group.len() == 1);
            if !group.contains(&culprit) {
                continue;
            }
            let mut parts = Parts::of(group.len(), numbers);
            let mut places: Vec<(Option<u32>, Vec<usize>)> = Vec::new();
            for record in group {
                let number = parts.part(company()).map(|company| company.number);
                match places.last_mut() {
                    Some((last, part)) if number.is_some() && *last == number => part.push(record),
                    _ => places.push((number, vec![record])),
                }
            }
            assert!(places.len() <= PARTS);
            waiting.extend(places.into_iter().map(|(_, part)| part));
        }
        (runs, alone)
    }

    #[test]
    fn the_one_that_fails_is_found_in_few_runs_and_few_others_run_alone() {
        let numbers = AtomicU32::new(u32::MAX - 20);
        for records in [2, 8, 9, 50, 500] {
            for culprit in [0, records / 2, records - 1] {
                let (runs, alone) = search(records, culprit, &numbers);
                let levels = [8, 64, 512].iter().position(|most| records <= *most).unwrap() + 1;
                assert!(
                    runs <= 1 + levels * PARTS && alone < PARTS * 2,
                    "{records}: {runs} runs, {alone} alone"
                );
            }
        }
    }

    #[test]
    fn parts_of_two_groups_are_different_company() {
        let numbers = AtomicU32::new(1);
        let (mut one, mut other) = (Parts::of(500, &numbers), Parts::of(500, &numbers));
        let numbers =
            |parts: &mut Parts| -> Vec<Company> { (0..500).filter_map(|_| parts.part(company())).collect() };
        let (one, other) = (numbers(&mut one), numbers(&mut other));
        assert_eq!((one.len(), other.len()), (500, 500));
        assert!(one.iter().all(|one| !other.contains(one) && one.number != company().number));
        assert!(one.iter().all(|company| company.most() == 63));
    }

    #[test]
    fn company_comes_back_unless_the_record_is_known_to_spoil_it() {
        let failed = || Turn::Attempted(Attempt::Failed(TRANSIENT, Reason::new("x", "y")));
        let uncounted = || Turn::Attempted(Attempt::Failed(Failure::Uncounted, Reason::new("x", "y")));
        for batch in [false, true] {
            assert_eq!(next(&Turn::Apart, batch, false), Next::Part);
            assert_eq!(next(&Turn::Again, batch, false), Next::Company);
            assert_eq!(next(&Turn::Trouble(String::new()), batch, false), Next::Company);
            assert_eq!(next(&Turn::Alone, batch, false), Next::Alone);
            assert_eq!(next(&Turn::Blocked, batch, false), Next::Alone);
            assert_eq!(next(&uncounted(), batch, false), Next::Alone, "C44");
        }
        // A group has a savepoint for each.
        assert_eq!(next(&failed(), false, false), Next::Company);
        assert_eq!(next(&failed(), true, false), Next::Alone);
        assert_eq!(next(&Turn::Again, true, true), Next::Alone, "it failed by itself before");
    }

    #[test]
    fn a_batch_that_is_told_apart_runs_again_without_those_that_are_not_done() {
        let retry = Outcome::Retry { after: std::time::Duration::ZERO, reason: "no".into() };
        assert!(of_batch(None).is_none());
        assert!(of_batch(Some(&[Outcome::Done, Outcome::Completed { result: vec![] }])).is_none());
        let turns = of_batch(Some(&[Outcome::Done, retry, Outcome::Done])).unwrap();
        assert!(matches!(turns[..], [Turn::Again, Turn::Alone, Turn::Again]), "{turns:?}");
    }
}
