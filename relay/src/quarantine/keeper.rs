//! Carries out what the router hands in, on the session's SQL connection, in the order of the stream.

use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tokio::time::sleep;

use super::desk::{Answer, Desk, Order, Question};
use super::entry::{Entry, position_text};
use super::table::{self, Whose};
use crate::ledger::Settler;
use crate::observe::Observed;
use crate::session::{End, Ending, Sql, SqlError};
use crate::state::{ListedEntry, Recorder};

/// Entries of one statement, and about how many bytes.
const BATCH: usize = 100;
const BATCH_BYTES: usize = 4 << 20;
/// How often it is looked whether a record that lists the entries is acknowledged.
const LOOK: Duration = Duration::from_millis(2);
/// How often it is looked whether a decision's transaction can be seen, which may wait for a standby.
const UNSEEN: Duration = Duration::from_millis(20);

/// What the keeper works with.
pub struct Keeper<'s> {
    /// The session's connection; single statements only.
    pub sql: &'s Sql,
    /// Whose entries.
    pub whose: Whose,
    /// The router's side.
    pub desk: &'s Desk,
    /// Lists entries.
    pub recorder: &'s Recorder,
    /// Settles their rows.
    pub settler: Settler,
    /// What is seen from outside.
    pub observed: &'s Observed,
    /// The session's end.
    pub ending: &'s Ending,
}

impl Keeper<'_> {
    /// Works until something fails; the answer is the session's end.
    pub async fn keep(self) -> End {
        loop {
            let orders = self.desk.take(BATCH, BATCH_BYTES).await;
            let count = orders.len();
            let result = self.carry_out(orders).await;
            match result {
                Ok((entries, bytes)) => self.desk.done(count, entries, bytes),
                Err(end) => return end,
            }
        }
    }

    async fn carry_out(&self, orders: Vec<Order>) -> Result<(usize, usize), End> {
        let mut entries = Vec::new();
        for order in orders {
            match order {
                Order::Enter(entry, opaque) => entries.push((entry, opaque)),
                Order::Ask(question, reply) => self.answer(*question, &reply).await?,
            }
        }
        let bytes = entries.iter().map(|(entry, _)| entry.charge()).sum();
        if !entries.is_empty() {
            self.enter(&entries).await?;
        }
        Ok((entries.len(), bytes))
    }

    /// Committed first, then listed by an acknowledged state record, then settled (R39).
    async fn enter(&self, entries: &[(Box<Entry>, usize)]) -> Result<(), End> {
        let plain: Vec<&Entry> = entries.iter().map(|(entry, _)| entry.as_ref()).collect();
        table::insert(self.sql, &self.whose, &plain).await.map_err(|error| error.end())?;
        let entry_lsn = table::log_position(self.sql).await.map_err(|error| error.end())?;
        let listed = plain.iter().map(|entry| {
            ListedEntry::new(entry.place.event_id.as_deref(), position_text(&entry.at), entry_lsn)
        });
        let ticket = self.recorder.list(listed.collect());
        while self.recorder.listed() < ticket {
            if self.ending.is_over() {
                return Err(End::Reconnect("the session ended before its quarantine was recorded".into()));
            }
            sleep(LOOK).await;
        }
        for (entry, opaque) in entries {
            self.settler.settle(*opaque);
            let position = position_text(&entry.at);
            let topic = entry.place.topic.as_deref().unwrap_or("-");
            tracing::warn!(
                position,
                topic,
                state = entry.state.word(),
                cause = entry.cause.code(),
                "in quarantine: {}",
                entry.reason
            );
        }
        self.observed.quarantined_rows.add(entries.len() as u64);
        Ok(())
    }

    async fn answer(&self, question: Question, reply: &SyncSender<Answer>) -> Result<(), End> {
        let asked = self.ask(question).await.map_err(|error| error.end())?;
        // Nobody listens where the session is over.
        let _ = reply.send(asked);
        Ok(())
    }

    async fn ask(&self, question: Question) -> Result<Answer, SqlError> {
        let Keeper { sql, whose, .. } = self;
        match question {
            Question::Decision { id, xid } => {
                let mut shown = false;
                while !table::can_be_seen(sql, xid).await? && !self.ending.is_over() {
                    if !std::mem::replace(&mut shown, true) {
                        let what =
                            "the transaction of a decision about the quarantine, which waits for a standby";
                        self.observed.waiting_for(Some(what.into()));
                    }
                    sleep(UNSEEN).await;
                }
                if shown {
                    self.observed.waiting_for(None);
                }
                Ok(Answer::Decision(table::decision(sql, whose, id).await?.map(Box::new)))
            }
            Question::Behind { queue, after } => {
                Ok(Answer::Behind(table::behind(sql, whose, &queue, after).await?))
            }
            Question::Outcome(outcome) => {
                let positions = table::settle(sql, whose, &outcome).await?;
                let settled = positions.len() as u64;
                // Its owner may prune it from here on, and then it is not missed.
                self.recorder.unlist(positions);
                self.observed.quarantine_settled.add(settled);
                Ok(Answer::Settled(settled))
            }
        }
    }
}
