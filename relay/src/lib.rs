//! The relay: tails PostgreSQL's logical replication for outbox inserts and publishes them, keyed by
//! entity, to Kafka.
//!
//! How its connections to PostgreSQL are protected is [`outbox_postgres_link`]'s, the port on which it says how it is
//! [`outbox_admin_port`]'s. The modules in the order of the data path:
//!
//! | module | what it owns |
//! |---|---|
//! | [`wire`] | the thin replication connection: start-up, SCRAM, framing |
//! | [`reader`] | the thread that reads frames in chunks, and feedback on its own clock |
//! | [`pgoutput`] | the decoder, in place |
//! | [`router`] | an Insert becomes a record by a compiled plan; partition choice |
//! | [`ledger`] | what may be confirmed; nothing else computes a position |
//! | [`publisher`] | librdkafka: idempotent, gapless, bounded in flight |
//! | [`quarantine`] | rows that cannot be published, and the events that wait behind them |
//! | [`state`] | what the relay remembers, on Kafka |
//! | [`session`] | ownership, comparison at start, the run and its one typed end |
//! | [`fill`] | publishing what no slot can bring, from the table |
//! | `cleanup` | removing what is published from the table |
//! | [`lane`] | one slot with its pipeline, from session to session |
//! | [`observe`], [`admin`] | what is seen from outside |
//! | [`config`], [`commands`] | settings and the command line |

pub mod admin;
mod cleanup;
pub mod commands;
pub mod config;
pub mod fill;
pub mod lane;
pub mod ledger;
pub mod lsn;
pub mod observe;
pub mod pgoutput;
pub mod publisher;
pub mod quarantine;
pub mod reader;
pub mod router;
pub mod session;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
pub mod state;
pub mod wire;

#[cfg(test)]
mod damage;
