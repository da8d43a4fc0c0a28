//! How the programs of the transactional outbox connect to Kafka.
//!
//! | module | what it owns |
//! |---|---|
//! | [`protocol`] | whether TLS is spoken and a login made: the one place that decides it |
//! | [`options`] | librdkafka's options: what it knows and takes, and which are secrets |
//! | [`link`] | one cluster as a consumer's settings name it |
//! | [`trouble`] | why a broker cannot be spoken to, in a sentence with what to do |
//! | [`Unwaited`] | a client whose end nobody waits for |
//!
//! The relay takes all but [`link`], since its options have keys of their own; consumers and their tool take
//! [`Link`].

pub mod link;
pub mod options;
pub mod protocol;
pub mod trouble;
mod unwaited;

pub use link::Link;
pub use unwaited::Unwaited;

/// The README's example is compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
