//! All that processes share, and outlives them: clock, log, groups, database; and who looks at what they do.

use outbox_consumer::ladder::{Exhausted, Ladder, in_place};
use outbox_consumer::metadata;
use rand::SeedableRng;
use rand::rngs::StdRng;

use std::time::Duration;

use crate::consumer::Mutant;
use crate::consumer::database::{Answer, Database, TxId};
use crate::consumer::group::Group;
use crate::consumer::judge::Judge;
use crate::consumer::log::{End, Log};
use crate::schedule::{How, Schedule};

/// How the world is made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Partitions of the topic.
    pub partitions: usize,
    /// Keys that have names.
    pub keys: usize,
    /// Of each group, its scope.
    pub groups: Vec<usize>,
    /// Scopes.
    pub scopes: usize,
    /// Of each instance, its group.
    pub instances: Vec<usize>,
    /// Workers of each process.
    pub workers: usize,
    /// Records that a process holds at most.
    pub most: usize,
    /// Records of one poll.
    pub batch: usize,
    /// Records of one transaction; 1 is no group.
    pub company: usize,
    /// Events of each partition whose handlers kill, at most.
    pub kills: usize,
    /// Partitions move one by one, not all at once.
    pub cooperative: bool,
    /// The broker allows little text.
    pub small: bool,
    /// What follows failures.
    pub ladder: Ladder,
}

impl Settings {
    /// As the first numbers of a schedule say.
    pub fn of(schedule: &Schedule) -> Settings {
        let groups = match schedule.begins(0, 4) {
            0 | 1 => vec![0],
            // A second consumer; or a replay of the first under another group.
            2 => vec![0, 1],
            _ => vec![0, 0],
        };
        let many = 1 + schedule.begins(1, 3);
        let instances = (0..many * groups.len()).map(|at| at % groups.len()).collect();
        let hold = schedule.begins(11, 5) == 4;
        Settings {
            partitions: 1 + schedule.begins(2, 3),
            keys: 1 + schedule.begins(3, 4),
            scopes: groups.iter().max().map_or(1, |most| most + 1),
            groups,
            instances,
            workers: 1 + schedule.begins(4, 3),
            most: 12 - 3 * schedule.begins(5, 4),
            batch: 1 + schedule.begins(6, 4),
            company: [1, 4, 4, 8][schedule.begins(7, 4)],
            kills: schedule.begins(8, 4),
            cooperative: schedule.begins(9, 2) == 0,
            small: schedule.begins(10, 4) == 3,
            ladder: in_place(2)
                .backoff(Duration::from_millis(20), Duration::from_millis(100))
                .then([Duration::from_secs(1), Duration::from_secs(4)])
                .when_exhausted(if hold { Exhausted::Hold } else { Exhausted::Skip }),
        }
    }
}

/// All that processes share.
pub struct Around {
    /// Milliseconds.
    pub now: u64,
    /// How the present step is taken.
    pub how: How,
    /// How the world was made.
    pub settings: Settings,
    /// A mistake that is made on purpose.
    pub mutant: Option<Mutant>,
    /// The topic.
    pub log: Log,
    /// The groups.
    pub groups: Vec<Group>,
    /// The database.
    pub db: Database,
    /// What must hold.
    pub judge: Judge,
    /// Faults have ended.
    pub calm: bool,
    /// For the ladder's jitter.
    pub rng: StdRng,
    /// What happened, where somebody wants to read it.
    pub story: Option<Vec<String>>,
}

impl Around {
    /// Of a schedule.
    pub fn new(schedule: &Schedule, mutant: Option<Mutant>, story: bool) -> Around {
        let settings = Settings::of(schedule);
        let groups = settings
            .groups
            .iter()
            .enumerate()
            .map(|(at, scope)| Group::new(at, *scope, settings.partitions, settings.cooperative));
        Around {
            now: 0,
            how: How::new(0),
            mutant,
            log: Log::new(settings.partitions, settings.keys, settings.scopes),
            groups: groups.collect(),
            db: Database::new(settings.scopes),
            judge: Judge::default(),
            calm: false,
            rng: StdRng::seed_from_u64(0),
            story: story.then(Vec::new),
            settings,
        }
    }

    /// Tells what happened.
    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>7} ms  {}", self.now, what()));
        }
    }

    /// Whether this is the mistake that is made.
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// A fault that happens once in so many times, while there are faults.
    pub fn fault(&mut self, once_in: usize) -> bool {
        self.how.once_in(once_in) && !self.calm
    }

    /// Whether a text beside an offset names a record twice that kills nobody. Nothing can tell a third accident of it
    /// from a death of its own: a process that is killed, or a last commit that does not arrive.
    pub fn on_trial(&self, partition: i32, offset: i64, text: &str) -> bool {
        let named = metadata::parse(offset, text.as_bytes()).unwrap_or_default().journal.named;
        named.iter().any(|named| {
            let event = self.log.at(partition, named.offset);
            named.deaths >= 2 && event.is_some_and(|event| self.log.events[event].end != End::Kill)
        })
    }

    /// The same for what is committed of a partition.
    pub fn is_on_trial(&self, group: usize, partition: i32) -> bool {
        let (offset, text) = &self.groups[group].committed[partition as usize];
        self.on_trial(partition, offset.unwrap_or(0), text)
    }

    /// The server commits a transaction; `lost`: nobody hears its answer.
    pub fn apply(&mut self, tx: TxId, lost: bool) {
        let split = self.is(Mutant::DedupOutside);
        let changes = self.db.apply(tx, lost, split);
        self.tell(|| {
            format!("database: transaction {tx} commits{}: {changes:?}", if lost { ", unheard" } else { "" })
        });
        self.judge.transaction(&changes, &self.db, &self.log);
    }

    /// What the server does of itself with one transaction.
    pub fn serve(&mut self) -> bool {
        let now = self.now;
        let due: Vec<TxId> = self
            .db
            .txs
            .iter()
            .filter(|(_, tx)| {
                let abandoned = tx.heard + ABANDONED <= now;
                tx.committing || tx.orphan.is_some() || abandoned
            })
            .map(|(number, _)| *number)
            .collect();
        let Some(tx) = due.get(self.how.pick(due.len())).copied() else { return false };
        let Some(open) = self.db.txs.get(&tx) else { return false };
        if open.committing {
            match (self.how.pick(16), self.calm) {
                (13, false) => self.apply(tx, true),
                (14, false) => {
                    self.tell(|| format!("database: transaction {tx} is refused"));
                    self.db.abort(tx, Some(Answer::Refused));
                }
                (15, false) => {
                    self.tell(|| format!("database: the COMMIT of {tx} never arrives"));
                    if let Some(open) = self.db.txs.get_mut(&tx) {
                        open.committing = false;
                    }
                    self.db.drop_connection(tx, now);
                }
                _ => self.apply(tx, false),
            }
        } else {
            self.tell(|| format!("database: transaction {tx} is ended"));
            self.db.abort(tx, Some(Answer::Unknown));
        }
        true
    }

    /// The database goes, and with it what is open; what was to be committed may have been.
    pub fn outage(&mut self) {
        self.tell(|| "the database is down".to_owned());
        self.db.down = true;
        for tx in self.db.txs.keys().copied().collect::<Vec<_>>() {
            if self.db.txs[&tx].committing && self.how.pick(2) == 1 {
                self.apply(tx, true);
            }
            self.db.abort(tx, Some(Answer::Unknown));
        }
    }
}

/// How long the server lets a transaction stand whose process says nothing.
const ABANDONED: u64 = 40_000;
