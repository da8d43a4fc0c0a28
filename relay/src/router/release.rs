//! What was decided of an entry of the quarantine, carried out where the stream says so: the entry, then
//! everything that queued up behind it, in the order in which it was read, then the hold is lifted (R46).

use super::emitted::{self, Emitted};
use super::outlet::{Outlet, RouteError, Sent};
use super::topics::PATIENCE;
use super::{Plan, RowPosition, Scratch, Unpublishable};
use crate::quarantine::Cause;
use crate::quarantine::carry::{Went, carry_out};
use crate::quarantine::desk::{Answer, EntryId, Outcome, Question, Stored, Stuck};
use crate::quarantine::entry::position_text;
use crate::session::chain;

impl Outlet {
    /// Carries out what the transaction `xid` decided of an entry. Returns when everything that was published by it is
    /// acknowledged and written down, or the session is over: only then may the position pass the message. With exactly
    /// one delivery it is [written down](Outlet::write_down_carried) when its Kafka transaction is committed.
    ///
    /// # Errors
    /// A topic cannot be published to.
    pub fn carry_out(&mut self, id: EntryId, xid: u32, scratch: &mut Scratch) -> Result<(), RouteError> {
        if self.carried.iter().any(|outcome| outcome.head == id) {
            return Ok(());
        }
        let asked = self.desk.ask_until(Question::Decision { id, xid }, &self.ending, |waited| {
            waited > PATIENCE && self.gate.as_ref().is_some_and(|gate| gate.holds_any())
        });
        let decided = match asked {
            Some(Answer::Decision(Some(decided))) => *decided,
            // Carried out before, or there is no such entry: anybody may write a message.
            Some(Answer::Decision(None)) => {
                tracing::info!(commit_lsn = %id.1, ordinal = id.2, "a decision about the quarantine that is nothing to carry out");
                return Ok(());
            }
            None if self.gate.is_some() && !self.ending.is_over() => {
                let why =
                    "a decision about the quarantine cannot be seen yet: its transaction waits for a standby";
                return Err(RouteError::HoldsBack(why.into()));
            }
            Some(Answer::Behind(_) | Answer::Settled(_)) | None => return Ok(()),
        };
        let (desk, ending) = (self.desk.clone(), self.ending.clone());
        let publish = |entry: &Stored| self.publish_stored(entry, scratch);
        let outcome = carry_out(&decided, publish, |queue, after| {
            match desk.ask(Question::Behind { queue: queue.clone(), after }, &ending) {
                Some(Answer::Behind(page)) => Some(page),
                Some(Answer::Decision(_) | Answer::Settled(_)) | None => None,
            }
        })?;
        match outcome {
            // Were it written down before the Kafka transaction is committed, a crash would lose the events.
            Some(outcome) if self.gate.is_some() => {
                self.holds.carried_out(&outcome);
                self.show_holds();
                self.carried.push(outcome);
            }
            Some(outcome) => self.write_down(outcome),
            None => {}
        }
        Ok(())
    }

    /// Whether decisions were carried out in the Kafka transaction at hand.
    pub fn has_carried(&self) -> bool {
        !self.carried.is_empty()
    }

    /// Decisions that were carried out in the Kafka transaction at hand.
    pub fn carried(&self) -> Vec<Outcome> {
        self.carried.clone()
    }

    /// Their Kafka transaction is committed, and its state record says what was carried out: writes it down. What a crash
    /// keeps from it the next session does. False where not all of it is: then the record has to go on saying so.
    #[must_use]
    pub fn write_down_carried(&mut self) -> bool {
        for outcome in std::mem::take(&mut self.carried) {
            let answer = self.desk.ask(Question::Outcome(outcome.clone()), &self.ending);
            let Some(Answer::Settled(settled)) = answer else { return false };
            self.holds.counted(settled);
            said(&outcome, settled);
        }
        self.show_holds();
        true
    }

    /// Publishes one entry as what it was: with its own position and time.
    fn publish_stored(&mut self, entry: &Stored, scratch: &mut Scratch) -> Result<Went, RouteError> {
        let stuck = |cause, reason| Ok(Went::Stuck(Stuck { id: entry.id, cause, reason }));
        let Some((raw, row)) = entry.row.as_ref().and_then(|raw| Some((raw, raw.row()?))) else {
            let reason = "only a reference to this row is kept: enqueue its event anew in smaller parts and discard it";
            return stuck(Cause::RowTooLarge, reason.to_owned());
        };
        // A message that could not be read when it came may be read by a later release.
        let read = emitted::raw_content(&raw.columns, &row).map(Emitted::read).transpose();
        let read = match read {
            Ok(read) => read,
            Err(fault) => {
                let why = Unpublishable::Message { fault };
                return stuck(Cause::of(&why), why.to_string());
            }
        };
        let shape = match &read {
            Some(_) => emitted::shape(),
            None => raw.shape(&self.outbox.schema, &self.outbox.table),
        };
        let row = read.as_ref().map_or_else(|| row.into(), Emitted::row);
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
            Sent::Gone if self.ending.is_over() => Ok(Went::Over),
            Sent::Gone => Ok(Went::Out),
            Sent::Refused { opaque, cause, reason } => {
                // Its row in the ledger is settled: the entry stands in the table.
                if let Some(opaque) = opaque {
                    self.settler.settle(opaque);
                }
                stuck(cause, reason)
            }
        }
    }

    fn write_down(&mut self, outcome: Outcome) {
        if !self.all_taken() {
            // The session ends, and the message comes again.
            return;
        }
        let answer = self.desk.ask(Question::Outcome(outcome.clone()), &self.ending);
        let Some(Answer::Settled(settled)) = answer else { return };
        self.holds.written_down(&outcome, settled);
        said(&outcome, settled);
        self.show_holds();
    }
}

fn said(outcome: &Outcome, settled: u64) {
    match &outcome.stuck {
        Some(stuck) => tracing::warn!(
            position = text(stuck.id),
            cause = stuck.cause.code(),
            settled,
            "held: an entry of the quarantine could still not be published: {}",
            stuck.reason
        ),
        None => tracing::info!(
            position = text(outcome.head),
            discarded = outcome.discard,
            settled,
            "carried out a decision about the quarantine"
        ),
    }
}

fn text((epoch, commit_lsn, ordinal): EntryId) -> String {
    position_text(&RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: 0 })
}
