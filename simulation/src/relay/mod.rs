//! The relay: the real cores of its sessions (ledger, course of the stream, window and delivery reports, refusals, state
//! record and its drafts, comparison, holds, decisions, recall, feedback's clock) among a PostgreSQL, a Kafka and processes
//! that are models.
//!
//! | module | what it owns |
//! |---|---|
//! | [`source`] | PostgreSQL: log, slot, streams, the lane's lock, the quarantine's table; restarts, failovers, restored disks |
//! | [`broker`] | Kafka: producers and their requests, the topic, the state record's place |
//! | [`process`] | a relay: owning, and the threads of a session, step by step |
//! | [`around`], [`world`] | what they share; whose step is next, and what goes wrong |
//! | [`judge`] | what must hold |

pub mod around;
pub mod broker;
pub mod judge;
mod mutant;
pub mod process;
pub mod source;
pub mod world;

pub use mutant::Mutant;
