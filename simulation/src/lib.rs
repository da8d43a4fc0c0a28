//! Simulates the product: the real cores of consumer and relay, each half among servers and processes that are models, with
//! a clock that is a number and a scheduler that draws every step from a seed. What must hold is looked at with every
//! step; a schedule in which it did not is made short and can be run again from its text.
//!
//! | module | what it owns |
//! |---|---|
//! | [`schedule`] | the small integers that say all that happens |
//! | [`consumer`], [`relay`] | the two halves: their worlds, and what must hold in them |
//! | [`subject`] | which half, and which mistake it makes on purpose |
//! | [`verdict`] | what did not hold |
//! | [`shrink`], [`explore`] | runs, many of them, and the short form of one that failed |
//! | [`mutants`] | whether each mistake is seen, and the table of that |

pub mod consumer;
pub mod explore;
pub mod mutants;
pub mod relay;
pub mod schedule;
pub mod shrink;
pub mod subject;
pub mod verdict;

#[cfg(test)]
mod tests;

pub use subject::{Half, Mutant, Subject};
