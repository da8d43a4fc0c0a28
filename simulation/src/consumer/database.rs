//! The database: settlements, park markers and effects, changed by transactions. Rows that a transaction has claimed or
//! changed are locked until it ends, as PostgreSQL does it at READ COMMITTED, and what it does is seen when it commits.
//! The statements are those of `outbox-schema/sql/inbox` as far as the workers use them.

use std::collections::{BTreeMap, VecDeque};

use crate::consumer::log::{EventId, KeyId};

/// Number of a scope: a consumer's name.
pub type Scope = usize;

/// Number of a transaction.
pub type TxId = u64;

/// What became of an event in a scope; `inbox.settlement.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its effect is there.
    Done,
    /// The handler refused it.
    Rejected,
    /// It waits behind its key's marker.
    Parked,
    /// It is in the dead letters.
    Dead,
}

/// A parked key; `inbox.parked_key` with its `inbox.parked_event`.
#[derive(Debug, Clone)]
pub struct Marker {
    /// The events, in the order in which they run.
    pub queue: VecDeque<EventId>,
    /// Attempts of the first of them.
    pub attempts: u32,
    /// When it may run.
    pub due: u64,
    /// It waits for an operator.
    pub held: bool,
    /// When the first of them failed first.
    pub first_failed: u64,
    /// What is said of its last failure.
    pub said: Said,
}

/// What a parked key says of its last failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// An attempt was begun by this run of a process and has not ended.
    pub begun_by: Option<u64>,
    /// Attempts that ended with their process.
    pub deaths: u32,
    /// A company of its events was begun by this run and has not ended.
    pub together_by: Option<u64>,
    /// So many of its events are to run one by one.
    pub alone: u32,
}

/// What a transaction locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lock {
    /// The settlement of an event.
    Claim(Scope, EventId),
    /// A marker.
    Marker(Scope, KeyId),
    /// The right to run a parked key.
    Claimant(Scope, KeyId),
}

/// A change that a transaction makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The state of an event.
    Settle(Scope, EventId, State),
    /// The handler's work.
    Effect(Scope, EventId),
    /// A marker; it has to be followed by an [`Append`](Change::Append).
    Mark(Scope, KeyId, Delay),
    /// An event behind a marker.
    Append(Scope, KeyId, EventId),
    /// When a parked key runs next.
    Delay(Scope, KeyId, Delay),
    /// An event leaves its marker.
    Pop(Scope, KeyId, EventId),
    /// A marker goes.
    Remove(Scope, KeyId),
}

/// When a parked key runs next, and why not before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The time.
    pub due: u64,
    /// Attempts to add.
    pub attempts: u32,
    /// It waits for an operator.
    pub held: bool,
    /// What is said of it.
    pub said: Said,
    /// The time of the failure.
    pub now: u64,
}

/// What a claim answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is this transaction's.
    Run,
    /// It is settled.
    Settled(State),
    /// Another transaction has it.
    Waits,
}

/// What following a marker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// It stands behind it.
    Parked,
    /// There is no marker.
    Unmarked,
    /// Another transaction has the marker.
    Waits,
}

/// The answer to a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It stands.
    Yes,
    /// The server refused, and rolled back.
    Refused,
    /// There is none.
    Unknown,
}

/// A transaction.
#[derive(Debug)]
pub struct Tx {
    /// Instance and run of the process.
    pub owner: (usize, u64),
    changes: Vec<Change>,
    locks: Vec<Lock>,
    /// Its COMMIT is on the way.
    pub committing: bool,
    /// Nobody hears its answers any more, since then.
    pub orphan: Option<u64>,
    /// When it was last heard of.
    pub heard: u64,
}

/// The transaction is gone: the connection broke, or the server ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// All of it.
#[derive(Debug, Default)]
pub struct Database {
    /// Nobody reaches it.
    pub down: bool,
    rows: Vec<Vec<Option<State>>>,
    /// Parked keys.
    pub markers: BTreeMap<(Scope, KeyId), Marker>,
    locks: BTreeMap<Lock, TxId>,
    /// Open transactions.
    pub txs: BTreeMap<TxId, Tx>,
    answers: BTreeMap<TxId, Answer>,
    numbers: TxId,
}

impl Database {
    /// One for so many scopes.
    pub fn new(scopes: usize) -> Database {
        Database { rows: vec![Vec::new(); scopes], ..Database::default() }
    }

