//! `make bench-consumer`: what the consumer makes of a topic that is full, beside a bare poll loop and beside
//! `pgbench`, and the time from record to commit under a steady load.
//!
//! | module | what it owns |
//! |---|---|
//! | [`plan`] | what is measured, and how often |
//! | [`ground`] | servers, topics, tables |
//! | [`preload`] | the events of a topic |
//! | [`job`] | the process that is measured: a consumer, or the bare loop |
//! | [`instance`] | that process, seen from here |
//! | [`drain`] | one topic drained, and bursts |
//! | [`pgbench`] | the same transaction without a consumer |
//! | [`latency`] | the open loop |
//! | [`measure`] | every measurement, in its order |
//! | [`results`] | what was measured |
//! | [`verdict`] | which requirement is met |
//! | [`report`] | the report: its text and tables |
//! | [`plots`] | its plots |
//!
//! Whatever is measured runs in a process of its own, so that its processor time and memory are its own.

pub mod drain;
pub mod ground;
pub mod instance;
pub mod job;
pub mod latency;
pub mod measure;
pub mod pgbench;
pub mod plan;
pub mod plots;
pub mod preload;
pub mod report;
pub mod results;
pub mod verdict;
