//! A consumer with handlers of every kind. Each attempt is a line of a file, which no transaction takes back and no
//! kill: what a service outside would have seen of it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outbox_consumer::ladder::{Exhausted, in_place, seconds};
use outbox_consumer::{
    Consumer, Event, Facts, Handled, Outcome, State, Tx, at_most_once, completed, done, external, idempotent,
    transactional,
};
use serde::Deserialize;

/// What the tests send.
#[derive(Debug, Deserialize)]
struct Asked {
    number: i64,
    /// `wait`: the handler waits for the gate. `closed`: it fails until the gate is open; `closed later`: another gate.
    /// `fails` and `hangs`, whatever gate is open. `aborts`: its first attempt fails, and the others end the process when
    /// the gate `abort` is open.
    #[serde(default)]
    does: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("the gate is closed")]
struct Closed;

/// The file of attempts, and the gate, which is open when its file is there.
struct Outside {
    calls: PathBuf,
    gate: PathBuf,
}

impl Outside {
    /// One line in one write, so that lines of several processes do not mix.
    fn tell(&self, asked: &Asked, facts: &Facts) -> std::io::Result<()> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (process, number, attempt) = (std::process::id(), asked.number, facts.attempt());
        let (id, key) = (facts.id(), facts.idempotency_key());
        let line = format!("{process} {number} {attempt} {at} {id} {key}\n");
        File::options().create(true).append(true).open(&self.calls)?.write_all(line.as_bytes())
    }

    async fn come_to(&self, asked: &Event<Asked>) -> Result<(), Closed> {
        match asked.does.as_deref() {
            Some("closed") if !self.gate.exists() => Err(Closed),
            Some("closed later") if !self.gate.with_extension("later").exists() => Err(Closed),
            Some("wait") => {
                while !self.gate.exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(())
            }
            Some("aborts") if asked.facts().attempt() > 1 => {
                while !self.gate.with_extension("abort").exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                std::process::abort()
            }
            Some("fails" | "aborts") => Err(Closed),
            Some("hangs") => std::future::pending().await,
            Some(_) | None => Ok(()),
        }
    }
}

async fn call(asked: Event<Asked>, outside: State<Outside>) -> Handled {
    outside.tell(&asked, asked.facts())?;
    outside.come_to(&asked).await?;
    completed(format!("answer {}", asked.number))
}

async fn apply(asked: Event<Asked>, tx: Tx, outside: State<Outside>) -> Handled {
    outside.tell(&asked, asked.facts())?;
    let facts = asked.facts();
    let (key, attempt) = (facts.key().unwrap_or_default(), i32::try_from(facts.attempt())?);
    let insert = "INSERT INTO effects (event, key, number, attempt) VALUES ($1, $2, $3, $4)";
    tx.execute(insert, &[&facts.id(), &key, &asked.number, &attempt]).await?;
    outside.come_to(&asked).await?;
    done()
}

/// An answer that is longer than what is kept.
async fn talk(asked: Event<Asked>, outside: State<Outside>) -> Handled {
    outside.tell(&asked, asked.facts())?;
    Ok(Outcome::Completed { result: vec![b'x'; 70_000] })
}

/// What comes of an order happens once for each type of event: the key is `order/anything`.
fn order(facts: &Facts) -> String {
    let order = facts.key().and_then(|key| key.split('/').next()).unwrap_or_default();
    format!("idem:{order}:{}", facts.event_type())
}

/// The event's own id; but for ids that the tests make by hand it is no key, in one way or another.
fn named(facts: &Facts) -> String {
    let id = facts.id();
    match id.as_u128() {
        by_hand @ 0..256 => match by_hand % 4 {
            1 => panic!("as told"),
            2 => String::new(),
            _ => "no\0text".to_owned(),
        },
        _ => id.to_string(),
    }
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    let outside = Outside {
        calls: setting("KINDS_CALLS").unwrap_or_default().into(),
        gate: setting("KINDS_GATE").unwrap_or_default().into(),
    };
    let rung = seconds(std::env::var("ORDER_RUNG")?.parse()?);
    let exhausted = match setting("KINDS_EXHAUSTED").as_deref() {
        Some("halt") => Exhausted::Halt,
        Some("skip") => Exhausted::Skip,
        _ => Exhausted::Hold,
    };
    // Without a rung nothing is parked, and the first failure is the last.
    let rungs = vec![rung; if rung.is_zero() { 0 } else { 20 }];
    let mut consumer = Consumer::from_env(&std::env::var("ORDER_CONSUMER")?)
        .state(outside)
        .owner("tests", seconds(60))
        .topic(&std::env::var("ORDER_TOPIC")?)
        .on("Applied", transactional(apply).timeout(seconds(120)))
        .on("Paid", transactional(apply).dedup_by(order))
        .on("Called", external(call).timeout(seconds(5)))
        .on("Charged", external(call).timeout(seconds(5)).dedup_by(order))
        .on("Talked", external(talk).timeout(seconds(5)))
        .on("Once", at_most_once(call).timeout(seconds(5)))
        .on("Named", transactional(apply).timeout(seconds(5)).dedup_by(named))
        .on("NamedCall", external(call).timeout(seconds(5)).dedup_by(named))
        .on("NamedLight", idempotent(call).timeout(seconds(5)).dedup_by(named))
        .kafka_option("session.timeout.ms", "6000")
        .kafka_option("heartbeat.interval.ms", "1000")
        .retry(in_place(1).then(rungs).when_exhausted(exhausted));
    if let Some(scope) = setting("KINDS_SCOPE") {
        consumer = consumer.scope(&scope);
    }
    for option in std::env::var("ORDER_KAFKA")?.split(';').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        consumer = consumer.kafka_option(name, value);
    }
    consumer.run().await?;
    Ok(())
}
