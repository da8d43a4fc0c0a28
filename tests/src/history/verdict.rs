//! What came of a judgement.

use std::fmt;

/// How many examples of each kind of fault are kept.
const KEPT: usize = 5;

/// A kind of fault; every one of them fails the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Committed and not on the log.
    Lost,
    /// First occurrences of a key out of commit order.
    Reordered,
    /// On the log without a committed row.
    Phantom,
    /// Topic, key, value or headers are not the row's; or a record without an event id.
    Altered,
    /// The position goes back among first occurrences of a key, differs between copies of one epoch, or is
    /// shared by two events; or a key stands in two partitions.
    Misplaced,
}

/// The judgement on one history. Printed as one line, `verdict: PASS committed=… …`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Committed rows.
    pub committed: u64,
    /// Distinct event ids on the log.
    pub published: u64,
    /// Records beyond the first of each id.
    pub repeated: u64,
    /// Counts [`Fault::Lost`].
    pub lost: u64,
    /// Counts [`Fault::Reordered`].
    pub reordered: u64,
    /// Counts [`Fault::Phantom`]: distinct ids.
    pub phantoms: u64,
    /// Counts [`Fault::Altered`].
    pub altered: u64,
    /// Counts [`Fault::Misplaced`].
    pub misplaced: u64,
    /// Repetitions that do not go on where the one before them stood. No fault by itself, since a frozen
    /// relay may send a late copy between another's; where no two relays met, it is 0.
    pub ragged: u64,
    /// The first few of each kind of fault, in words.
    pub examples: Vec<String>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn passes(&self) -> bool {
        self.lost + self.reordered + self.phantoms + self.altered + self.misplaced == 0
    }

    /// Counts a fault and keeps its words while there are few of its kind.
    pub(super) fn fault(&mut self, fault: Fault, example: impl FnOnce() -> String) {
        let count = match fault {
            Fault::Lost => &mut self.lost,
            Fault::Reordered => &mut self.reordered,
            Fault::Phantom => &mut self.phantoms,
            Fault::Altered => &mut self.altered,
            Fault::Misplaced => &mut self.misplaced,
        };
        *count += 1;
        if *count <= KEPT as u64 {
            self.examples.push(format!("{fault:?}: {}", example()));
        }
    }

    /// Fails the test unless the verdict passes.
    ///
    /// # Panics
    /// When it does not, with everything that is known of it.
    #[track_caller]
    pub fn assert_pass(&self) {
        assert!(
            self.passes(),
            "{self}\naltered={} misplaced={} ragged={}\n{}",
            self.altered,
            self.misplaced,
            self.ragged,
            self.examples.join("\n")
        );
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "verdict: {} committed={} published={} repeated={} lost={} reordered={} phantoms={}",
            if self.passes() { "PASS" } else { "FAIL" },
            self.committed,
            self.published,
            self.repeated,
            self.lost,
            self.reordered,
            self.phantoms
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_the_promised_form() {
        let mut verdict = Verdict { committed: 10, published: 9, repeated: 2, ..Verdict::default() };
        assert_eq!(
            verdict.to_string(),
            "verdict: PASS committed=10 published=9 repeated=2 lost=0 reordered=0 phantoms=0"
        );
        verdict.fault(Fault::Lost, || "e".into());
        assert_eq!(
            verdict.to_string(),
            "verdict: FAIL committed=10 published=9 repeated=2 lost=1 reordered=0 phantoms=0"
        );
    }

    #[test]
    fn every_fault_fails_and_few_examples_are_kept() {
        for fault in [Fault::Lost, Fault::Reordered, Fault::Phantom, Fault::Altered, Fault::Misplaced] {
            let mut verdict = Verdict::default();
            for n in 0..KEPT + 3 {
                verdict.fault(fault, || n.to_string());
            }
            assert!(!verdict.passes(), "{fault:?}");
            assert_eq!(verdict.examples.len(), KEPT);
        }
    }
}
