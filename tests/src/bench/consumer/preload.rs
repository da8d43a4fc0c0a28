//! The events of a topic: an id of version 7, a type, a key by uniform choice or by Zipf's law, 200 bytes of JSON.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// The type of every event.
pub const EVENT_TYPE: &str = "OrderPlaced";

/// Events of one flush: librdkafka's queue takes them.
const WINDOW: u64 = 50_000;

/// What an event says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// Counts the events of a topic.
    pub number: i64,
    /// Fills it up.
    pub note: String,
}

/// How keys are chosen.
#[derive(Debug, Clone)]
pub enum Spread {
    /// Each as likely as the next.
    Uniform(u32),
    /// The k-th with a weight of 1/k.
    Zipf(Vec<f64>),
}

impl Spread {
    /// Zipf's law with exponent 1.
    pub fn zipf(keys: u32) -> Spread {
        let sums = (1..=keys).scan(0.0, |sum, k| {
            *sum += 1.0 / f64::from(k);
            Some(*sum)
        });
        Spread::Zipf(sums.collect())
    }

    /// One key.
    pub fn draw(&self, random: &mut StdRng) -> u32 {
        match self {
            Spread::Uniform(keys) => random.random_range(0..*keys),
            Spread::Zipf(sums) => {
                let total = sums.last().copied().unwrap_or(0.0);
                let at = random.random::<f64>() * total;
                let place = sums.partition_point(|sum| *sum <= at).min(sums.len().saturating_sub(1));
                u32::try_from(place).expect("as many as there are keys")
            }
        }
    }
}

/// The key of a number.
pub fn key(number: u32) -> String {
    format!("sku-{number:07}")
}

/// Writes events to topics.
pub struct Writer {
    producer: ThreadedProducer<DefaultProducerContext>,
    random: StdRng,
}

impl Writer {
    /// A writer; the same seed draws the same keys.
    ///
    /// # Panics
    /// When librdkafka refuses the configuration.
    pub fn new(brokers: &str, seed: u64) -> Writer {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("partitioner", "murmur2_random")
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("batch.num.messages", "10000")
            .set("queue.buffering.max.messages", "200000")
            .create()
            .expect("a producer");
        Writer { producer, random: StdRng::seed_from_u64(seed) }
    }

    /// Writes so many events, numbered from 0, and waits until they are acknowledged.
    ///
    /// # Panics
    /// When the broker does not take them.
    pub fn fill(&mut self, topic: &str, keys: &Spread, events: u64) {
        for number in 0..events {
            let key = key(keys.draw(&mut self.random));
            let note: [u64; 4] = self.random.random();
            self.write(topic, &key, &payload(number, note));
            if number % WINDOW == WINDOW - 1 {
                self.flush();
            }
        }
        self.flush();
    }

    fn write(&self, topic: &str, key: &str, payload: &str) {
        let id = Uuid::now_v7().as_hyphenated().to_string();
        let headers = OwnedHeaders::new_with_capacity(2)
            .insert(Header { key: "id", value: Some(&id) })
            .insert(Header { key: "type", value: Some(EVENT_TYPE) });
        let mut record = BaseRecord::to(topic).key(key).payload(payload).headers(headers);
        while let Err((error, again)) = self.producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            self.flush();
            record = again;
        }
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(120)).expect("acknowledgements");
    }
}

/// JSON of about 200 bytes.
pub fn payload(number: u64, note: [u64; 4]) -> String {
    let [a, b, c, d] = note;
    format!(
        "{{\"number\":{number},\"note\":\"{a:016x}{b:016x}{c:016x}{d:016x} sent to the customer's usual address, \
         with the usual carrier, and paid by the usual means of payment today\"}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_the_first_by_their_weight() {
        let (spread, mut random) = (Spread::zipf(1_000), StdRng::seed_from_u64(7));
        let mut drawn = vec![0_u32; 1_000];
        (0..100_000).for_each(|_| drawn[spread.draw(&mut random) as usize] += 1);
        // The first of 1,000 has a share of 1 / 7.485.
        assert!((12_800..13_900).contains(&drawn[0]), "{}", drawn[0]);
        assert!((6_300..7_050).contains(&drawn[1]), "{}", drawn[1]);
        assert!(drawn[999] < 60);
    }

    #[test]
    fn a_payload_is_an_order_of_two_hundred_bytes() {
        let text = payload(1_999_999, [u64::MAX; 4]);
        assert!((190..=210).contains(&text.len()), "{}", text.len());
        assert_eq!(serde_json::from_str::<Order>(&text).unwrap().number, 1_999_999);
    }
}
