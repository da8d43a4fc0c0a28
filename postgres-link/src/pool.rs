//! A bounded pool of connections to one database.
//!
//! | file | what it owns |
//! |---|---|
//! | [`lease`] | one connection as long as somebody has it, and whether it comes back |
//! | this one | how many there are, who waits, and what stands idle |
//!
//! It is our own because what matters here is when a connection must *not* come back, and because a connection is
//! made by [`Link::connect`], whose errors deadpool-postgres has no place for (its `Connect` returns the driver's).
//!
//! What comes back is looked at before anybody else gets it: a question is sent behind whatever was sent before,
//! and only an answer in time, from outside a transaction, lets the connection stay. So a transaction that was
//! dropped is rolled back first, one that was left open by hand ends its connection, and nobody inherits a
//! statement that hangs. Settings, temporary tables and session locks of a lease do come back with it.
//!
//! The bound is one of connections. A backend that is let go of in the middle of a statement may run on for a
//! while: cancel it ([`Lease::cancel`]) where that matters.

pub mod lease;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::connect::LinkError;
use crate::link::Link;
use crate::session::Session;
use lease::Held;
pub use lease::Lease;

/// A connection that comes back has to say within this that it is idle.
const ANSWER: Duration = Duration::from_secs(5);
/// One that stood idle for longer is asked again before it is handed out. A server that goes says so at once;
/// this is for one that vanished, and for whatever stands between and forgets connections.
const STALE: Duration = Duration::from_secs(30);

/// Why there is no connection to have.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// All are in use, and none came back in time.
    #[error("all {size} connections to the database are in use, and none came back within {} ms", within.as_millis())]
    Busy {
        /// How many there are.
        size: usize,
        /// How long was waited.
        within: Duration,
    },
    /// There was room for one, and no time left to make it.
    #[error("no connection to the database could be made within {} ms", within.as_millis())]
    Late {
        /// How long was waited.
        within: Duration,
    },
    /// A connection could not be made.
    #[error("no connection to the database")]
    Link(#[from] LinkError),
    /// The pool was closed.
    #[error("the pool of connections is closed")]
    Closed,
}

impl PoolError {
    /// Whether waiting mends nothing.
    pub fn is_permanent(&self) -> bool {
        match self {
            PoolError::Busy { .. } | PoolError::Late { .. } => false,
            PoolError::Link(error) => error.is_permanent(),
            PoolError::Closed => true,
        }
    }
}

/// What a pool is doing, for metrics. The last four only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLook {
    /// The most connections there may be.
    pub size: usize,
    /// Connections that somebody has, being made for somebody, or being looked at after they came back.
    pub in_use: usize,
    /// Connections that stand ready.
    pub idle: usize,
    /// Callers that wait for one.
    pub waiting: usize,
    /// How often a caller had to wait for one to come back.
    pub waits: u64,
    /// Connections that were made.
    pub opened: u64,
    /// Connections that were discarded by whoever had them.
    pub discarded: u64,
    /// Connections that were found broken, or not idle when they came back.
    pub broken: u64,
}

#[derive(Debug, Default)]
struct Figures {
    waiting: AtomicUsize,
    waits: AtomicU64,
    opened: AtomicU64,
    discarded: AtomicU64,
    broken: AtomicU64,
}

/// A connection that nobody has.
struct Idle {
    held: Held,
    since: Instant,
}

struct Inner {
    link: Link,
    session: Session,
    size: usize,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// The drivers of all connections, and what looks at those that come back. Dropped with the pool, they end.
    tasks: Mutex<JoinSet<()>>,
    runtime: Handle,
    figures: Figures,
}

/// The pool; its clones are one.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

/// Counts a caller as long as it waits, also one that gives up.
struct Waiting<'a>(&'a Figures);

