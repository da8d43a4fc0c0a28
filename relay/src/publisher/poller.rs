//! The thread that serves delivery reports and moves the ledger's head.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Flow, Publisher, Publishers};
use crate::ledger::{Confirmed, Head};
use crate::lsn::Lsn;
use crate::observe::Observed;
use crate::pgoutput::PgTime;
use crate::session::{End, Ending};

/// Time between two looks at reports that nobody waits for.
const LEISURE: Duration = Duration::from_millis(10);

/// The same where the router fills the window, or a Kafka transaction may begin.
const BUSY: Duration = Duration::from_millis(1);

/// The same where the end of a Kafka transaction waits for them, and all events behind it, or the next record does.
const AWAITED: Duration = Duration::from_micros(300);

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
    let (mut idle, mut all_served) = (0, true);
    while !ending.is_over() && !stop.load(SeqCst) {
        let publisher = publishers.current();
        // Not librdkafka's own waiting: woken for each report, and with the last millisecond spent at the clock, it took a
        // third of what the relay does in a stream of single events.
        let look = publishers.look(&publisher, outstanding, idle);
        idle = if look.outstanding { 0 } else { idle.saturating_add(1) };
        if all_served {
            ending.pause(look.round());
        }
        all_served = publisher.serve();
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
            ending.pause(LEISURE);
            publisher.serve();
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
        thread::sleep(BUSY);
        publishers.current().serve();
    }
}

impl Publishers {
    fn look(&self, publisher: &Publisher, outstanding: bool, idle: u32) -> Look {
        Look {
            transactional: self.is_transactional(),
            flow: publisher.flow(),
            alone: self.sends_alone(),
            room: self.window.is_nearly_empty(),
            waited: self.window.was_waited_for(),
            outstanding: outstanding || !publisher.is_quiet(),
            idle,
        }
    }
}

/// Rounds without anything after which nobody is thought to wait.
const IDLE: u32 = 100;

/// What says how soon reports have to be looked at.
#[derive(Debug, Clone, Copy)]
struct Look {
    transactional: bool,
    flow: Flow,
    /// Records go one at a time, and whoever sends one waits for its report.
    alone: bool,
    /// The window is nearly empty.
    room: bool,
    /// The router has waited for room since the last look.
    waited: bool,
    /// Something is handed over and not confirmed, or on its way.
    outstanding: bool,
    /// Rounds without anything.
    idle: u32,
}

impl Look {
    /// How long reports may wait to be looked at.
    fn round(self) -> Duration {
        match self {
            Look { idle: IDLE.., outstanding: false, .. } => LEISURE,
            Look { alone: true, .. } | Look { flow: Flow::OneAtATime, .. } => AWAITED,
            // The router fills the window; before a Kafka transaction ends it runs empty.
            Look { room: false, .. } => BUSY,
            // A small window, that a round of leisure fills.
            Look { waited: true, .. } => AWAITED,
            Look { transactional: true, outstanding: true, .. } => AWAITED,
            Look { transactional: false, flow: Flow::Full, .. } => LEISURE,
            Look { .. } => BUSY,
        }
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
        ending.pause(BUSY);
        publisher.serve();
        if publishers.sends_alone() {
            // Whoever has sent the record asks what became of it, and knows more of it.
            ending.pause(BUSY);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_looked_at_as_soon_as_somebody_waits_for_them() {
        let steady = Look {
            transactional: false,
            flow: Flow::Full,
            alone: false,
            room: true,
            waited: false,
            outstanding: true,
            idle: 0,
        };
        let open = Look { transactional: true, ..steady };
        let cases = [
            ("single events", steady, LEISURE),
            ("a window that fills", Look { room: false, ..steady }, BUSY),
            ("a small window", Look { waited: true, ..steady }, AWAITED),
            ("far behind", Look { flow: Flow::CatchUp, ..steady }, BUSY),
            ("one record at a time", Look { flow: Flow::OneAtATime, room: false, ..steady }, AWAITED),
            ("a Kafka transaction that ends", open, AWAITED),
            ("one that fills", Look { room: false, ..open }, BUSY),
            ("one that holds nothing", Look { outstanding: false, ..open }, BUSY),
            ("one record at a time in it", Look { alone: true, room: false, ..open }, AWAITED),
            ("nothing for long", Look { outstanding: false, idle: IDLE, ..open }, LEISURE),
            (
                "nothing for long, one at a time",
                Look { alone: true, outstanding: false, idle: IDLE + 1, ..open },
                LEISURE,
            ),
            ("the first after nothing for long", Look { idle: IDLE, ..open }, AWAITED),
        ];
        for (what, look, round) in cases {
            assert_eq!(look.round(), round, "{what}");
        }
    }
}
