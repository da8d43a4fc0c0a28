//! The consumer side of the transactional outbox: a handler's effect in PostgreSQL happens once, in the order
//! of its key. [`Consumer`] shows a whole program; the README beside this crate says what is not built yet.
//!
//! | module | what it owns |
//! |---|---|
//! | `consumer` | [`Consumer`]: who consumes what, with which handlers |
//! | `handler`, `event`, `outcome` | what is registered, what it gets, what it says |
//! | `tx` | [`Tx`]: the transaction that a handler's effects belong to |
//! | `database`, `kafka` | connections, and what is said of those to Kafka |
//! | `record`, `packed` | a record as it was read |
//! | `librdkafka` | versions of it that are refused |
//! | `runtime` | what runs: the Kafka client's thread, workers, parked keys |
//! | `metrics`, `trace` | what is seen of it: metrics, the admin port, spans linked to the producers' |
//! | [`frontier`] | which offset of a partition may be committed |
//! | [`metadata`] | the text that goes with a commit |
//! | [`journal`] | which record kills the process, and which handler may start |
//! | [`keys`] | which record runs next: FIFO per key, one run of a key at a time |
//! | [`intake`] | when to stop reading, and of which partitions |
//! | [`ladder`] | what follows a failed attempt, and when to stop because everything fails |

mod consumer;
mod database;
mod event;
mod handler;
mod kafka;
mod librdkafka;
mod metrics;
mod outcome;
mod packed;
mod record;
mod runtime;
mod trace;
mod tx;

pub mod dead_letters;
#[doc(hidden)]
pub mod frontier;
#[doc(hidden)]
pub mod intake;
#[doc(hidden)]
pub mod journal;
#[doc(hidden)]
pub mod keys;
pub mod ladder;
#[doc(hidden)]
pub mod lane;
#[doc(hidden)]
pub mod metadata;
/// The engine for the crate `simulation/`.
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use runtime::simulation;

pub use consumer::{Consumer, ParkLimits, RunError, Unregistered};
pub use database::DatabaseError;
pub use event::{Event, Facts, Payload, Raw, Value};
pub use handler::{
    Alone, Handler, InBatch, InTransaction, State, WithDatabase, WithoutDatabase, at_most_once, batch,
    external, idempotent, transactional,
};
pub use metrics::admin::AdminError;
pub use outbox_schema::OutboxEvent;
pub use outcome::{
    Handled, HandledBatch, HandlerError, Outcome, Outcomes, Permanent, all_done, completed, done, each,
    reject, retry_after,
};
pub use trace::TraceContext;
pub use tx::{Tx, TxError};

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
