//! The consumers of a run of chaos. One program, three tempers: `single` gives each event a transaction of its own,
//! `grouped` lets them share one, `outside` makes calls to a service that is no database.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outbox_consumer::ladder::{Exhausted, in_place, seconds};
use outbox_consumer::{
    Consumer, Event, Handled, HandledBatch, Outcome, Permanent, State, Tx, batch, completed, done, each,
    external, transactional,
};
use outbox_tests::chaos::lot::{Lot, lot};
use serde::Deserialize;

/// What every event of the run says of itself.
#[derive(Debug, Deserialize)]
struct Change {
    key: String,
    n: i64,
}

#[derive(Debug, thiserror::Error)]
#[error("as told")]
struct AsTold;

/// What handlers know beside the event.
struct World {
    scope: String,
    /// Events of that lot are handled once this file is there.
    gate: PathBuf,
    /// The service outside: it keeps a line for each call.
    calls: PathBuf,
    /// Whether this one dies of what is deadly.
    mortal: bool,
}

impl World {
    /// An event that goes well this time, or the error that its lot says.
    fn attempt(&self, change: &Change, attempt: u32) -> Result<(), Failing> {
        match lot(&change.key, change.n) {
            Lot::From(first) if attempt < first => Err(Failing::Now),
            Lot::Closed if !self.gate.exists() => Err(Failing::ForGood),
            Lot::Deadly if self.mortal && !self.gate.exists() => std::process::abort(),
            Lot::Good | Lot::From(_) | Lot::Closed | Lot::Deadly => Ok(()),
        }
    }
}

enum Failing {
    Now,
    ForGood,
}

const EFFECT: &str = "INSERT INTO effects (scope, event, key, number, attempt, filling) VALUES ($1, $2, $3, $4, $5, repeat('x', 100))";

async fn apply(change: Event<Change>, tx: Tx, world: State<World>) -> Handled {
    let (facts, attempt) = (change.facts(), i32::try_from(change.facts().attempt())?);
    tx.execute(EFFECT, &[&world.scope, &facts.id(), &change.key, &change.n, &attempt]).await?;
    match world.attempt(&change, facts.attempt()) {
        Ok(()) => done(),
        Err(Failing::Now) => Err(AsTold)?,
        Err(Failing::ForGood) => Err(AsTold).permanent()?,
    }
}

async fn apply_many(changes: Vec<Event<Change>>, tx: Tx, world: State<World>) -> HandledBatch {
    let mut outcomes = Vec::new();
    for change in &changes {
        let (facts, attempt) = (change.facts(), i32::try_from(change.facts().attempt())?);
        outcomes.push(match world.attempt(change, facts.attempt()) {
            Ok(()) => Outcome::Done,
            Err(_) => Outcome::Retry { after: Duration::ZERO, reason: "as told".into() },
        });
        tx.execute(EFFECT, &[&world.scope, &facts.id(), &change.key, &change.n, &attempt]).await?;
    }
    each(outcomes)
}

async fn call(change: Event<Change>, world: State<World>) -> Handled {
    let facts = change.facts();
    match world.attempt(&change, facts.attempt()) {
        Ok(()) => {}
        Err(Failing::Now) => Err(AsTold)?,
        Err(Failing::ForGood) => Err(AsTold).permanent()?,
    }
    // One line in one write, so that lines of several processes do not mix.
    let once = facts.idempotency_key();
    let line = format!("{} {} {} {once} {}\n", facts.id(), change.key, change.n, facts.attempt());
    File::options().create(true).append(true).open(&world.calls)?.write_all(line.as_bytes())?;
    completed(once)
}

/// Says what the clock shows whenever it has jumped.
fn watch_the_clock() {
    let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    std::thread::spawn(move || {
        let (mut began, mut from) = (Instant::now(), wall());
        loop {
            std::thread::park_timeout(Duration::from_millis(500));
            let by = wall() - from - began.elapsed().as_secs_f64();
            if by.abs() > 30.0 {
                eprintln!("the clock jumped by {by:.0} s");
                (began, from) = (Instant::now(), wall());
            }
        }
    });
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    watch_the_clock();
    let setting = |name: &str| std::env::var(name).map_err(|_| anyhow::anyhow!("{name} is not set"));
    let (scope, temper) = (setting("CHAOS_SCOPE")?, setting("CHAOS_TEMPER")?);
    let world = World {
        scope: scope.clone(),
        gate: setting("CHAOS_GATE")?.into(),
        calls: setting("CHAOS_CALLS")?.into(),
        mortal: temper == "single",
    };
    let mut consumer = Consumer::from_env(&scope).state(world).owner("chaos", seconds(3_600)).concurrency(8);
    for topic in setting("CHAOS_TOPICS")?.split(',') {
        consumer = consumer.topic(topic);
    }
    let limit = seconds(20);
    consumer = match temper.as_str() {
        "single" => ["Made", "Changed", "Ended"]
            .into_iter()
            .fold(consumer.group_commit(1), |c, kind| c.on(kind, transactional(apply).timeout(limit))),
        "grouped" => consumer
            .on("Made", transactional(apply).timeout(limit))
            .on("Changed", transactional(apply).timeout(limit))
            .on("Ended", batch(20, apply_many).timeout(limit)),
        "outside" => ["Made", "Changed", "Ended"]
            .into_iter()
            .fold(consumer, |c, kind| c.on(kind, external(call).timeout(seconds(5)))),
        other => anyhow::bail!("nobody knows the temper {other}"),
    };
    // What a database or a broker is away for is shorter than the ladder: only what is sure to fail is given up.
    let rungs = (0..20).map(|rung| seconds(if rung < 8 { 1 } else { 5 }));
    let exhausted = if temper == "grouped" { Exhausted::Hold } else { Exhausted::Skip };
    consumer
        .kafka_option("session.timeout.ms", "6000")
        .kafka_option("heartbeat.interval.ms", "1000")
        .kafka_option("reconnect.backoff.max.ms", "1000")
        .retry(in_place(2).then(rungs).when_exhausted(exhausted))
        .run()
        .await?;
    Ok(())
}
