//! A batch: its handler is called once for all events of the transaction.

use std::time::{Duration, Instant};

use super::{Entry, FREE, Group, Turn, denied};
use crate::event::Facts;
use crate::handler::{Batched, Read, WrongNumber};
use crate::metrics::counts::Settled;
use crate::outcome::Outcomes;
use crate::runtime::attempt::{begun, unreadable, within};
use crate::runtime::permit::permit;
use crate::runtime::{company, inbox};
use crate::tx::{Closed, Tx};

impl Group<'_, '_> {
    /// Calls the handler once for all.
    pub(super) async fn batch(&mut self) {
        let Some(keys) = self.let_in().await else { return };
        let Some(first) = keys.iter().flatten().next() else { return };
        let handler = self.places[*first].entry.handler;
        let facts = |at: &usize| {
            let Entry { record, name, .. } = &self.places[*at].entry;
            Facts::new(record, name.id)
        };
        let facts: Vec<Vec<Facts>> = keys.iter().map(|key| key.iter().map(facts).collect()).collect();
        let Some(lease) = self.lease.take() else { return };
        let tx = Tx::new(lease, None);
        let handed = tx.clone();
        let since = Instant::now();
        let (given, answer) = match begun(|| handler.many(facts, handed)) {
            Ok(Batched { keys: read, answer }) => {
                let given = self.leave_out(&keys, read);
                let nothing = async { Ok(Outcomes(None)) };
                (given, within(answer.unwrap_or_else(|| Box::pin(nothing)), handler.timeout).await)
            }
            Err(attempt) => (keys.concat(), Err(attempt)),
        };
        let answer = answer.ok().filter(|outcomes| fits(outcomes, given.len()));
        let Some(Closed { mut lease, failed, unheard, stale, .. }) = tx.close().await else { return };
        let told = match &answer {
            Some(outcomes) => company::of_batch(outcomes.0.as_deref()),
            None => Some(given.iter().map(|_| Turn::Apart).collect()),
        };
        if told.is_none() && !failed && !unheard && !stale {
            self.lease = Some(lease);
            let took = since.elapsed() / u32::try_from(given.len().max(1)).unwrap_or(u32::MAX);
            for at in given {
                self.places[at].took = took;
                self.places[at].turn = Some(Turn::Settled(Settled::Done));
            }
            return;
        }
        let turns = told.unwrap_or_else(|| given.iter().map(|_| Turn::Apart).collect());
        given.into_iter().zip(turns).for_each(|(at, turn)| self.places[at].turn = Some(turn));
        // Rolled back, as a whole.
        match tokio::time::timeout(FREE, lease.end("ROLLBACK")).await {
            Ok(Ok(())) if !stale => lease.give_back(),
            Ok(_) => {}
            Err(_) => inbox::cancel(lease).await,
        }
    }

    /// Of each key those that the crash journal lets start; `None` where one of them is on trial.
    async fn let_in(&mut self) -> Option<Vec<Vec<usize>>> {
        let shared = self.shared;
        let open = |range: &std::ops::Range<usize>| -> Vec<usize> {
            range.clone().filter(|at| self.places[*at].is_open()).collect()
        };
        let keys: Vec<Vec<usize>> = self.keys.iter().map(open).filter(|key| !key.is_empty()).collect();
        let mut held_up = false;
        for at in keys.iter().flatten() {
            let place = &mut self.places[*at];
            match permit(shared, place.entry.lane, place.entry.record, false).await {
                Ok(running) => place.running = Some(running),
                Err(no) => {
                    place.turn = Some(denied(no));
                    held_up = true;
                }
            }
        }
        if held_up {
            // The others wait for another turn, without it.
            let others = keys.iter().flatten().filter(|at| self.places[**at].turn.is_none());
            others
                .copied()
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|at| self.places[at].turn = Some(Turn::Again));
            return None;
        }
        Some(keys)
    }

    /// Those that are in the batch. A payload that cannot be read is a failed attempt of its own, and what follows in
    /// its key waits for what becomes of it (C53).
    fn leave_out(&mut self, keys: &[Vec<usize>], read: Vec<Read>) -> Vec<usize> {
        let mut given = Vec::new();
        for (key, Read { count, wrong }) in keys.iter().zip(read) {
            given.extend(&key[..count]);
            let Some(wrong) = wrong else { continue };
            for at in &key[count..] {
                self.places[*at].turn = Some(Turn::Later);
            }
            if let Some(place) = key.get(count).map(|at| &mut self.places[*at]) {
                let attempt = unreadable(wrong);
                self.shared.registered.metrics.attempted(place.entry.record, attempt.ended(), Duration::ZERO);
                place.turn = Some(Turn::Attempted(attempt));
            }
        }
        given
    }
}

/// Whether there is an outcome for each event.
fn fits(outcomes: &Outcomes, asked: usize) -> bool {
    let Some(given) = outcomes.0.as_ref().map(Vec::len).filter(|given| *given != asked) else { return true };
    let error = WrongNumber { asked, given };
    tracing::error!(%error, "a batch is run again in parts");
    false
}
