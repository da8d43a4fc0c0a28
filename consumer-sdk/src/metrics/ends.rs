//! The thread that asks where the logs end: one question to each broker for all partitions, every few seconds.
//!
//! The client itself knows the end only of partitions that it fetches from; of a paused one, where lag matters most, its
//! number would stand still. The thread holds the client weakly, so that it never keeps it from leaving the group.

use std::collections::HashMap;
use std::sync::{Weak, mpsc};
use std::time::Duration;

use rdkafka::consumer::base_consumer::BaseConsumer;
use rdkafka::consumer::{Consumer, ConsumerContext};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};

use super::Metrics;

/// Time between two questions.
const EVERY: Duration = Duration::from_secs(5);
/// Limit of one.
const LIMIT: Duration = Duration::from_secs(2);

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch(#[expect(dead_code, reason = "dropped, it hangs up")] mpsc::Sender<()>);

/// Topic, partition, and where its log ends.
type Ends = HashMap<(String, i32), i64>;

/// Starts the thread, which also tells `hears` each answer. Without it there is no lag, and everything else goes on.
pub(crate) fn watch<C>(
    consumer: Weak<BaseConsumer<C>>,
    topics: &[String],
    metrics: Metrics,
    hears: impl Fn(Ends) + Send + 'static,
) -> Watch
where
    C: ConsumerContext + 'static,
{
    let (sender, hung_up) = mpsc::channel();
    let first = topics.first().cloned();
    let ask = move || {
        while let Err(mpsc::RecvTimeoutError::Timeout) = hung_up.recv_timeout(EVERY) {
            let Some(consumer) = consumer.upgrade() else { return };
            match look(&consumer, first.as_deref()) {
                Ok(ends) => {
                    metrics.kafka_answered();
                    ends.iter()
                        .for_each(|((topic, partition), end)| metrics.log_ends(topic, *partition, *end));
                    hears(ends);
                }
                Err(error) => tracing::debug!(%error, "asking where the logs end"),
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("lag".into()).spawn(ask) {
        tracing::warn!(%error, "no thread to watch the lag on: it will not be known");
    }
    Watch(sender)
}

/// Where the logs of the assigned partitions end, for whoever reads committed records; a partition that does not answer
/// is left out. With no partition the cluster is asked for the topic, to know that it answers.
fn look<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: Option<&str>) -> KafkaResult<Ends> {
    let assigned = consumer.assignment()?;
    if assigned.count() == 0 {
        consumer.fetch_metadata(topic, LIMIT)?;
        return Ok(HashMap::new());
    }
    let mut question = TopicPartitionList::with_capacity(assigned.count());
    for element in assigned.elements() {
        // Asked for the time -1 a broker answers with the end.
        question.add_partition_offset(element.topic(), element.partition(), Offset::End)?;
    }
    let answer = consumer.offsets_for_times(question, LIMIT)?;
    let ends =
        answer.elements().into_iter().filter_map(|element| match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(end)) => Some(((element.topic().to_owned(), element.partition()), end)),
            _ => None,
        });
    Ok(ends.collect())
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

    use super::*;

    #[test]
    fn ends_are_known_also_of_partitions_that_are_not_read() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 2, 1).unwrap();
        let config = |more: &[(&str, &str)]| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", cluster.bootstrap_servers());
            for (name, value) in more {
                config.set(*name, *value);
            }
            config
        };
        let producer: BaseProducer = config(&[]).create().unwrap();
        for _ in 0..3 {
            producer.send(BaseRecord::<str, str>::to("t").partition(1).payload("x")).unwrap();
        }
        producer.flush(Duration::from_secs(20)).unwrap();
        let consumer: BaseConsumer = config(&[("group.id", "g")]).create().unwrap();
        assert_eq!(look(&consumer, Some("t")).unwrap(), HashMap::new());
        let mut assigned = TopicPartitionList::new();
        assigned.add_partition_offset("t", 0, Offset::Offset(0)).unwrap();
        assigned.add_partition_offset("t", 1, Offset::Offset(0)).unwrap();
        consumer.assign(&assigned).unwrap();
        consumer.pause(&assigned).unwrap();
        let ends = look(&consumer, Some("t")).unwrap();
        assert_eq!(ends, HashMap::from([(("t".to_owned(), 0), 0), (("t".to_owned(), 1), 3)]));
    }
}