impl<'a> Waiting<'a> {
    fn begin(figures: &'a Figures) -> Waiting<'a> {
        figures.waits.fetch_add(1, Relaxed);
        figures.waiting.fetch_add(1, Relaxed);
        Waiting(figures)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Pool {
    /// Of at most `size` connections (at least one), each of which begins as `session` says. Nothing is connected
    /// yet.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime, on which the connections are driven.
    pub fn new(link: Link, session: Session, size: usize) -> Pool {
        let size = size.clamp(1, Semaphore::MAX_PERMITS);
        Pool(Arc::new(Inner {
            link,
            session,
            size,
            permits: Arc::new(Semaphore::new(size)),
            idle: Mutex::new(Vec::new()),
            tasks: Mutex::new(JoinSet::new()),
            runtime: Handle::current(),
            figures: Figures::default(),
        }))
    }

    /// A connection that is idle: the one that came back last, or a new one.
    ///
    /// # Errors
    ///
    /// As [`PoolError`] says; never later than `within`, all waiting included.
    pub async fn get(&self, within: Duration) -> Result<Lease, PoolError> {
        let deadline = Instant::now() + within;
        let permit = self.permit(deadline, within).await?;
        let found = timeout_at(deadline, async {
            match self.ready().await {
                Some(held) => Ok(held),
                // Boxed, as it is seldom wanted: every wait for a connection would carry what it needs.
                None => Box::pin(self.make()).await,
            }
        });
        let held = found.await.map_err(|_| PoolError::Late { within })??;
        Ok(Lease::new(held, permit, self.0.clone()))
    }

    async fn permit(&self, deadline: Instant, within: Duration) -> Result<OwnedSemaphorePermit, PoolError> {
        if let Ok(permit) = self.0.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        let _waiting = Waiting::begin(&self.0.figures);
        match timeout_at(deadline, self.0.permits.clone().acquire_owned()).await {
            Ok(permit) => permit.map_err(|_| PoolError::Closed),
            Err(_) => Err(PoolError::Busy { size: self.0.size, within }),
        }
    }

    /// One of those that stand idle, if any is good. The newest first: the others may grow old in peace.
    async fn ready(&self) -> Option<Held> {
        loop {
            let Idle { held, since } = self.0.idle.lock().pop()?;
            let good = !held.is_closed()
                && (since.elapsed() < STALE || matches!(timeout(ANSWER, held.is_idle()).await, Ok(Ok(true))));
            if good {
                return Some(held);
            }
            self.0.figures.broken.fetch_add(1, Relaxed);
            held.abort();
        }
    }

    async fn make(&self) -> Result<Held, PoolError> {
        let (client, driver) = self.0.link.connect(&self.0.session).await?;
        self.0.figures.opened.fetch_add(1, Relaxed);
        let place = self.0.link.place();
        let driving = self.0.spawn(async move {
            // Whoever has the connection is told by its next statement.
            if let Err(error) = driver.await {
                tracing::debug!(%error, place, "a connection of the pool ended");
            }
        });
        let held = Held::new(client, driving);
        // Whoever closed the pool meanwhile does not know of this one.
        if self.0.permits.is_closed() {
            held.abort();
            return Err(PoolError::Closed);
        }
        Ok(held)
    }

    /// What it is doing now.
    pub fn look(&self) -> PoolLook {
        let Inner { size, permits, figures, idle, .. } = &*self.0;
        PoolLook {
            size: *size,
            in_use: size.saturating_sub(permits.available_permits()),
            idle: idle.lock().iter().filter(|idle| !idle.held.is_closed()).count(),
            waiting: figures.waiting.load(Relaxed),
            waits: figures.waits.load(Relaxed),
            opened: figures.opened.load(Relaxed),
            discarded: figures.discarded.load(Relaxed),
            broken: figures.broken.load(Relaxed),
        }
    }

    /// Hands out nothing any more, lets those that stand idle say goodbye, and waits until all others came back
    /// and are closed, at most `within`; then those are cut. Whether none had to be.
    pub async fn close(&self, within: Duration) -> bool {
        self.0.permits.close();
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock());
        self.0.idle.lock().clear();
        let ended = async { while tasks.join_next().await.is_some() {} };
        let all = timeout(within, ended).await.is_ok();
        tasks.shutdown().await;
        all
    }
}

impl Inner {
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> tokio::task::AbortHandle {
        let mut tasks = self.tasks.lock();
        // What has ended is let go of, so that the set is as small as the pool.
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime)
    }

    /// Takes a connection back of which the caller knows that it is idle.
    fn take_back_idle(&self, held: Held, permit: OwnedSemaphorePermit) {
        if held.is_closed() {
            self.figures.broken.fetch_add(1, Relaxed);
            return;
        }
        let mut idle = self.idle.lock();
        // Of a closed pool it says goodbye.
        if !self.permits.is_closed() {
            idle.push(Idle { held, since: Instant::now() });
        }
        drop(idle);
        drop(permit);
    }

    /// Takes a connection back, behind a look at it; its place is free once it has been looked at.
    fn take_back(self: &Arc<Inner>, held: Held, permit: OwnedSemaphorePermit) {
        if held.is_closed() {
            self.figures.broken.fetch_add(1, Relaxed);
            return;
        }
        // Of a closed pool it says goodbye behind what was sent before.
        if self.permits.is_closed() {
            return;
        }
        let pool = self.clone();
        self.spawn(async move {
            let good = matches!(timeout(ANSWER, held.is_idle()).await, Ok(Ok(true)));
            if good {
                let mut idle = pool.idle.lock();
                // Looked at under the lock, so that none comes in behind the one who closes the pool.
                if !pool.permits.is_closed() {
                    idle.push(Idle { held, since: Instant::now() });
                }
            } else {
                pool.figures.broken.fetch_add(1, Relaxed);
                held.abort();
            }
            drop(permit);
        });
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({}: {:?})", self.0.link.describe(), self.look())
    }
}
