//! A row on its way into the quarantine: by the policy of its topic, bounded, in the order of its key.

use super::emitted::{self, EmittedFault};
use super::outlet::{Outlet, RouteError};
use super::{Place, Plan, RowPosition, Unpublishable, Value};
use crate::config::Policy;
use crate::quarantine::{Cause, Entry, NotTaken, RawRow, Standing};

impl Outlet {
    /// Puts a row aside that cannot be published or must not be yet. `opaque`: what the ledger counted it
    /// as, where it did.
    ///
    /// # Errors
    /// The policy is to halt, or the quarantine is full.
    pub(super) fn put_aside(
        &mut self,
        plan: &Plan,
        row: &[Value<'_>],
        at: &RowPosition,
        opaque: Option<usize>,
        cause: Cause,
        reason: String,
    ) -> Result<(), RouteError> {
        let raw = RawRow::copy(plan.columns(), row);
        let bytes = raw.as_ref().map_or(0, |raw| raw.bytes() as u64);
        self.keep(plan.place(row), at, opaque, (cause, reason), (raw, bytes))
    }

    /// Puts a message aside that is no event: its bytes are kept. It has no topic and no key, so nothing can be held
    /// behind it.
    ///
    /// # Errors
    /// As for every row.
    pub fn put_message_aside(
        &mut self,
        content: &[u8],
        at: &RowPosition,
        fault: EmittedFault,
    ) -> Result<(), RouteError> {
        if self.holds.meet(at, || None) {
            self.show_holds();
            let opaque = self.ledger.row();
            self.settler.settle(opaque);
            return Ok(());
        }
        let why = Unpublishable::Message { fault };
        let raw = RawRow::copy(&emitted::raw_columns(), &[Value::Binary(content)]);
        let place = Place { whole: true, ..Place::default() };
        self.keep(place, at, None, (Cause::of(&why), why.to_string()), (raw, content.len() as u64))
    }

    /// Puts a row aside of which only the beginning was held.
    ///
    /// # Errors
    /// As for every row; also where its key would have to be held and is not known.
    pub fn put_cut_aside(
        &mut self,
        plan: &Plan,
        row: &[Value<'_>],
        at: &RowPosition,
        bytes: usize,
        limit: usize,
    ) -> Result<(), RouteError> {
        let place = plan.place(row);
        if self.holds.meet(at, || plan.event_id(row)) {
            self.show_holds();
            let opaque = self.ledger.row();
            self.settler.settle(opaque);
            return Ok(());
        }
        // Which topic it would have gone to may not be known, and so not what its policy is: the strictest counts.
        let policy = match place.whole {
            true => self.quarantine.policy_of(place.topic.as_deref()),
            false => self.quarantine.strictest(),
        };
        if policy == Policy::Halt {
            let reason = Unpublishable::RowTooLarge { bytes, limit }.to_string();
            return Err(RouteError::Row { position: at.text(), reason });
        }
        let holds = policy == Policy::HoldKey;
        if holds && !place.whole {
            return Err(RouteError::TooLarge { position: at.text(), bytes });
        }
        let reason = Unpublishable::RowTooLarge { bytes, limit }.to_string();
        self.keep(place, at, None, (Cause::RowTooLarge, reason), (None, bytes as u64))
    }

    /// Returns without having kept it only when the session is over or about to be.
    fn keep(
        &mut self,
        place: Place,
        at: &RowPosition,
        opaque: Option<usize>,
        (cause, reason): (Cause, String),
        (row, bytes): (Option<RawRow>, u64),
    ) -> Result<(), RouteError> {
        let key = place.key.as_deref().unwrap_or_default();
        let policy = self.quarantine.policy_of(place.topic.as_deref());
        let queue = place.queue();
        if self.holds.begins(queue.as_deref(), key, policy) && !self.all_taken() {
            return Ok(());
        }
        let max = self.quarantine.max_entries;
        let standing = match self.holds.take_in(queue, key, cause, policy, max) {
            Ok(standing) => standing,
            Err(NotTaken::Policy) => return Err(RouteError::Row { position: at.text(), reason }),
            Err(NotTaken::Full) => {
                return Err(RouteError::QuarantineFull { position: at.text(), reason, max });
            }
        };
        let Standing { state, cause, held_by } = standing;
        self.show_holds();
        let opaque = opaque.unwrap_or_else(|| self.ledger.row());
        let entry = Entry { at: *at, place, held_by, state, cause, reason, row, bytes };
        self.desk.enter(entry, opaque, &self.ending);
        Ok(())
    }

    /// Lets what is held be seen.
    pub fn show_holds(&self) {
        self.observed.quarantine_open.set(self.holds.open());
        self.observed.held_keys.set(self.holds.held_keys());
    }
}
