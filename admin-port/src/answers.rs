//! Which request gets which answer.

use std::fmt::Display;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

/// What a program says of itself. Every method is called on the port's own tasks, by many requests at once, and must
/// not wait: neither for a server nor for the data path.
pub trait Answers: Send + Sync + 'static {
    /// Looks at whether anything moves; called once a second as long as the port serves.
    fn look(&self);

    /// Why it is not ready, in one line; `None` where it is.
    fn not_ready(&self) -> Option<String>;

    /// The answer of `/status`.
    fn status(&self) -> impl Serialize;

    /// The answer of `/metrics`, Prometheus text.
    ///
    /// # Errors
    /// What whoever asked is told beside the code 500. Logging it is the program's.
    fn metrics(&self) -> Result<String, impl Display>;
}

pub(crate) fn surface<A: Answers>(answers: Arc<A>) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready::<A>))
        .route("/status", get(status::<A>))
        .route("/metrics", get(metrics::<A>))
        .fallback(elsewhere)
        .method_not_allowed_fallback(reading_only)
        .with_state(answers)
}

async fn live() -> &'static str {
    "live\n"
}

async fn ready<A: Answers>(State(answers): State<Arc<A>>) -> Response {
    match answers.not_ready() {
        None => "ready\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status<A: Answers>(State(answers): State<Arc<A>>) -> Response {
    Json(answers.status()).into_response()
}

async fn metrics<A: Answers>(State(answers): State<Arc<A>>) -> Response {
    match answers.metrics() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn elsewhere() -> (StatusCode, &'static str) {
    (StatusCode::NOT_FOUND, "not here; there is /live, /ready, /status and /metrics\n")
}

async fn reading_only() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "this port is for reading: GET only\n")
}
