//! The thread that serves delivery reports and moves the ledger's head.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Publisher, Publishers};
use crate::ledger::{Confirmed, Head};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::pgoutput::PgTime;
use crate::session::{End, Ending};

/// How long one round of reports may take before the head is moved.
const ROUND: Duration = Duration::from_millis(10);

/// The same where the end of a Kafka transaction waits for the head, and all events behind it.
const SHORT_ROUND: Duration = Duration::from_millis(1);

/// How long the refusal of a record is waited for after its transaction has failed: what was not sent yet is dropped
/// and reported meanwhile.
const GRACE: Duration = Duration::from_millis(200);

/// How long reports are served after the session's end, while its Kafka transaction is being aborted.
const PARTING: Duration = Duration::from_secs(5);

/// The newest answer of the ledger, for whoever records it.
#[derive(Debug)]
pub struct Confirmations {
    newest: Mutex<Confirmed>,
    rounds: AtomicU64,
}

impl Confirmations {
    /// Begins where the ledger began.
    pub fn new(start: Lsn) -> Arc<Confirmations> {
        let start = Confirmed { end_lsn: start, last_published: None, transactions: 0, outstanding: 0 };
        Arc::new(Confirmations { newest: Mutex::new(start), rounds: AtomicU64::new(0) })
    }

    /// The newest answer.
    pub fn newest(&self) -> Confirmed {
        *self.newest.lock()
    }

    /// How often the poller has looked at the ledger; two more rounds have seen every report that had
    /// come before.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(SeqCst)
    }
}

/// Owns the polling thread of one session.
pub struct Poller {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
}

impl Poller {
    /// Starts to poll; ends when the session ends. A refused record or a dead producer ends the session.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn(
        publishers: Arc<Publishers>,
        head: Head,
        confirmations: Arc<Confirmations>,
        observed: Arc<Observed>,
        ending: Arc<Ending>,
    ) -> std::io::Result<Poller> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name("delivery".into()).spawn({
            let (stop, span) = (stop.clone(), tracing::Span::current());
            move || span.in_scope(|| poll(&publishers, head, &confirmations, &observed, &ending, &stop))
        })?;
        Ok(Poller { thread, stop })
    }

    /// Whether the thread has ended.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the polling, if the session has not ended it, and waits for the thread.
    pub fn stop(self) {
        self.stop.store(true, SeqCst);
        if self.thread.join().is_err() {
            tracing::error!("the delivery thread panicked");
        }
    }
}

fn poll(
    publishers: &Publishers,
    mut head: Head,
    confirmations: &Confirmations,
    observed: &Observed,
    ending: &Ending,
    stop: &AtomicBool,
) {
    let mut transactions = 0;
    let mut outstanding = false;
    while !ending.is_over() && !stop.load(SeqCst) {
        let publisher = publishers.current();
        publisher.poll(if outstanding && publishers.is_transactional() { SHORT_ROUND } else { ROUND });
        let confirmed = head.advance();
        outstanding = confirmed.outstanding > 0;
        observed.published_transactions.add(confirmed.transactions - transactions);
        transactions = confirmed.transactions;
        show(observed, &confirmed);
        *confirmations.newest.lock() = confirmed;
        confirmations.rounds.fetch_add(1, SeqCst);
        if publishers.is_transactional() {
            if let Some(end) = failed(&publisher, publishers, &confirmed, ending) {
                ending.end(end);
            }
        } else if let Some(end) = refused(&publisher, publishers) {
            ending.end(end);
        } else if let Some((code, reason)) = publisher.fatal() {
            // The report of the record that was refused may be one round behind the error it led to.
            publisher.poll(ROUND);
            if let Some(end) = refused(&publisher, publishers) {
                ending.end(end);
            }
            ending.end(End::Reconnect(format!("the Kafka producer gave up ({code}): {reason}")));
        } else if let Some(end) = publisher.delivery().dropped(publisher.flow()) {
            ending.end(end);
        }
    }
    // Nothing is aborted before what it drops is reported.
    let parted = Instant::now() + PARTING;
    while publishers.is_transactional() && !stop.load(SeqCst) && Instant::now() < parted {
        publishers.current().poll(ROUND);
    }
}

/// The end of a session whose Kafka transaction can only be aborted.
fn failed(
    publisher: &Publisher,
    publishers: &Publishers,
    confirmed: &Confirmed,
    ending: &Ending,
) -> Option<End> {
    if !publisher.has_failed() && publisher.broken().is_none() && publisher.fatal().is_none() {
        return None;
    }
    let refusals = publishers.refusals();
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && !ending.is_over() {
        publisher.poll(SHORT_ROUND);
        if publishers.sends_alone() {
            // Whoever has sent the record asks what became of it, and knows more of it.
            ending.pause(SHORT_ROUND);
        } else if let Some(refusal) = publisher.refusal() {
            // All before it was taken, and is taken again.
            refusals.taken(confirmed.end_lsn);
            return Some(End::refused(&refusal, refusals, publishers.batch_bytes()));
        }
    }
    let said = match (publisher.fatal(), publisher.broken()) {
        (Some((code, reason)), _) => format!("the Kafka producer gave up ({code}): {reason}"),
        (None, Some(said)) => said,
        (None, None) => "librdkafka dropped a record without a reason".to_owned(),
    };
    if said.contains(A_RIGHT) && !publishers.sends_alone() {
        refusals.taken(confirmed.end_lsn);
        let reach = refusals.refused();
        return Some(End::Again(format!(
            "{said}; which topic it was is found by sending one record at a time, up to {}",
            reach.commit_lsn
        )));
    }
    Some(End::Reconnect(said))
}

/// What librdkafka's names of missing rights end with. Which topic is meant it does not say.
pub const A_RIGHT: &str = "AUTHORIZATION_FAILED";

fn refused(publisher: &Publisher, publishers: &Publishers) -> Option<End> {
    publisher.delivery().refused(publisher.flow(), publishers.refusals(), publishers.batch_bytes())
}

fn show(observed: &Observed, confirmed: &Confirmed) {
    observed.confirmed.set(confirmed.end_lsn.0);
    if let Some(last) = confirmed.last_published {
        let millis = PgTime(last.commit_time).to_unix_millis();
        observed.published_commit_millis.set(u64::try_from(millis).unwrap_or(0));
    }
}
