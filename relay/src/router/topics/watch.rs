//! Looks at the cluster now and then, beside the router: have topics grown, are they set up anew, and how
//! old may a record be by now?

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::error::KafkaError;

use super::cluster::{Cluster, Look};
use super::table::Table;
use crate::session::Ending;

/// Starts the thread that looks. It ends with the session.
///
/// # Errors
/// The system has no thread to give.
pub fn spawn(
    cluster: Arc<Cluster>,
    table: Arc<Table>,
    every: Duration,
    ending: Arc<Ending>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name("topics".into()).spawn(move || {
        while !ending.is_over() {
            table.follow(jiff::Timestamp::now().as_millisecond());
            if let Err(error) = look(&cluster, &table) {
                // The data path meets the same trouble and says it.
                tracing::debug!(%error, "looking at the topics");
            }
            ending.pause(every);
        }
    })
}

fn look(cluster: &Cluster, table: &Table) -> Result<(), KafkaError> {
    for (topic, look) in cluster.look_at_all(&table.topics())? {
        match look {
            Look::There(shape) => table.saw(&topic, shape.partitions),
            // Said where the topic is needed; one that nobody routes to any more may well be gone.
            Look::Missing | Look::Illegal | Look::Unauthorized => {
                tracing::debug!(topic, ?look, "a pinned topic is not to be seen");
            }
        }
    }
    for (topic, facts) in cluster.describe(&table.used())? {
        table.learn(&topic, facts, jiff::Timestamp::now().as_millisecond());
    }
    Ok(())
}
