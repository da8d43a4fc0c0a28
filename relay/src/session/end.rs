//! How a session ends: one typed end, told by whoever notices first and heard by everybody.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::compare::HaltReason;
use super::disposition::{Refused, of_kafka};
use crate::publisher::{Refusal, Refusals};

/// The end of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Everything handed over was acknowledged, recorded and confirmed by the server.
    Drained,
    /// The deadline of a drain passed; so many records were not acknowledged, or the confirmation of the
    /// server was not seen.
    Undrained {
        /// Records still in flight.
        in_flight: u64,
        /// What was waited for.
        reason: String,
    },
    /// The next session at once: a fill is done, a slot was made, or records go one at a time from now on. The
    /// sentence says which.
    Again(String),
    /// PostgreSQL shuts down: let go of it at once, come back later.
    ServerGoing(String),
    /// A connection is lost or was refused for now: come back later.
    Reconnect(String),
    /// Another relay owns the lane or the slot: wait for it.
    Standby(String),
    /// Another relay of this name has written the state record: wait in line again.
    Fenced(String),
    /// The server refuses the password: it may have been changed there before the file that holds ours.
    LogIn(String),
    /// One side does not accept the other's certificate: its successor may be on one side and not yet on the other.
    Distrust(String),
    /// The stream is not the one that was published from.
    Astray(Box<HaltReason>),
    /// Nothing that waiting would mend; the sentence says what was seen and what to do.
    Halt(String),
}

impl End {
    /// A halt whose sentence is the error with all its causes.
    pub fn halt(error: &dyn std::error::Error) -> End {
        End::Halt(chain(error))
    }

    /// A lost connection whose sentence is the error with all its causes.
    pub fn reconnect(error: &dyn std::error::Error) -> End {
        End::Reconnect(chain(error))
    }

    /// The end after a refusal in full flow. The broker refuses whole batches: which record is meant is found
    /// out by the next session, which sends them one at a time as far as this one had come.
    pub fn refused(refusal: &Refusal, refusals: &Refusals, batch_bytes: usize) -> End {
        match of_kafka(refusal.code) {
            Refused::TheRecord | Refused::ItsTime | Refused::TheRight => {
                let reach = refusals.refused();
                if refusal.code == RDKafkaErrorCode::MessageSizeTooLarge {
                    refusals.halve_batches(batch_bytes);
                }
                End::Again(format!(
                    "{refusal}; it may have been for another record of its batch, so records are sent again, one at a \
                     time, up to {}",
                    reach.commit_lsn
                ))
            }
            Refused::TheProducer => End::Reconnect(refusal.to_string()),
        }
    }

    /// The end in words, for a log line or `/status`.
    pub fn sentence(&self) -> String {
        match self {
            End::Drained => "drained".into(),
            End::Astray(reason) => reason.to_string(),
            End::Undrained { in_flight, reason } => format!("{in_flight} records in flight; {reason}"),
            End::Again(sentence)
            | End::ServerGoing(sentence)
            | End::Reconnect(sentence)
            | End::Standby(sentence)
            | End::Fenced(sentence)
            | End::LogIn(sentence)
            | End::Distrust(sentence)
            | End::Halt(sentence) => sentence.clone(),
        }
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Shared by everything that runs for one session: the first end told is the session's.
#[derive(Debug, Default)]
pub struct Ending {
    over: AtomicBool,
    end: Mutex<Option<End>>,
    threads: Condvar,
    tasks: Notify,
}

impl Ending {
    /// Ends the session. Later calls change nothing: the first cause is the true one, what follows are
    /// its echoes.
    pub fn end(&self, end: End) {
        let mut first = self.end.lock();
        if first.is_none() {
            *first = Some(end);
            self.over.store(true, SeqCst);
            self.threads.notify_all();
            self.tasks.notify_waiters();
        }
    }

    /// Whether the session has ended.
    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// The end, once it was told.
    pub fn told(&self) -> Option<End> {
        self.end.lock().clone()
    }

    /// Waits on a thread until the session ends or `limit` has passed.
    pub fn pause(&self, limit: Duration) {
        let mut end = self.end.lock();
        if end.is_none() {
            self.threads.wait_for(&mut end, limit);
        }
    }

    /// Waits in a task until the session ends.
    pub async fn wait(&self) -> End {
        loop {
            let notified = self.tasks.notified();
            tokio::pin!(notified);
            // Registered before the look, so that an end told in between is not missed.
            notified.as_mut().enable();
            if let Some(end) = self.told() {
                return end;
            }
            notified.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_end_stands() {
        let ending = Ending::default();
        assert!(!ending.is_over() && ending.told().is_none());
        ending.end(End::Halt("first".into()));
        ending.end(End::Drained);
        assert!(ending.is_over());
        assert_eq!(ending.told(), Some(End::Halt("first".into())));
        // Over already: returns at once.
        ending.pause(Duration::from_secs(3600));
    }

    #[tokio::test]
    async fn tasks_hear_an_end_told_before_and_while_they_wait() {
        let ending = std::sync::Arc::new(Ending::default());
        let waiting = tokio::spawn({
            let ending = ending.clone();
            async move { ending.wait().await }
        });
        ending.end(End::Drained);
        assert_eq!(waiting.await.unwrap(), End::Drained);
        assert_eq!(ending.wait().await, End::Drained);
    }
}
