//! Owning a lane: lock, slot, fence, record, comparison, quarantine, in this order.

use outbox_relay::lsn::Lsn;
use outbox_relay::session::End;
use outbox_relay::simulation::{self, Session};

use super::running::Running;
use super::{At, Process, writer};
use crate::relay::Mutant;
use crate::relay::around::Around;

impl Process {
    pub(super) fn own(&mut self, around: &mut Around) -> Result<bool, End> {
        self.looks(around)?;
        match self.at {
            At::Resting(_) => {
                self.links.sql = Some(around.source.connect());
                self.reads_early(around);
                self.at = At::InLine;
            }
            At::InLine => {
                let Some(sql) = self.links.sql else { return Ok(false) };
                if !around.source.try_own(sql) && !around.is(Mutant::LaneNotOwned) {
                    return Ok(false);
                }
                self.at = At::Lane;
            }
            At::Lane => {
                let Some(stream) = around.source.stream() else {
                    return Err(End::Standby("the slot is another's".to_owned()));
                };
                self.links.stream = Some(stream);
                self.at = At::Slot;
            }
            At::Slot => {
                self.fence(around);
                self.at = At::Fenced;
            }
            At::Fenced => self.remember(around)?,
            At::Streaming(_) | At::Halted => return Ok(false),
        }
        Ok(true)
    }

    /// Reads the record, compares it, and recalls what the quarantine holds.
    fn remember(&mut self, around: &mut Around) -> Result<(), End> {
        let newest = around.broker.state.newest.clone();
        let record = self.early.take().unwrap_or(newest);
        self.seen = record.as_ref().map(|record| (record.writer, record.sequence));
        let (slot, server) = around.source.facts();
        let mutant = around.of_session();
        let halts = |halt: simulation::Halt| End::Halt(halt.0);
        let mut start = simulation::start(record, &slot, &server, writer(around), mutant).map_err(halts)?;
        let found = around.source.table().recall(start.record.position);
        for entry in found.iter().filter(|entry| entry.decided.is_some()) {
            let said = around.source.decide(entry.id, around.now);
            around.tell(|| format!("reminded: {said}"));
        }
        let log_end: Lsn = around.source.wal();
        let table = around.source.table();
        let holds = simulation::recalled(&mut start, table, &found, log_end, mutant).map_err(halts)?;
        around.sessions += 1;
        let number = around.sessions;
        around.tell(|| {
            let record = &start.record;
            format!(
                "session {number} begins at {} in epoch {}, {} keys held",
                record.position,
                record.epoch,
                holds.held_keys()
            )
        });
        let session = Session::new(start, holds, self.refusals.clone(), &around.settings.bounds, mutant);
        let links = (self.links.sql.unwrap_or(0), self.links.stream.unwrap_or(0));
        let producer = around.broker.produce(number, links, session.sends_alone());
        self.at = At::Streaming(Box::new(Running::new(number, links, session, producer)));
        Ok(())
    }
}
