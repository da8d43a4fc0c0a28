//! Simulates the consumer: its real cores (`runtime::engine` with `keys`, `frontier`, `journal`, `intake`, `metadata`;
//! `ladder`) among a log, groups, a database and processes that are models, with a clock that is a number and a
//! scheduler that draws every step from a seed. What must hold is looked at with every step; a schedule in which it did
//! not is made short and can be run again from its text.
//!
//! | module | what it owns |
//! |---|---|
//! | [`schedule`] | the small integers that say all that happens |
//! | [`log`], [`group`], [`database`] | the world: topic, coordinator, settlements and markers |
//! | [`process`] | the client's thread, the workers and the task for parked keys, step by step |
//! | [`around`], [`world`] | what they share; whose step is next, and what goes wrong |
//! | [`judge`] | what must hold |
//! | [`shrink`], [`explore`] | runs, many of them, and the short form of one that failed |

pub mod around;
pub mod database;
pub mod explore;
pub mod group;
pub mod judge;
pub mod log;
mod mutant;
pub mod process;
pub mod schedule;
pub mod shrink;
pub mod world;

#[cfg(test)]
mod tests;

pub use mutant::Mutant;
