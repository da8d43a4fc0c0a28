//! What was decided of an entry of the quarantine, carried out where the stream says so: the entry, then
//! everything that queued up behind it, in the order in which it was read, then the hold is lifted (R46).

use std::time::Duration;

use super::outlet::{Outlet, RouteError, Sent};
use super::{Plan, RowPosition, Scratch, Unpublishable};
use crate::quarantine::Cause;
use crate::quarantine::desk::{Answer, Decided, EntryId, Outcome, Question, Stored, Stuck};
use crate::session::chain;

/// How long one wait for acknowledgements lasts before the session's end is looked at.
const LOOK: Duration = Duration::from_millis(1);

impl Outlet {
    /// Carries out what was decided of an entry. Returns when everything that was published by it is
    /// acknowledged and written down, or the session is over: only then may the position pass the message.
    ///
    /// # Errors
    /// A topic cannot be published to.
    pub fn carry_out(&mut self, id: EntryId, scratch: &mut Scratch) -> Result<(), RouteError> {
        let asked = self.desk.ask(Question::Decision(id), &self.ending);
        let decided = match asked {
            Some(Answer::Decision(Some(decided))) => *decided,
            // Carried out before, or there is no such entry: anybody may write a message.
            Some(Answer::Decision(None)) => {
                tracing::info!(commit_lsn = %id.1, ordinal = id.2, "a decision about the quarantine that is nothing to carry out");
                return Ok(());
            }
            Some(Answer::Behind(_) | Answer::Settled(_)) | None => return Ok(()),
        };
        let mut outcome = Outcome {
            head: id,
            discard: decided.discard,
            queue: decided.queue.clone(),
            last: None,
            stuck: None,
        };
        if !decided.discard {
            outcome.stuck = self.publish_stored(&decided.entry, scratch)?;
        }
        if outcome.stuck.is_none() {
            self.publish_behind(&decided, &mut outcome, scratch)?;
        }
        self.write_down(outcome)
    }

    /// Publishes what queued up, page by page, until one of them is stuck.
    fn publish_behind(
        &mut self,
        decided: &Decided,
        outcome: &mut Outcome,
        scratch: &mut Scratch,
    ) -> Result<(), RouteError> {
        let Some(queue) = &decided.queue else { return Ok(()) };
        loop {
            let question = Question::Behind { queue: queue.clone(), after: outcome.last };
            let Some(Answer::Behind(page)) = self.desk.ask(question, &self.ending) else { return Ok(()) };
            if page.is_empty() {
                return Ok(());
            }
            for entry in page {
                outcome.stuck = self.publish_stored(&entry, scratch)?;
                if outcome.stuck.is_some() || self.ending.is_over() {
                    return Ok(());
                }
                outcome.last = Some(entry.id);
            }
        }
    }

    /// Publishes one entry as what it was: with its own position and time.
    fn publish_stored(&mut self, entry: &Stored, scratch: &mut Scratch) -> Result<Option<Stuck>, RouteError> {
        let stuck = |cause, reason| Ok(Some(Stuck { id: entry.id, cause, reason }));
        let Some((raw, row)) = entry.row.as_ref().and_then(|raw| Some((raw, raw.row()?))) else {
            let reason = "only a reference to this row is kept: enqueue its event anew in smaller parts and discard it";
            return stuck(Cause::RowTooLarge, reason.to_owned());
        };
        let shape = raw.shape(&self.outbox.schema, &self.outbox.table);
        // By the rules of now: a mapping that was mended since makes a record of it.
        let plan = match Plan::compile(&shape, &self.outbox, &self.kafka) {
            Ok(plan) => plan,
            Err(error) => return stuck(Cause::Undecodable, error.to_string()),
        };
        let (epoch, commit_lsn, ordinal) = entry.id;
        let at = RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: entry.commit_unix_millis };
        let record = match plan.record(&row, &at, scratch) {
            Ok(record) => record,
            Err(why) => return stuck(Cause::of(&why), Unpublishable::to_string(&why)),
        };
        let sent = match self.send(&record, &at) {
            // Later decisions may be about others, and this one may be taken back: no reason to halt.
            Err(error) if error.is_about_time() => return stuck(Cause::Refused, chain(&error)),
            sent => sent?,
        };
        match sent {
            Sent::Gone => Ok(None),
            Sent::Refused { opaque, cause, reason } => {
                // Its row in the ledger is settled: the entry stands in the table.
                if let Some(opaque) = opaque {
                    self.settler.settle(opaque);
                }
                stuck(cause, reason)
            }
        }
    }

    fn write_down(&mut self, outcome: Outcome) -> Result<(), RouteError> {
        while self.window.records() > 0 {
            if self.ending.is_over() {
                return Ok(());
            }
            self.ending.pause(LOOK);
        }
        if self.ending.is_over() || self.publisher.has_failed() {
            // Not everything was taken: the session ends, and the message comes again.
            return Ok(());
        }
        let stuck = outcome.stuck.clone();
        let (queue, discard, (epoch, lsn, ordinal)) = (outcome.queue.clone(), outcome.discard, outcome.head);
        let answer = self.desk.ask(Question::Outcome(outcome), &self.ending);
        let Some(Answer::Settled(settled)) = answer else { return Ok(()) };
        self.holds.settled(settled);
        match (&stuck, &queue) {
            (Some(stuck), _) => tracing::warn!(
                position = format!("{}/{:016X}/{}", stuck.id.0, stuck.id.1.0, stuck.id.2),
                cause = stuck.cause.code(),
                settled,
                "held: an entry of the quarantine could still not be published: {}",
                stuck.reason
            ),
            (None, queue) => {
                if let Some((held_by, key)) = queue {
                    self.holds.lift(held_by, key);
                }
                tracing::info!(
                    position = format!("{epoch}/{:016X}/{ordinal}", lsn.0),
                    discarded = discard,
                    settled,
                    "carried out a decision about the quarantine"
                );
            }
        }
        self.show_holds();
        Ok(())
    }
}
