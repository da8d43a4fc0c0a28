//! The consumer: its real cores (`runtime::engine` with `keys`, `frontier`, `journal`, `intake`, `metadata`; `ladder`)
//! among a log, groups, a database and processes that are models.
//!
//! | module | what it owns |
//! |---|---|
//! | [`log`], [`group`], [`database`] | the world: topic, coordinator, settlements and markers |
//! | [`process`] | the client's thread, the workers and the task for parked keys, step by step |
//! | [`around`], [`world`] | what they share; whose step is next, and what goes wrong |
//! | [`judge`] | what must hold |

pub mod around;
pub mod database;
pub mod group;
pub mod judge;
pub mod log;
mod mutant;
pub mod process;
pub mod world;

pub use mutant::Mutant;
