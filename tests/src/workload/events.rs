//! What an event of the workload looks like.

use rand::{Rng, RngExt};
use uuid::{Builder, Uuid};

use super::chance;

/// A row to be inserted into `outbox.events`; what is `None` is left to its default.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub id: Uuid,
    pub aggregatetype: String,
    pub aggregateid: String,
    pub event_type: String,
    pub schema_version: i32,
    pub version: i64,
    pub headers: Option<String>,
    pub traceparent: Option<String>,
    pub payload: String,
}

/// The key of an entity: its kind is part of it, so that keys differ between topics.
pub(super) fn key(kind: &str, number: usize) -> String {
    format!("{kind}-{number}")
}

/// Event `n` of a key. The payload says so, with varying blanks, numbers that a parser would rewrite and text
/// of every plane: it has to arrive byte for byte.
pub(super) fn draw(
    random: &mut impl Rng,
    kind: &str,
    key: &str,
    n: i64,
    writer: usize,
    large: bool,
) -> Event {
    const TEXTS: [&str; 5] = ["", "plain", "Größe \\\" \\u00e9", "多字节 ✓ 🦀", "tab\\tline\\n\\\\"];
    let text = TEXTS[random.random_range(0..TEXTS.len())];
    let filling = match large {
        // Compression does not make it small.
        true => (0..3_000).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect(),
        false => "x".repeat(random.random_range(0..300)),
    };
    let payload = if chance(random, 50) {
        format!(
            r#"{{"key":"{key}","n":{n},"w":{writer},"total":1.50,"text":"{text}","filling":"{filling}"}}"#
        )
    } else {
        format!(
            "{{ \"text\" : \"{text}\",\n\t\"n\":{n}, \"key\":\"{key}\", \"w\":{writer}, \"e\":1E+2, \"filling\":\"{filling}\" }}"
        )
    };
    Event {
        id: id(random),
        aggregatetype: kind.to_owned(),
        aggregateid: key.to_owned(),
        event_type: ["Made", "Changed", "Ended"][random.random_range(0..3)].to_owned(),
        schema_version: random.random_range(1..=2),
        version: n,
        headers: chance(random, 25).then(|| headers(random)),
        traceparent: chance(random, 25).then(|| traceparent(random)),
        payload,
    }
}

/// Half of the ids carry a time, the others make the relay send one.
fn id(random: &mut impl Rng) -> Uuid {
    if chance(random, 50) { Uuid::now_v7() } else { Builder::from_random_bytes(random.random()).into_uuid() }
}

fn headers(random: &mut impl Rng) -> String {
    let number: u32 = random.random();
    format!(
        r#"{{"tenant": "eu", "attempt": {number}, "price": 1.50, "vip": true, "none": null, "text": "é\"\\"}}"#
    )
}

fn traceparent(random: &mut impl Rng) -> String {
    let (trace, span): (u128, u64) = (random.random(), random.random());
    format!("00-{trace:032x}-{span:016x}-01")
}
