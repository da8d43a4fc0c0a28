//! Every test that needs real servers, in one program: it is linked once, and its tests share a PostgreSQL
//! and a Kafka where they do not stop them.

mod authorization;
mod bad_rows;
mod bad_settings;
mod check;
mod cluster;
mod contract;
mod crash;
mod decoder_differential;
mod demo;
mod enqueue;
mod existing;
mod formats;
mod history;
mod idle;
mod link;
mod memory;
mod outage;
mod postgres_restarts;
mod quarantine;
mod quarantine_cli;
mod quarantine_contract;
mod readme;
mod retyped;
mod slots;
mod stream;
mod takeover;
mod tls;
mod topics;
mod versions;
