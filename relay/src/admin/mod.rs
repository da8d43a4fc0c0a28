//! The admin port: what a person, a probe and a scraper may ask of a running relay.
//!
//! It listens on loopback by default and offers reading only; the port itself is [`outbox_admin_port`]'s:
//!
//! | request | answer |
//! |---|---|
//! | `GET /live` | 200 `live` as long as the process serves; says nothing about progress |
//! | `GET /ready` | 200 `ready` while events move or everything is recorded, else 503 and one line that says why ([`readiness`]) |
//! | `GET /status` | JSON for people and scripts: phase, positions, lag, rates, last error ([`status`]) |
//! | `GET /metrics` | the same values as Prometheus text ([`metrics`]) |
//!
//! Every field and every metric is described in `docs/metrics.md`; a test holds the document to what
//! is served. Payloads, keys and credentials are never part of an answer.
//!
//! Of a relay with several lanes, `/ready` is that of all of them and names those that are not; `/status` has each lane's
//! status under `lanes`; the metrics of a lane carry its label.
//!
//! The port cannot slow the data path: values come from the atomics of [`Observed`], and connections are bounded in
//! number and in patience.

pub mod lag;
pub mod metrics;
pub mod rates;
pub mod readiness;
pub mod status;
mod watch;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use outbox_admin_port::{Answers, Port};
use serde::Serialize;

use crate::config::AdminSettings;
use crate::observe::Observed;
use metrics::Metrics;
use watch::Watch;

/// One lane as the port shows it.
#[derive(Debug, Clone)]
pub struct Watched {
    /// What it is called.
    pub identity: Identity,
    /// What is seen of it.
    pub observed: Arc<Observed>,
}

/// What the relay is called, as `/status` and the metrics' labels show it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The relay's name.
    pub relay: String,
    /// The lane's, where lanes are listed; otherwise nothing that is shown speaks of lanes.
    pub lane: Option<String>,
    /// Its replication slot.
    pub slot: String,
    /// Its publication.
    pub publication: String,
    /// Version of the program.
    pub version: String,
    /// `delivery.guarantee`.
    pub guarantee: &'static str,
    /// When the process began; uptime is measured from here.
    pub started_at: Instant,
}

/// Why the admin port could not be opened or stopped serving.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something else listens there.
    #[error(
        "the admin port {address} is in use; stop what holds it, or set `admin.listen` to another address \
         (port 0 takes a free one)"
    )]
    InUse {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The address cannot be listened on: not of this machine, or not allowed.
    #[error("the admin port cannot listen on {address}; check `admin.listen`")]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics could not be set up.
    #[error("the metrics could not be set up")]
    Metrics(#[from] metrics::MetricsError),
    /// The listener failed while serving.
    #[error("the admin port stopped serving")]
    Serve(#[source] io::Error),
}

/// Opens the admin port and announces the address that was bound, which with port 0 is known only now.
///
/// # Errors
///
/// [`AdminError::InUse`] or [`AdminError::Bind`], both with what to do.
pub async fn bind(address: SocketAddr) -> Result<Port, AdminError> {
    let port = Port::open(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::InUse { address, source },
        _ => AdminError::Bind { address, source },
    })?;
    tracing::info!(address = %port.address(), "admin port open: /live /ready /status /metrics");
    Ok(port)
}

/// Serves the admin port for all lanes of a relay until `shutdown` resolves; open answers then have a second to finish.
///
/// Keep it running while the relay drains, so that `/ready` says `draining`. It samples the progress
/// once a second in the same task, so whoever awaits this owns all of it.
///
/// # Errors
///
/// [`AdminError::Metrics`] before anything is served, [`AdminError::Serve`] when the listener fails.
pub async fn serve(
    port: Port,
    lanes: Vec<Watched>,
    settings: AdminSettings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let metrics = Metrics::new(lanes.iter().map(|lane| &lane.identity))?;
    let watch = |lane: Watched| Watch::new(lane.identity, lane.observed, settings.stalled_after);
    let admin = Admin { lanes: lanes.into_iter().map(watch).collect(), metrics };
    port.serve(Arc::new(admin), shutdown).await.map_err(AdminError::Serve)
}

struct Admin {
    lanes: Vec<Watch>,
    metrics: Metrics,
}

impl Answers for Admin {
    fn look(&self) {
        self.lanes.iter().for_each(Watch::sample);
    }

    fn not_ready(&self) -> Option<String> {
        status::reason(&self.lanes.iter().map(Watch::status).collect::<Vec<_>>())
    }

    fn status(&self) -> impl Serialize {
        status::page(self.lanes.iter().map(Watch::status).collect())
    }

    fn metrics(&self) -> Result<String, impl Display> {
        self.metrics.scrape(self.lanes.iter().map(Watch::status).collect()).inspect_err(|error| {
            tracing::warn!(error = error as &dyn Error, "metrics could not be written");
        })
    }
}
