//! Behind the last fault: everything is mended, the gate is opened, and then all has to come to its end by itself.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::cluster::Cluster;
use super::lot::UNREADABLE;
use super::stage::{OUTBOX, SCOPES, Stage};
use super::watch::Watch;
use crate::history::log::Isolation;
use crate::history::{Committed, Log, rows};
use outbox_schema::record::DEFAULT_TOPIC_PREFIX;

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// What was committed, what stands on the log, and what was not settled in time.
#[derive(Debug)]
pub struct Settled {
    /// Every row of the outbox.
    pub committed: Vec<Committed>,
    /// The events' topics.
    pub log: Log,
    /// Seconds until nothing was left.
    pub seconds: f64,
    /// What was left when patience ended, a sentence each.
    pub left: Vec<String>,
}

/// Mends everything, and waits until nothing is left to be done or `patience` ends.
///
/// # Panics
/// When PostgreSQL or Kafka does not answer although nothing is wrong with it any more.
pub fn settle(stage: &Stage, handle: &Handle, clock: &Watch, patience: Duration) -> Settled {
    mend(stage);
    let began = clock.at();
    let committed = handle
        .block_on(async { rows::read(&stage.postgres.connect(OUTBOX).await, DEFAULT_TOPIC_PREFIX).await });
    let end: String = stage.outbox.ask("SELECT pg_current_wal_lsn()::text", &[])[0].get(0);
    let topics = Stage::topics();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let log = Log::open(&stage.kafka.inside(), &topics, Isolation::ReadUncommitted);
    let unpublished = committed.iter().map(|row| row.id.clone()).collect();
    let mut looking = Looking {
        stage,
        cluster: Cluster::of(&stage.kafka),
        log,
        unpublished,
        published: HashSet::new(),
        read: 0,
        end,
    };
    let deadline = Instant::now() + patience;
    let left = loop {
        let left = looking.left();
        if left.is_empty() || Instant::now() > deadline {
            break left;
        }
        std::thread::sleep(LOOK);
    };
    // What comes close behind is seen, too.
    looking.log.catch_up();
    Settled { log: looking.log, committed, seconds: clock.at() - began, left }
}

/// Takes back whatever is still there of a fault.
fn mend(stage: &Stage) {
    let links =
        stage.relays.iter().map(|relay| &relay.link).chain(stage.members.iter().map(|member| &member.link));
    links.for_each(|link| link.resume());
    (0..stage.kafka.count()).for_each(|index| stage.kafka.node(index).proxy().resume());
    stage.disk.empty();
    stage.actors().for_each(super::actor::Actor::start);
    fs::write(stage.gate(), "").expect("our own directory");
}

struct Looking<'a> {
    stage: &'a Stage,
    cluster: Cluster,
    log: Log,
    unpublished: HashSet<String>,
    published: HashSet<String>,
    read: usize,
    /// Where PostgreSQL's log ended when the services had stopped.
    end: String,
}

impl Looking<'_> {
    /// What is not settled, a sentence each.
    fn left(&mut self) -> Vec<String> {
        self.release();
        let mut left = Vec::new();
        let mut not_yet = |count: u64, what: &str| {
            if count > 0 {
                left.push(format!("{count} {what}"));
            }
        };
        not_yet(self.unpublished(), "committed events are neither published nor quarantined");
        for (scope, _) in SCOPES {
            not_yet(self.unsettled(scope), &format!("published events are not settled by {scope}"));
        }
        not_yet(self.parked(), "keys are parked");
        self.cluster.published();
        match self.cluster.lag() {
            Some(lag) => not_yet(lag, "records are not committed past by the groups"),
            None => left.push("no answer about committed offsets".into()),
        }
        if !self.confirmed() {
            left.push(format!("the slot is not confirmed up to {}", self.end));
        }
        left
    }

    /// The gate is open: what was held for its sake may run. What cannot be read stays where it is.
    fn release(&self) {
        let release = format!(
            "SELECT inbox.release_parked_key(scope, topic, key, 'the gate is open') FROM inbox.parked_key
              WHERE state = 'held' AND convert_from(key, 'UTF8') NOT LIKE '{UNREADABLE}%'"
        );
        self.stage.inbox.ask(&release, &[]);
    }

    fn unpublished(&mut self) -> u64 {
        self.log.catch_up();
        for record in &self.log.records()[self.read..] {
            if let Some(id) = record.id() {
                self.unpublished.remove(id);
                self.published.insert(id.to_owned());
            }
        }
        self.read = self.log.records().len();
        for row in
            self.stage.outbox.ask("SELECT event_id FROM outbox.quarantine WHERE event_id IS NOT NULL", &[])
        {
            self.unpublished.remove(row.get::<_, &str>(0));
        }
        self.unpublished.len() as u64
    }

    fn unsettled(&self, scope: &str) -> u64 {
        let settled = format!(
            "SELECT (SELECT count(*) FROM inbox.settlement WHERE scope = $1 AND state NOT IN ('claimed', 'parked'))
                  + (SELECT count(*) FROM inbox.parked_event
                      WHERE scope = $1 AND convert_from(key, 'UTF8') LIKE '{UNREADABLE}%')"
        );
        let settled: i64 = self.stage.inbox.ask(&settled, &[&scope])[0].get(0);
        (self.published.len() as u64).saturating_sub(settled.unsigned_abs())
    }

    fn parked(&self) -> u64 {
        let parked = format!(
            "SELECT count(*) FROM inbox.parked_key WHERE convert_from(key, 'UTF8') NOT LIKE '{UNREADABLE}%'"
        );
        self.stage.inbox.ask(&parked, &[])[0].get::<_, i64>(0).unsigned_abs()
    }

    fn confirmed(&self) -> bool {
        let confirmed = "SELECT 1 FROM pg_replication_slots
                          WHERE slot_name LIKE 'outbox_%' AND confirmed_flush_lsn >= $1::text::pg_lsn";
        !self.stage.outbox.ask(confirmed, &[&self.end]).is_empty()
    }
}
