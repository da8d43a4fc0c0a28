//! In which order a decision is carried out: the entry unless it is discarded, then everything that queued up
//! behind it as it was read, until one of them is stuck (R46). How one is published is the caller's.

use super::desk::{Decided, EntryId, Outcome, Stored, Stuck};

/// What became of an entry that was to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// It is on its way.
    Out,
    /// It can still not be published.
    Stuck(Stuck),
    /// Perhaps nowhere: the session is over.
    Over,
}

/// Carries a decision out. `behind` answers the next page of its queue after an entry, empty at the end. The
/// outcome is to be written down once everything is acknowledged; without one the session is over, and the
/// decision is carried out again by the next.
///
/// # Errors
/// Those of `publish`.
pub fn carry_out<E>(
    decided: &Decided,
    mut publish: impl FnMut(&Stored) -> Result<Went, E>,
    mut behind: impl FnMut(&(String, Vec<u8>), Option<EntryId>) -> Option<Vec<Stored>>,
) -> Result<Option<Outcome>, E> {
    let Decided { entry, discard, queue } = decided;
    let mut outcome =
        Outcome { head: entry.id, discard: *discard, queue: queue.clone(), last: None, stuck: None };
    if !discard {
        match publish(entry)? {
            Went::Out => {}
            Went::Stuck(stuck) => return Ok(Some(Outcome { stuck: Some(stuck), ..outcome })),
            Went::Over => return Ok(None),
        }
    }
    let Some(queue) = queue else { return Ok(Some(outcome)) };
    loop {
        let Some(page) = behind(queue, outcome.last) else { return Ok(None) };
        if page.is_empty() {
            return Ok(Some(outcome));
        }
        for entry in page {
            match publish(&entry)? {
                Went::Out => outcome.last = Some(entry.id),
                Went::Stuck(stuck) => return Ok(Some(Outcome { stuck: Some(stuck), ..outcome })),
                Went::Over => return Ok(None),
            }
        }
    }
}
