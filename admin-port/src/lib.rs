//! The port on which the programs of the transactional outbox say how they are.
//!
//! | request | answer |
//! |---|---|
//! | `GET /live` | 200 `live` as long as the process serves; says nothing about progress |
//! | `GET /ready` | 200 `ready`, else 503 and one line that says why |
//! | `GET /status` | JSON for people and scripts |
//! | `GET /metrics` | Prometheus text |
//!
//! | module | what it owns |
//! |---|---|
//! | [`address`] | where the port may be |
//! | [`port`] | the open port, from the first request until open answers have had their second |
//! | [`listener`] | its connections, bounded in number and in patience |
//! | [`answers`] | which request gets which answer; what a program says of itself |
//! | [`exporter`] | instruments of OpenTelemetry as Prometheus text |
//!
//! What ready means, and what the status and the metrics hold, is each program's own.

pub mod address;
pub mod answers;
pub mod exporter;
pub mod listener;
pub mod port;
#[cfg(any(test, feature = "trial"))]
pub mod trial;

pub use address::may_be_on;
pub use answers::Answers;
pub use exporter::Exporter;
pub use port::Port;

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
