//! The consumer side of the transactional outbox. Only its pure cores are written so far; see the README
//! beside this crate.
//!
//! | module | what it decides |
//! |---|---|
//! | [`frontier`] | which offset of a partition may be committed |

#[doc(hidden)]
pub mod frontier;
#[doc(hidden)]
pub mod lane;
