//! `make bench-relay`: one backlog drained by `pg_recvlogical` to the null device and by the relay to a real
//! broker, interleaved, and the time from commit to consumer under a steady load.
//!
//! | module | what it owns |
//! |---|---|
//! | [`plan`] | what is measured, and how often |
//! | [`machine`] | what it is measured on |
//! | [`network`] | a network namespace of its own for another congestion control |
//! | [`ground`] | servers, table and backlog |
//! | [`usage`] | processor time and memory of other processes |
//! | [`drain`] | one drain, by either reader |
//! | [`latency`] | the open loop and its consumer |
//! | [`worker`] | every measurement under one congestion control |
//! | [`results`] | what a worker hands to the report |
//! | [`figures`] | medians and quartiles |
//! | [`table`] | rows that every report has |
//! | [`alone`] | turns with others on one machine |
//! | [`verdict`] | which requirement is met |
//! | [`others`] | other systems, as further rows |
//! | [`report`] | the report: its text and tables |
//! | [`plots`] | its plots |
//!
//! Both readers of a pair read the same log from copies of one slot, the same text format through the same
//! publication. Throughput is rows by the time from the server's `START_REPLICATION` to the last row: written
//! by `pg_recvlogical`, acknowledged by the broker for the relay. The start of neither process counts.
//!
//! `make bench-consumer` is in [`consumer`], what `make bench` adds to both in [`peers`].

pub mod alone;
pub mod consumer;
pub mod drain;
pub mod figures;
pub mod ground;
pub mod latency;
pub mod machine;
pub mod messages;
pub mod network;
pub mod others;
pub mod peers;
pub mod plan;
pub mod plots;
pub mod report;
pub mod results;
pub mod table;
pub mod usage;
pub mod verdict;
pub mod worker;
