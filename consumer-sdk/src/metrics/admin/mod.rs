//! The admin port of a consumer, where one is asked for: reading only, on loopback unless told otherwise.
//!
//! | request | answer |
//! |---|---|
//! | `GET /live` | 200 `live` as long as the process serves |
//! | `GET /ready` | 200 `ready` while events move or there is nothing to do, else 503 and one line that says why |
//! | `GET /status` | JSON for people and scripts |
//! | `GET /metrics` | Prometheus text |
//!
//! The rules are those of the relay's port, and so is the [`listener`]: connections are bounded in number and patience,
//! and nothing here can slow the data path.

mod listener;
mod readiness;

use std::future::{Future, IntoFuture};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use prometheus::{Registry, TextEncoder};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::MissedTickBehavior;

use super::status::Status;
use super::{Metrics, SCOPE};
use listener::BoundedListener;
use readiness::Progress;

/// Time between two looks at whether anything moves.
const EVERY: Duration = Duration::from_secs(1);
/// How long open connections may take to end once the consumer has.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no admin port.
#[derive(Debug, thiserror::Error)]
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
    if address.ip().is_loopback() || allow_remote {
        return Ok(address);
    }
    Err(format!(
        "the admin port {address} is not on loopback, and it asks for no password; where the network around it is \
         trusted call admin_allow_remote(), or set OUTBOX_ADMIN_ALLOW_REMOTE=true"
    ))
}

/// An open port.
pub(crate) struct Admin {
    listener: TcpListener,
    page: Arc<Page>,
}

/// What the requests share.
struct Page {
    metrics: Metrics,
    registry: Registry,
    progress: Mutex<Progress>,
    begun: Instant,
    /// The exporter only holds a weak reference to the instruments.
    _provider: SdkMeterProvider,
}

#[derive(Serialize)]
struct Answer<'s> {
    ready: bool,
    reason: Option<String>,
    #[serde(flatten)]
    status: &'s Status,
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
        let bind = |source| AdminError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let bound = listener.local_addr().map_err(bind)?;
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build()?;
        // An empty resource: nothing of the environment becomes a label.
        let resource = Resource::builder_empty().build();
        let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(exporter).build();
        metrics.publish(&provider.meter(SCOPE));
        tracing::info!(address = %bound, "admin port open: /live /ready /status /metrics");
        let progress = Mutex::new(Progress::new(stalled_after));
        let page = Page { metrics, registry, progress, begun: Instant::now(), _provider: provider };
        Ok(Admin { listener, page: Arc::new(page) })
    }

    /// Serves until `shutdown` resolves; open answers then have a second to finish. To be run while the consumer
    /// drains, so that `/ready` says so.
    pub(crate) async fn serve(self, shutdown: impl Future<Output = ()> + Send + 'static) {
        let (closing, closed) = tokio::sync::oneshot::channel();
        let serving = axum::serve(BoundedListener::new(self.listener), surface(self.page.clone()));
        let serving = serving.with_graceful_shutdown(async move {
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
            result = serving.into_future() => {
                if let Err(error) = result {
                    tracing::warn!(%error, "the admin port stopped serving");
                }
            }
            () = deadline => {}
            () = self.page.watch() => {}
        }
    }
}

impl Page {
    /// Looks once a second, for ever.
    async fn watch(&self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    /// What is seen now, and why it is not ready, if so.
    fn look(&self) -> (Arc<Status>, Option<String>) {
        let status = self.metrics.status();
        let at = self.begun.elapsed();
        let mut progress = self.progress.lock();
        progress.observe(at, &status, self.metrics.settled_so_far());
        let reason = progress.reason(at, &status);
        (status, reason)
    }
}

fn surface(page: Arc<Page>) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(scrape))
        .fallback(elsewhere)
        .method_not_allowed_fallback(reading_only)
        .with_state(page)
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready(State(page): State<Arc<Page>>) -> Response {
    match page.look().1 {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status(State(page): State<Arc<Page>>) -> Response {
    let (status, reason) = page.look();
    Json(Answer { ready: reason.is_none(), reason, status: &status }).into_response()
}

async fn scrape(State(page): State<Arc<Page>>) -> Response {
    match TextEncoder::new().encode_to_string(&page.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "metrics could not be written");
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

#[cfg(test)]
mod tests;
