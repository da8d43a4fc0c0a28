//! The consumer side of the transactional outbox. Only its pure cores are written so far; see the README
//! beside this crate.
//!
//! | module | what it decides |
//! |---|---|
//! | [`frontier`] | which offset of a partition may be committed |
//! | [`metadata`] | the text that goes with a commit |
//! | [`journal`] | which record kills the process, and which handler may start |
//! | [`keys`] | which record runs next: FIFO per key, one run of a key at a time |
//! | [`intake`] | when to stop reading, and of which partitions |
//! | [`ladder`] | what follows a failed attempt, and when to stop because everything fails |

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
