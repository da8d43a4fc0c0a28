//! What needs a real PostgreSQL and a real Kafka: private servers, faults, load and the checker that
//! judges what came of it.
//!
//! | module | what it owns |
//! |---|---|
//! | [`parts`] | where the servers' programs and the built relay are |
//! | [`authority`] | a certificate authority |
//! | [`cluster`] | private PostgreSQL and Kafka processes with ports and directories of their own |
//! | [`fault`] | processes that are killed and frozen, connections that are cut, slowed and starved |
//! | [`relay`] | the built relay as a child process |
//! | [`scene`] | a database, a topic and a relay's configuration of one test |
//! | [`emitted`] | the same with events that are messages |
//! | [`outbox`] | a database with an outbox, its topics, and the configuration of its relay |
//! | [`inbox`] | a database with an inbox, and sessions that are stepped by hand |
//! | [`quarantine`] | entries of `outbox.quarantine` as a relay writes them |
//! | [`workload`] | seeded outbox traffic whose order per key can be read from the data |
//! | [`history`] | the checker: what was committed against what was published |
//! | [`wait`] | waiting on observed state |
//! | [`bench`] | what `make bench` measures, and its reports |
//! | [`chaos`] | faults of every kind at the whole product |
//! | [`page`], [`plot`] | reports as Markdown and as HTML, and their plots |
//!
//! Everything here panics with a sentence where a test cannot go on, because its callers are tests.

pub mod authority;
pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod emitted;
pub mod fault;
pub mod history;
pub mod inbox;
pub mod orders;
pub mod outbox;
pub mod page;
pub mod parts;
pub mod plot;
pub mod quarantine;
pub mod relay;
pub mod scene;
pub mod wait;
pub mod workload;
