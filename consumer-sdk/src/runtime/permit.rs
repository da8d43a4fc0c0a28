//! Who has a word before a handler starts, and is told of its end: the retry budget, then the crash journal. What runs
//! from the park has the journal's word first.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::{AGAIN, Shared};
use crate::handler::Bound;
use crate::journal::{Ending, Permit, Started};
use crate::ladder::Admission;
use crate::lane::Lane;
use crate::record::Record;

/// Why a handler may not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum No {
    /// Its record kills processes.
    Convicted(u16),
    /// Its partition has left, or the consumer stops.
    Gone,
    /// One record at a time runs, and this one has company.
    Isolated,
}

/// A handler that runs, as the crash journal has to know of it. Dropped, also with the future of a lost partition, it
/// says that this process has survived it.
pub(super) struct Running<'s> {
    shared: &'s Shared,
    started: Option<Started>,
}

impl<'s> Running<'s> {
    /// The journal has let it start.
    pub(super) fn begun(shared: &'s Shared, started: Started) -> Running<'s> {
        Running { shared, started: Some(started) }
    }

    /// What the journal is to be told of its end, for whoever has the engine in hand.
    pub(super) fn into_started(mut self) -> Option<Started> {
        self.started.take()
    }

    /// The record is settled.
    pub(super) fn settled(mut self) {
        self.end(Ending::Settled);
    }

    fn end(&mut self, ending: Ending) {
        if let Some(started) = self.started.take() {
            self.shared.engine().handler_ended(started, ending);
            self.shared.permits_changed();
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.end(Ending::Survived);
    }
}

/// A handler that runs from the park: whoever is suspected of killing the process waits for its end. Dropped, also with
/// a turn that took too long, it says that this process has survived it.
pub(super) struct Parked(Arc<Shared>);

impl Parked {
    /// `None` where it may not start now: one record is on trial, and whatever ran beside it could be the one that kills.
    pub(super) fn begin(shared: &Arc<Shared>) -> Option<Parked> {
        let may = shared.engine().parked_starts();
        may.then(|| Parked(shared.clone()))
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.engine().parked_ended();
        self.0.permits_changed();
    }
}

/// Waits until the crash journal lets the handler start. One that is not `alone` in its transaction does not wait in
/// isolation: what it would wait for is the end of that transaction.
pub(super) async fn permit<'s>(
    shared: &'s Shared,
    lane: Lane,
    record: &Record,
    alone: bool,
) -> Result<Running<'s>, No> {
    let mut waiting = None;
    loop {
        let changed = shared.permits.notified();
        let permit = {
            let mut engine = shared.engine();
            let permit = engine.may_start(lane, record);
            if !alone && engine.is_isolated() {
                match permit {
                    Permit::Start(started) => engine.handler_ended(started, Ending::Survived),
                    Permit::CommitFirst | Permit::Wait => engine.will_not_start(lane, record),
                    Permit::Convict { .. } | Permit::Gone => {}
                }
                return Err(No::Isolated);
            }
            permit
        };
        match permit {
            Permit::Start(started) => return Ok(Running::begun(shared, started)),
            Permit::Convict { deaths } => return Err(No::Convicted(deaths)),
            Permit::Gone => return Err(No::Gone),
            Permit::CommitFirst | Permit::Wait => {}
        }
        if shared.is_stopping() {
            shared.engine().will_not_start(lane, record);
            return Err(No::Gone);
        }
        if waiting.is_none() {
            // Asked once more, since nobody tells those who are not known to wait.
            waiting = Some(Counted::begin(&shared.permits_wanted));
            continue;
        }
        // The client's thread commits at its next turn, which is never far.
        let _timeout = tokio::time::timeout(AGAIN / 10, changed).await;
    }
}

/// One of those that are counted, as long as it is there.
pub(super) struct Counted<'s>(&'s AtomicUsize);

impl<'s> Counted<'s> {
    pub(super) fn begin(count: &'s AtomicUsize) -> Counted<'s> {
        count.fetch_add(1, SeqCst);
        Counted(count)
    }

    /// One of at most so many; `None` where they are all there.
    pub(super) fn below(count: &'s AtomicUsize, most: usize) -> Option<Counted<'s>> {
        let more = |now: usize| (now < most).then(|| now + 1);
        // Made only where it was counted: its end counts, too.
        count.fetch_update(SeqCst, SeqCst, more).is_ok().then(|| Counted(count))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// An attempt that the retry budget let through, and that it has to hear of: dropped before, also with the future of a
/// lost partition, it came to nothing that tells.
pub(super) struct Told<'s> {
    shared: &'s Shared,
    handler: &'s Bound,
    admission: Option<Admission>,
}

impl<'s> Told<'s> {
    /// Asks whether an attempt may begin.
    ///
    /// # Errors
    /// How long it has to wait.
    pub(super) fn admitted(shared: &'s Shared, handler: &'s Bound) -> Result<Told<'s>, Duration> {
        let admission = handler.admit(shared.now())?;
        Ok(Told { shared, handler, admission: Some(admission) })
    }

    /// Where events flow, the same admission is for those behind it.
    ///
    /// # Errors
    /// Itself, where it is the one event that is tried.
    pub(super) fn flowing(mut self) -> Result<Flowing<'s>, Told<'s>> {
        match self.admission.take() {
            Some(admission) if !admission.is_probe() => {
                Ok(Flowing { shared: self.shared, handler: self.handler, admission, well: 0 })
            }
            admission => {
                self.admission = admission;
                Err(self)
            }
        }
    }

    /// What it came to: whether it failed; `None` where that says nothing of other events.
    pub(super) fn end(&mut self, failed: Option<bool>) {
        if let Some(admission) = self.admission.take() {
            self.handler.ended(admission, failed, self.shared.now());
        }
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// Attempts of one handler's events, one after the other, while all goes well: the budget hears of them at once.
pub(super) struct Flowing<'s> {
    shared: &'s Shared,
    handler: &'s Bound,
    admission: Admission,
    well: u32,
}

impl<'s> Flowing<'s> {
    pub(super) fn is_of(&self, handler: &Bound) -> bool {
        self.handler.number == handler.number
    }

    /// One more has gone well.
    pub(super) fn went_well(&mut self) {
        self.well += 1;
    }

    /// For one that is told of by itself.
    pub(super) fn told(&self) -> Told<'s> {
        Told { shared: self.shared, handler: self.handler, admission: Some(self.admission) }
    }
}

impl Drop for Flowing<'_> {
    fn drop(&mut self) {
        if self.well > 0 {
            self.handler.went_well(self.admission, self.well, self.shared.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_counted_than_may_be_and_each_once() {
        let count = AtomicUsize::new(0);
        let (first, second) = (Counted::below(&count, 2), Counted::below(&count, 2));
        assert!(first.is_some() && second.is_some());
        assert!(Counted::below(&count, 2).is_none());
        assert_eq!(count.load(SeqCst), 2, "who was refused changes nothing");
        drop(first);
        assert!(Counted::below(&count, 2).is_some());
        drop(second);
        assert_eq!(count.load(SeqCst), 0);
    }
}
