//! Dead letters: the evidence on Kafka, the decisions in PostgreSQL, and the tool between them.
//!
//! | module | what it owns |
//! |---|---|
//! | [`record`] | a record with its headers, as bytes |
//! | [`evidence`] | what is known of a failure, as headers beside the original ones |
//! | [`foreign`] | the same of Spring Kafka's and Kafka Connect's dead letters |
//! | [`topic`] | name and settings of a dead-letter topic |
//! | [`sink`] | writes a dead letter and answers when it is durable |
//! | [`projected`] | a dead letter as the row that PostgreSQL keeps of it |
//! | [`projection`] | reads the topics into `inbox.dead_letter` |
//! | [`replay`] | fetches a letter's record and puts it back into the order of its key |
//! | [`commands`] | the program `outbox-dlq` |
//!
//! A letter is never lost between the two: the topic is written before the failed record is settled, the projection
//! takes a copy up as often as it comes, and what was decided stands in PostgreSQL, where it outlives the topic.

mod client;
pub mod commands;
pub mod evidence;
pub mod foreign;
pub mod projected;
pub mod projection;
pub mod record;
pub mod replay;
pub mod sink;
pub mod topic;

pub use evidence::{Evidence, Reading};
pub use record::{Header, Record};
pub use sink::{Letter, Placed, Sink, SinkError};
