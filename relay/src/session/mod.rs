//! One session: from owning the lane to one typed end.
//!
//! The order matters, because memory that is read before the stream is owned may be another's past:
//! own the lane (advisory lock) → own the slot (`START_REPLICATION`, and the server shows our backend on
//! it) → fence other writers of the state record → read it → compare → publish → end. The loss of
//! either connection ends both.
//!
//! | file | what it owns |
//! |---|---|
//! | `own` | the steps from connecting to the decision |
//! | [`compare`] | the decision: slot, server and state record; pure |
//! | `weigh` | the decision, and what of a fill only the database can say |
//! | `stream` | the pipeline and the loop that watches over it |
//! | `drain` | stopping so that the server has confirmed everything |
//! | `outstanding` | what was handed over and not seen confirmed |
//! | `standbys` | whom the server waits for before it sends |
//! | `sql` | the SQL connection: lane, pings, questions |
//! | `end` | the one typed end, told once and heard by all |
//! | `disposition` | what an SQLSTATE asks for |

pub mod compare;
mod disposition;
mod drain;
mod end;
mod outstanding;
pub(crate) mod own;
mod sql;
pub(crate) mod standbys;
mod stream;
mod weigh;

pub use disposition::{Disposition, Refused, end_of_state, of_kafka, of_sqlstate};
pub use end::{End, Ending, chain};
pub use outstanding::Outstanding;
pub use sql::{Sql, SqlError, config as sql_config, server_facts};
pub(crate) use weigh::{Facts, weigh};

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use outbox_postgres_link::transport::Roots;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::config::Settings;
use crate::observe::Observed;
use crate::publisher::Refusals;
use crate::reader::{Chunks, Positions, Reader};
use crate::router::topics::cluster::Cluster;
use crate::state::{StateRecord, Store};

/// What every session of a lane is given.
#[derive(Clone)]
pub struct Context {
    /// Settings of the relay.
    pub settings: Arc<Settings>,
    /// The lane's number; one lane unless configured.
    pub lane: u32,
    /// What is seen from outside.
    pub observed: Arc<Observed>,
    /// True once the relay was told to stop.
    pub shutdown: watch::Receiver<bool>,
    /// End with [`End::Standby`] where another relay owns the lane, instead of waiting in line.
    pub no_wait: bool,
    /// What sessions of this process have handed over and not seen confirmed.
    pub outstanding: Arc<Outstanding>,
    /// Whether a session of this process has owned the lane.
    pub owned: Arc<AtomicBool>,
    /// Whether a session of this process has logged in to PostgreSQL.
    pub logged_in: Arc<AtomicBool>,
    /// How far records are sent one at a time.
    pub refusals: Arc<Refusals>,
    /// What the last session found in the stream that the next one's comparison would not.
    pub found: Arc<Mutex<Option<compare::HaltReason>>>,
}

impl Context {
    /// Whether somebody else's lane ends the program. Once it was ours, what holds it may be our own former
    /// backend, which the server has not missed yet.
    pub fn refuses_to_wait(&self) -> bool {
        self.no_wait && !self.owned.load(SeqCst)
    }

    /// Whether a password that is refused now may be right once its file is read again: it was right before, and
    /// whoever changes it does so in two places.
    pub fn may_log_in_later(&self) -> bool {
        self.settings.source.password_file.is_some() && self.logged_in.load(SeqCst)
    }

    /// Whether a certificate that is refused now, ours or the server's, may be accepted once the files are read again:
    /// they were right before, and whoever renews an authority cannot do so on both sides at once.
    pub fn may_be_trusted_later(&self) -> bool {
        let transport = &self.settings.source.transport;
        let has_files = matches!(transport.roots, Roots::File(_)) || transport.identity.is_some();
        has_files && self.logged_in.load(SeqCst)
    }

    /// The lane's name in locks and in the state record.
    pub fn lane_name(&self) -> String {
        lane_name(&self.settings, self.lane)
    }
}

/// A lane's name in locks and in the state record.
pub fn lane_name(settings: &Settings, lane: u32) -> String {
    format!("{}/{lane}", settings.name)
}

/// A replication connection that is being read.
pub(crate) struct Reading {
    /// The session's end of it.
    pub(crate) reader: Reader,
    /// The router's end of it.
    pub(crate) chunks: Chunks,
    /// What its feedback carries.
    pub(crate) positions: Arc<Positions>,
    /// Its backend on the server.
    pub(crate) pid: i32,
}

/// What a session holds once it owns its lane: everything a stream or a fill begins with.
pub(crate) struct Owned {
    /// The SQL connection that owns the lane.
    pub(crate) sql: Sql,
    /// The running replication, where there is a slot to read.
    pub(crate) reading: Option<Reading>,
    /// The fenced place of the state record.
    pub(crate) store: Store,
    /// A client for questions about topics, connected meanwhile.
    pub(crate) cluster: Arc<Cluster>,
    /// The session's own name as a writer of state records.
    pub(crate) writer: uuid::Uuid,
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// Its end.
    pub end: End,
    /// Whether it owned lane and slot before; if not, another server may be the primary.
    pub had_begun: bool,
}

/// Runs one session to its end.
pub async fn run(context: &Context) -> Ended {
    let ending = Arc::new(Ending::default());
    let (owned, next) = match own::own(context, &ending).await {
        Ok(owned) => owned,
        Err(end) => {
            // Whatever still runs for this session hears that it is over.
            ending.end(end.clone());
            return Ended { end: ending.told().unwrap_or(end), had_begun: false };
        }
    };
    let end = match next {
        own::Next::Stream(start) => stream::run(context, &ending, owned, start).await,
        own::Next::MakeSlot => crate::fill::make_slot_only(context, &ending, owned).await,
        own::Next::Fill { record, loss } => crate::fill::run(context, &ending, owned, record, loss).await,
    };
    Ended { end, had_begun: true }
}

/// Waits for a step of a session: its result, or the session's end, or the order to stop, whichever is
/// first.
pub(crate) async fn step<T>(
    context: &Context,
    ending: &Ending,
    work: impl Future<Output = Result<T, End>>,
) -> Result<T, End> {
    let mut shutdown = context.shutdown.clone();
    tokio::select! {
        biased;
        end = ending.wait() => Err(end),
        // Nothing is in flight before a session streams.
        _ = shutdown.wait_for(|stop| *stop) => Err(End::Drained),
        result = work => result,
    }
}

/// Runs blocking work on a thread of its own and waits for it without blocking a task. The work looks at
/// the session's `Ending` between its slices, so it ends soon after the session does.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, End> + Send + 'static,
) -> Result<T, End> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(End::Reconnect(format!("a step of the session was lost: {error}"))),
    }
}

/// A record that this session writes from now on.
pub(crate) fn claimed(mut record: StateRecord, writer: uuid::Uuid) -> StateRecord {
    record.writer = writer;
    record.sequence = 0;
    record
}
