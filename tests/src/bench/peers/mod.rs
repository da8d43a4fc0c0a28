//! `make bench`: the relay beside Debezium, by its server and by Kafka Connect, and the consumer beside Confluent Parallel
//! Consumer and Spring Kafka. Their configurations and programs are in `tests/peers`.
//!
//! | module | what it owns |
//! |---|---|
//! | [`plan`] | what is measured, and how often |
//! | [`configuration`] | the files and jars of `tests/peers` |
//! | [`relays`] | who drains an outbox, as a process |
//! | [`capture`] | one backlog drained by each, and the open loop |
//! | [`topic`] | how much of a backlog is on the log |
//! | [`consumers`] | who consumes a topic, as a process |
//! | [`consume`] | one topic drained by each |
//! | [`results`] | what was measured |
//! | [`plots`] | the plots of the report |
//! | [`report`] | the tables, with those of the two other benchmarks |
//!
//! A round measures everybody once, forwards and backwards in turn, so a ratio is of two runs of one round. Every system
//! works through a part of its backlog before anything counts: a Java virtual machine compiles what it runs while it runs.

pub mod capture;
pub mod configuration;
pub mod consume;
pub mod consumers;
pub mod plan;
pub mod plots;
pub mod relays;
pub mod report;
pub mod results;
pub mod topic;

pub use results::Results;
