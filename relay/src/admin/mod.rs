//! The admin port: what a person, a probe and a scraper may ask of a running relay.
//!
//! It listens on loopback by default and offers reading only:
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
//! The port cannot slow the data path: values come from the atomics of [`Observed`], at most
//! [`listener::MAX_CONNECTIONS`] connections are served at once, and one on which nothing moves is
//! closed.

pub mod lag;
pub mod listener;
pub mod metrics;
pub mod rates;
pub mod readiness;
pub mod status;
mod watch;

#[cfg(test)]
mod tests;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::config::AdminSettings;
use crate::observe::Observed;
use listener::BoundedListener;
use metrics::Metrics;
use watch::Watch;

/// How long open connections may take to end once the port is told to close. A client that sends
/// nothing must not hold up the end of the relay.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the relay is called, as `/status` and the metrics' labels show it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The relay's name.
    pub relay: String,
    /// Its replication slot.
    pub slot: String,
    /// Its publication.
    pub publication: String,
    /// Version of the program.
    pub version: String,
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
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let listener = TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => AdminError::InUse { address, source },
        _ => AdminError::Bind { address, source },
    })?;
    let bound = listener.local_addr().map_err(|source| AdminError::Bind { address, source })?;
    tracing::info!(address = %bound, "admin port open: /live /ready /status /metrics");
    Ok(listener)
}

/// Serves the admin port until `shutdown` resolves; open answers then have a second to finish.
///
/// Keep it running while the relay drains, so that `/ready` says `draining`. It samples the progress
/// once a second in the same task, so whoever awaits this owns all of it.
///
/// # Errors
///
/// [`AdminError::Metrics`] before anything is served, [`AdminError::Serve`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    observed: Arc<Observed>,
    identity: Identity,
    settings: AdminSettings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), AdminError> {
    let metrics = Metrics::new(&identity.relay)?;
    let watch = Arc::new(Watch::new(identity, observed, settings.stalled_after));
    let surface = surface(Arc::new(Admin { watch: watch.clone(), metrics }));

    let (closing, closed) = tokio::sync::oneshot::channel();
    let serving = axum::serve(BoundedListener::new(listener), surface).with_graceful_shutdown(async move {
        shutdown.await;
        // Nobody listens only if serving is already over.
        let _ = closing.send(());
    });
    let deadline = async {
        // A dropped sender means that `serving` ended, and then the other arm is ready too.
        let _ = closed.await;
        tokio::time::sleep(CLOSE_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        result = serving.into_future() => result.map_err(AdminError::Serve),
        () = deadline => Ok(()),
        () = watch.run() => Ok(()),
    }
}

struct Admin {
    watch: Arc<Watch>,
    metrics: Metrics,
}

fn surface(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .fallback(elsewhere)
        .method_not_allowed_fallback(reading_only)
        .with_state(admin)
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    match admin.watch.status().reason {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Json<status::Status> {
    Json(admin.watch.status())
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    match admin.metrics.scrape(admin.watch.status()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn elsewhere() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not here; there is /live, /ready, /status and /metrics\n")
}

async fn reading_only() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "this port is for reading: GET only\n")
}
