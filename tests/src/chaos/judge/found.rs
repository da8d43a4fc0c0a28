//! What is judged: read from PostgreSQL, Kafka and the files of the world outside.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::chaos::settle::Settled;
use crate::chaos::stage::{SCOPES, Stage};
use crate::history::log::Isolation;
use crate::history::{Committed, Log, Published};

/// An effect, in the order in which they happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// The event's id.
    pub event: String,
    /// Its key.
    pub key: String,
    /// Its place in the order of its key.
    pub number: i64,
}

/// What one scope's consumers did.
#[derive(Debug, Default)]
pub struct Scope {
    /// Its name.
    pub name: String,
    /// Whether effects are calls, which may be made again under the same key.
    pub outside: bool,
    /// State and reason by event.
    pub settlements: HashMap<String, (String, String)>,
    /// Effects; of a scope whose effects are calls only the first of each key.
    pub effects: Vec<Effect>,
    /// Calls that were made again.
    pub again: u64,
    /// Effects of events whose first attempts failed.
    pub late: u64,
    /// Events that are parked, with what the last attempt said.
    pub parked: HashMap<String, String>,
}

/// How a process ended.
#[derive(Debug)]
pub struct End {
    /// A name of the cast.
    pub name: String,
    /// In words.
    pub how: String,
    /// Whether that was to be.
    pub expected: bool,
}

/// Everything that is judged.
#[derive(Debug, Default)]
pub struct Found {
    /// Rows of the outbox.
    pub committed: Vec<Committed>,
    /// Records of the events' topics; of a partition in the order of offsets.
    pub published: Vec<Published>,
    /// Reasons by event.
    pub quarantined: BTreeMap<String, String>,
    /// Each consumer.
    pub scopes: Vec<Scope>,
    /// What dead letters say was wrong, by scope and event.
    pub letters: HashMap<(String, String), String>,
    /// What was not settled when patience ended.
    pub left: Vec<String>,
    /// Lives of all processes.
    pub lives: u64,
    /// Who ended without being asked to.
    pub ended: Vec<End>,
    /// How everybody ended when told to.
    pub told: Vec<End>,
    /// Rows that were rolled back, as far as the services know.
    pub rolled_back: u64,
}

impl Found {
    /// Tells everybody to end, and reads.
    ///
    /// # Panics
    /// When a server does not answer.
    pub fn read(stage: &Stage, settled: Settled, rolled_back: u64) -> Found {
        let ended = stage.actors().flat_map(|actor| {
            actor.ends().into_iter().map(|status| by_itself(actor.name(), status)).collect::<Vec<_>>()
        });
        let ended = ended.collect();
        let lives = stage.actors().map(|actor| actor.lives() as u64).sum();
        let told = stage.actors().map(|actor| told(actor.name(), actor.end())).collect();
        let mut log = settled.log;
        log.catch_up();
        let quarantined = stage
            .outbox
            .ask("SELECT event_id, reason FROM outbox.quarantine WHERE event_id IS NOT NULL", &[]);
        Found {
            committed: settled.committed,
            published: log.records().to_vec(),
            quarantined: quarantined.iter().map(|row| (row.get(0), row.get(1))).collect(),
            scopes: SCOPES
                .iter()
                .map(|(scope, temper)| read_scope(stage, scope, *temper == "outside"))
                .collect(),
            letters: letters(stage),
            left: settled.left,
            lives,
            ended,
            told,
            rolled_back,
        }
    }
}

/// Consumers of one scope die of what is made for that; nobody else ends by himself.
fn by_itself(name: &str, status: ExitStatus) -> End {
    let expected = name.starts_with("stock") && status.signal() == Some(6);
    End { name: name.to_owned(), how: status.to_string(), expected }
}

/// A relay whose session was lost before says 4, not drained, also where another has published everything since.
fn told(name: &str, status: Option<ExitStatus>) -> End {
    let how = status.map_or("it has not ended in a minute".to_owned(), |status| status.to_string());
    let undrained = |status: ExitStatus| name.starts_with("relay") && status.code() == Some(4);
    let expected = status.is_some_and(|status| status.success() || undrained(status));
    End { name: name.to_owned(), how, expected }
}

fn read_scope(stage: &Stage, name: &str, outside: bool) -> Scope {
    let ask = |query: &str| stage.inbox.ask(query, &[&name]);
    let settlements =
        ask("SELECT id::text, state, coalesce(error, '') FROM inbox.settlement WHERE scope = $1");
    let parked = ask("SELECT e.id::text, k.last_error FROM inbox.parked_event e
                        JOIN inbox.parked_key k USING (scope, topic, key) WHERE scope = $1");
    let mut scope = Scope {
        name: name.to_owned(),
        outside,
        settlements: settlements.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect(),
        parked: parked.iter().map(|row| (row.get(0), row.get(1))).collect(),
        ..Scope::default()
    };
    if outside {
        read_calls(stage, &mut scope);
        return scope;
    }
    for row in ask("SELECT event::text, key, number, attempt FROM effects WHERE scope = $1 ORDER BY at") {
        scope.late += u64::from(row.get::<_, i32>(3) > 1);
        scope.effects.push(Effect { event: row.get(0), key: row.get(1), number: row.get(2) });
    }
    scope
}

/// The service outside takes a key once.
fn read_calls(stage: &Stage, scope: &mut Scope) {
    let text = std::fs::read_to_string(stage.calls(&scope.name)).unwrap_or_default();
    let mut keys = std::collections::HashSet::new();
    for line in text.lines() {
        let [event, key, number, once, attempt] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        if keys.insert(once.to_owned()) {
            let number = number.parse().unwrap_or(0);
            scope.effects.push(Effect { event: event.to_owned(), key: key.to_owned(), number });
            scope.late += u64::from(attempt != "1");
        } else {
            scope.again += 1;
        }
    }
}

fn letters(stage: &Stage) -> HashMap<(String, String), String> {
    let topics: Vec<String> =
        stage.kafka.topics().into_iter().filter(|topic| topic.ends_with(".dlq")).collect();
    if topics.is_empty() {
        return HashMap::new();
    }
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let mut log = Log::open(&stage.kafka.inside(), &names, Isolation::ReadUncommitted);
    log.catch_up();
    let said = |record: &Published, header: &str| record.header(header).map(str::to_owned);
    let letters = log.records().iter().filter_map(|record| {
        let (scope, id) =
            (said(record, "dlq.scope")?, said(record, "dlq.id").or_else(|| said(record, "id"))?);
        Some(((scope, id), said(record, "dlq.error.message").unwrap_or_default()))
    });
    letters.collect()
}