    /// What stands of an event.
    pub fn row(&self, scope: Scope, event: EventId) -> Option<State> {
        self.rows[scope].get(event).copied().flatten()
    }

    /// Begins a transaction.
    pub fn begin(&mut self, owner: (usize, u64), now: u64) -> Result<TxId, Gone> {
        if self.down {
            return Err(Gone);
        }
        self.numbers += 1;
        let (changes, locks) = (Vec::new(), Vec::new());
        let tx = Tx { owner, changes, locks, committing: false, orphan: None, heard: now };
        self.txs.insert(self.numbers, tx);
        Ok(self.numbers)
    }

    /// A statement: the transaction still stands.
    pub fn hear(&mut self, tx: TxId, now: u64) -> Result<(), Gone> {
        let tx = self.txs.get_mut(&tx).filter(|tx| tx.orphan.is_none()).ok_or(Gone)?;
        tx.heard = now;
        Ok(())
    }

    /// Takes a lock; false where another has it.
    pub fn lock(&mut self, tx: TxId, lock: Lock) -> bool {
        match self.locks.get(&lock) {
            Some(holder) => *holder == tx,
            None => {
                self.locks.insert(lock, tx);
                if let Some(open) = self.txs.get_mut(&tx) {
                    open.locks.push(lock);
                }
                true
            }
        }
    }

    /// Gives a lock back, as a rollback to a savepoint does.
    pub fn unlock(&mut self, tx: TxId, lock: Lock) {
        if self.locks.get(&lock) == Some(&tx) {
            self.locks.remove(&lock);
            if let Some(open) = self.txs.get_mut(&tx) {
                open.locks.retain(|held| *held != lock);
            }
        }
    }

    /// Adds a change.
    pub fn change(&mut self, tx: TxId, change: Change) {
        if let Some(open) = self.txs.get_mut(&tx) {
            open.changes.push(change);
        }
    }

    /// Takes a change back.
    pub fn unchange(&mut self, tx: TxId, which: impl Fn(&Change) -> bool) {
        if let Some(open) = self.txs.get_mut(&tx) {
            open.changes.retain(|change| !which(change));
        }
    }

    /// Claims an event: `inbox.claim_group` for one. `peek`: it only looks (a mutant).
    pub fn claim(&mut self, tx: TxId, scope: Scope, event: EventId, peek: bool) -> Claim {
        let lock = Lock::Claim(scope, event);
        if peek {
            return match self.row(scope, event) {
                Some(state) => Claim::Settled(state),
                None => {
                    self.change(tx, Change::Settle(scope, event, State::Done));
                    Claim::Run
                }
            };
        }
        if self.locks.get(&lock).is_some_and(|holder| *holder != tx) {
            return Claim::Waits;
        }
        if let Some(state) = self.row(scope, event) {
            return Claim::Settled(state);
        }
        self.lock(tx, lock);
        self.change(tx, Change::Settle(scope, event, State::Done));
        Claim::Run
    }

    /// What a claimed event becomes instead: `inbox.settle_group`; `None` gives the claim back.
    pub fn settle(&mut self, tx: TxId, scope: Scope, event: EventId, state: Option<State>) {
        self.unchange(tx, |change| matches!(change, Change::Settle(s, e, _) if (*s, *e) == (scope, event)));
        if let Some(state) = state {
            self.change(tx, Change::Settle(scope, event, state));
        }
    }

    /// Whether a key is parked: `inbox.marked`.
    pub fn is_marked(&self, scope: Scope, key: KeyId) -> bool {
        self.markers.contains_key(&(scope, key))
    }

    /// Queues a claimed event behind a marker: `inbox.follow`.
    pub fn follow(&mut self, tx: TxId, scope: Scope, key: KeyId, event: EventId) -> Follow {
        if !self.lock(tx, Lock::Marker(scope, key)) {
            return Follow::Waits;
        }
        let made = |change: &Change| matches!(change, Change::Mark(s, k, _) if (*s, *k) == (scope, key));
        let made = self.txs.get(&tx).is_some_and(|tx| tx.changes.iter().any(made));
        if !made && !self.is_marked(scope, key) {
            return Follow::Unmarked;
        }
        self.settle(tx, scope, event, Some(State::Parked));
        self.change(tx, Change::Append(scope, key, event));
        Follow::Parked
    }

