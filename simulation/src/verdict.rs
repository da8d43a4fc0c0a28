//! What did not hold, and what a run came to.

/// The first thing that did not hold.
#[derive(Debug, Default)]
pub struct Verdict {
    violation: Option<String>,
}

impl Verdict {
    /// Something does not hold. What follows from it is not looked at.
    pub fn fail(&mut self, what: impl FnOnce() -> String) {
        self.violation.get_or_insert_with(what);
    }

    /// Looks at something that has to hold.
    pub fn hold(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.fail(what);
        }
    }

    /// Whether something did not hold.
    pub fn is_failed(&self) -> bool {
        self.violation.is_some()
    }

    /// What did not hold.
    pub fn violation(self) -> Option<String> {
        self.violation
    }
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Steps that were taken.
    pub steps: u64,
    /// What did not hold.
    pub violation: Option<String>,
    /// What happened, where it was asked for.
    pub story: Vec<String>,
}
