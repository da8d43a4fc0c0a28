//! The admin port of a consumer, where one is asked for: reading only, on loopback unless told otherwise.
//!
//! | request | answer |
//! |---|---|
//! | `GET /live` | 200 `live` as long as the process serves |
//! | `GET /ready` | 200 `ready` while events move or there is nothing to do, else 503 and one line that says why |
//! | `GET /status` | JSON for people and scripts |
//! | `GET /metrics` | Prometheus text |
//!
//! The rules are those of the relay's port, and so is the port itself, [`outbox_admin_port`]'s: connections are bounded in
//! number and patience, and nothing here can slow the data path.

mod readiness;

use std::fmt::{self, Display};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry_sdk::error::OTelSdkError;
use outbox_admin_port::{Answers, Exporter, Port, may_be_on};
use parking_lot::Mutex;
use serde::Serialize;

use super::status::Status;
use super::{Metrics, SCOPE};
use crate::outcome::sentence;
use readiness::Progress;

/// Why there is no admin port. A `main` that returns it prints its `Debug`: the sentence, with what it came from.
#[derive(thiserror::Error)]
pub enum AdminError {
    /// Something listens there already, or the address is not of this machine.
    #[error("the admin port cannot listen on {address}; choose another address (port 0 takes a free one)")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The exporter could not be built.
    #[error("the metrics exporter could not be built")]
    Exporter(#[from] OTelSdkError),
}

impl fmt::Debug for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sentence(self))
    }
}

/// An address as `admin()` and `OUTBOX_ADMIN` take it: `address:port`, or a port on loopback.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn address(text: &str, allow_remote: bool) -> Result<SocketAddr, String> {
    let text = text.trim();
    let loopback = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let parsed = text.parse::<u16>().map(loopback).or_else(|_| text.parse::<SocketAddr>());
    let address = parsed.map_err(|_| {
        format!(
            "the admin port {text:?} is no address: 127.0.0.1:9465, or a port alone, which is on loopback"
        )
    })?;
    if may_be_on(address, allow_remote) {
        return Ok(address);
    }
    Err(format!(
        "the admin port {address} is not on loopback, and it asks for no password; where the network around it is \
         trusted call admin_allow_remote(), or set OUTBOX_ADMIN_ALLOW_REMOTE=true"
    ))
}

/// An open port.
pub(crate) struct Admin {
    port: Port,
    page: Arc<Page>,
}

/// What the requests share.
struct Page {
    metrics: Metrics,
    exporter: Exporter,
    progress: Mutex<Progress>,
    begun: Instant,
}

/// The answer of `/status`.
#[derive(Serialize)]
struct Answer {
    ready: bool,
    reason: Option<String>,
    #[serde(flatten)]
    status: Status,
}

impl Admin {
    /// Opens the port and announces it. `stalled_after` is how long nothing may be settled while there is something to
    /// do, before `/ready` says so.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub(crate) async fn open(
        address: SocketAddr,
        metrics: Metrics,
        stalled_after: Duration,
    ) -> Result<Admin, AdminError> {
        let port = Port::open(address).await.map_err(|source| AdminError::Bind { address, source })?;
        let exporter = Exporter::new()?;
        metrics.publish(&exporter.meter(SCOPE));
        tracing::info!(address = %port.address(), "admin port open: /live /ready /status /metrics");
        let progress = Mutex::new(Progress::new(stalled_after));
        Ok(Admin { port, page: Arc::new(Page { metrics, exporter, progress, begun: Instant::now() }) })
    }

    /// Serves until `shutdown` resolves; open answers then have a second to finish. To be run while the consumer
    /// drains, so that `/ready` says so.
    pub(crate) async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        if let Err(error) = self.port.serve(self.page, shutdown).await {
            tracing::warn!(%error, "the admin port stopped serving");
        }
    }
}

impl Page {
    /// What is seen now, and why it is not ready, if so.
    fn see(&self) -> (Arc<Status>, Option<String>) {
        let status = self.metrics.status();
        let at = self.begun.elapsed();
        let mut progress = self.progress.lock();
        progress.observe(at, &status, self.metrics.settled_so_far());
        let reason = progress.reason(at, &status);
        (status, reason)
    }
}

impl Answers for Page {
    fn look(&self) {
        self.see();
    }

    fn not_ready(&self) -> Option<String> {
        self.see().1
    }

    fn status(&self) -> impl Serialize {
        let (status, reason) = self.see();
        Answer { ready: reason.is_none(), reason, status: Arc::unwrap_or_clone(status) }
    }

    fn metrics(&self) -> Result<String, impl Display> {
        self.exporter.text().inspect_err(|error| tracing::warn!(%error, "metrics could not be written"))
    }
}

#[cfg(test)]
mod tests;