    /// Parks the key of a claimed event: `inbox.park`. A marker that is there is joined.
    pub fn park(&mut self, tx: TxId, scope: Scope, key: KeyId, event: EventId, delay: Delay) -> Follow {
        if !self.lock(tx, Lock::Marker(scope, key)) {
            return Follow::Waits;
        }
        if !self.is_marked(scope, key) {
            self.change(tx, Change::Mark(scope, key, delay));
        }
        self.follow(tx, scope, key, event)
    }

    /// Sends COMMIT.
    pub fn commit(&mut self, tx: TxId) {
        if let Some(open) = self.txs.get_mut(&tx) {
            open.committing = true;
        }
    }

    /// The answer to COMMIT, once there is one.
    pub fn answer(&mut self, tx: TxId) -> Option<Answer> {
        if let Some(answer) = self.answers.remove(&tx) {
            return Some(answer);
        }
        match self.txs.get(&tx) {
            Some(open) if open.orphan.is_none() => None,
            _ => Some(Answer::Unknown),
        }
    }

    /// Nobody hears of the transaction any more: its connection is thrown away.
    pub fn drop_connection(&mut self, tx: TxId, now: u64) {
        self.answers.remove(&tx);
        if let Some(open) = self.txs.get_mut(&tx) {
            open.orphan.get_or_insert(now);
        }
    }

    /// ROLLBACK, or the server's end of a transaction.
    pub fn abort(&mut self, tx: TxId, answer: Option<Answer>) {
        let Some(gone) = self.txs.remove(&tx) else { return };
        for lock in &gone.locks {
            self.locks.remove(lock);
        }
        if let (None, Some(answer)) = (gone.orphan, answer) {
            self.answers.insert(tx, answer);
        }
    }

    /// Commits: what it changed is seen, and returned. `lost`: nobody hears the answer. `split` (a mutant): effects now,
    /// and the rest with a second commit.
    pub fn apply(&mut self, tx: TxId, lost: bool, split: bool) -> Vec<Change> {
        let Some(open) = self.txs.get_mut(&tx) else { return Vec::new() };
        let is_effect = |change: &Change| matches!(change, Change::Effect(..));
        if split && open.changes.iter().any(is_effect) {
            let (effects, rest) = std::mem::take(&mut open.changes).into_iter().partition(is_effect);
            open.changes = rest;
            return effects;
        }
        let Some(open) = self.txs.remove(&tx) else { return Vec::new() };
        for lock in &open.locks {
            self.locks.remove(lock);
        }
        for change in &open.changes {
            self.see(change);
        }
        if open.orphan.is_none() {
            self.answers.insert(tx, if lost { Answer::Unknown } else { Answer::Yes });
        }
        open.changes
    }

    fn see(&mut self, change: &Change) {
        match *change {
            Change::Settle(scope, event, state) => {
                let rows = &mut self.rows[scope];
                if rows.len() <= event {
                    rows.resize(event + 1, None);
                }
                rows[event] = Some(state);
            }
            Change::Effect(..) => {}
            Change::Mark(scope, key, delay) => {
                let Delay { due, attempts, held, said, now } = delay;
                let marker = Marker { queue: VecDeque::new(), attempts, due, held, first_failed: now, said };
                self.markers.insert((scope, key), marker);
            }
            Change::Append(scope, key, event) => {
                if let Some(marker) = self.markers.get_mut(&(scope, key)) {
                    marker.queue.push_back(event);
                }
            }
            Change::Delay(scope, key, Delay { due, attempts, held, said, .. }) => {
                if let Some(marker) = self.markers.get_mut(&(scope, key)) {
                    marker.attempts += attempts;
                    (marker.due, marker.held, marker.said) = (due, held, said);
                }
            }
            Change::Pop(scope, key, event) => {
                if let Some(marker) = self.markers.get_mut(&(scope, key)) {
                    marker.queue.retain(|waiting| *waiting != event);
                    (marker.attempts, marker.said) = (0, Said::default());
                    marker.due = 0;
                }
            }
            Change::Remove(scope, key) => {
                self.markers.remove(&(scope, key));
            }
        }
    }

    /// Whether no transaction is open.
    pub fn is_quiet(&self) -> bool {
        self.txs.is_empty()
    }
}
