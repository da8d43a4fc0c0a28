//! The ledger against a naive model, by random schedules, and under threads.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// A ledger with the words of its rules and nothing clever: it keeps everything and looks at it all.
struct Model {
    start: Lsn,
    capacity: usize,
    entries: Vec<ModelEntry>,
    passed: usize,
}

#[derive(Clone, Copy)]
struct ModelEntry {
    transaction: Option<Transaction>,
    end: Option<Lsn>,
    sent: u32,
    settled: u32,
}

impl Model {
    fn is_open(&self) -> bool {
        self.entries.last().is_some_and(|e| e.end.is_none())
    }
    fn newest_end(&self) -> Lsn {
        self.entries.iter().filter_map(|e| e.end).max().unwrap_or(self.start)
    }
    fn is_full(&self) -> bool {
        self.entries.len() - self.passed >= self.capacity
    }
    fn advance(&mut self) -> Confirmed {
        self.passed = self.entries.iter().take_while(|e| e.end.is_some() && e.sent == e.settled).count();
        let passed = &self.entries[..self.passed];
        let published = || passed.iter().filter(|e| e.sent > 0);
        Confirmed {
            end_lsn: passed.iter().filter_map(|e| e.end).max().unwrap_or(self.start),
            last_published: published().next_back().map(|e| LastPublished {
                end_lsn: e.end.unwrap(),
                xid: e.transaction.unwrap().xid,
                commit_time: e.transaction.unwrap().commit_time,
            }),
            transactions: published().count() as u64,
            outstanding: self.entries[self.passed..].iter().filter(|e| e.end.is_some()).count() as u64,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Open,
    Row,
    RowNotSent,
    Commit { step: u64 },
    Keepalive { back: bool, step: u64 },
    Settle { which: usize },
    Advance,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Open),
        5 => Just(Step::Row),
        1 => Just(Step::RowNotSent),
        4 => (1..5u64).prop_map(|step| Step::Commit { step }),
        2 => (any::<bool>(), 0..5u64).prop_map(|(back, step)| Step::Keepalive { back, step }),
        6 => any::<usize>().prop_map(|which| Step::Settle { which }),
        4 => Just(Step::Advance),
    ]
}

/// A ledger and its model, driven together.
struct Pair {
    writer: Writer,
    settler: Settler,
    head: Head,
    model: Model,
    /// Rows sent and not settled: what the producer holds, and whose it is.
    in_flight: Vec<(usize, usize)>,
}

impl Pair {
    fn new(capacity: usize) -> Pair {
        let start = Lsn(100);
        let (writer, settler, head) = ledger(capacity, start);
        let model = Model { start, capacity, entries: Vec::new(), passed: 0 };
        Pair { writer, settler, head, model, in_flight: Vec::new() }
    }

    fn take(&mut self, step: Step) {
        let newest = self.model.newest_end();
        match step {
            Step::Open if !self.model.is_open() => {
                let xid = self.model.entries.len() as u32;
                let transaction =
                    Transaction { commit_lsn: newest, xid, commit_time: i64::from(xid) * 10 - 1_000 };
                let opened = self.writer.open(transaction);
                assert_eq!(opened.is_err(), self.model.is_full());
                if opened.is_ok() {
                    let entry = ModelEntry { transaction: Some(transaction), end: None, sent: 0, settled: 0 };
                    self.model.entries.push(entry);
                }
            }
            Step::Row if self.model.is_open() => {
                let index = self.model.entries.len() - 1;
                self.in_flight.push((self.writer.row(), index));
                self.model.entries[index].sent += 1;
            }
            Step::RowNotSent if self.model.is_open() => {
                let opaque = self.writer.row();
                self.writer.unsent(opaque);
            }
            Step::Commit { step } if self.model.is_open() => {
                let end = Lsn(newest.0 + step);
                self.writer.commit(end);
                self.model.entries.last_mut().unwrap().end = Some(end);
            }
            Step::Keepalive { back, step } => {
                self.keepalive(if back { newest.0 - step } else { newest.0 + step })
            }
            Step::Settle { which } if !self.in_flight.is_empty() => {
                let (opaque, index) = self.in_flight.swap_remove(which % self.in_flight.len());
                self.settler.settle(opaque);
                self.model.entries[index].settled += 1;
            }
            Step::Advance => self.advance(),
            _ => {}
        }
        assert_eq!(self.writer.is_open(), self.model.is_open());
        assert_eq!(self.writer.newest_end(), self.model.newest_end());
    }

    fn keepalive(&mut self, wal_end: u64) {
        let expected = if self.model.is_open() || Lsn(wal_end) <= self.model.newest_end() {
            Ok(false)
        } else if self.model.is_full() {
            Err(Full { capacity: self.model.capacity })
        } else {
            let end = Some(Lsn(wal_end));
            self.model.entries.push(ModelEntry { transaction: None, end, sent: 0, settled: 0 });
            Ok(true)
        };
        assert_eq!(self.writer.keepalive(Lsn(wal_end)), expected);
    }

    fn advance(&mut self) {
        assert_eq!(self.head.advance(), self.model.advance());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn agrees_with_the_model(capacity in 0..4u32, steps in prop::collection::vec(step(), 0..200)) {
        let mut pair = Pair::new(1 << capacity);
        for step in steps {
            pair.take(step);
        }
        pair.advance();
        // Whatever was left: once all is settled and ended, all is confirmed.
        pair.take(Step::Commit { step: 1 });
        for which in 0..pair.in_flight.len() {
            pair.take(Step::Settle { which });
        }
        pair.advance();
        prop_assert_eq!(pair.head.advance().end_lsn, pair.model.newest_end());
    }
}

const T: Transaction = Transaction { commit_lsn: Lsn(110), xid: 7, commit_time: -5 };

#[test]
fn a_settled_later_transaction_waits_for_the_earlier_one() {
    let (mut writer, settler, mut head) = ledger(4, Lsn(100));
    writer.open(T).unwrap();
    let first = writer.row();
    writer.commit(Lsn(120));
    writer.open(Transaction { commit_lsn: Lsn(120), xid: 8, commit_time: 0 }).unwrap();
    let second = writer.row();
    writer.commit(Lsn(130));
    settler.settle(second);
    assert_eq!(head.advance().end_lsn, Lsn(100));
    settler.settle(first);
    let confirmed = head.advance();
    assert_eq!((confirmed.end_lsn, confirmed.transactions), (Lsn(130), 2));
    assert_eq!(confirmed.last_published, Some(LastPublished { end_lsn: Lsn(130), xid: 8, commit_time: 0 }));
}

#[test]
fn rows_settled_before_their_commit_confirm_nothing_until_it_is_seen() {
    let (mut writer, settler, mut head) = ledger(1, Lsn(100));
    writer.open(T).unwrap();
    for _ in 0..1_000 {
        settler.settle(writer.row());
    }
    assert_eq!(
        head.advance(),
        Confirmed { end_lsn: Lsn(100), last_published: None, transactions: 0, outstanding: 0 }
    );
    assert_eq!(writer.keepalive(Lsn(500)), Ok(false), "a keepalive inside a transaction confirms nothing");
    writer.commit(Lsn(120));
    assert_eq!(writer.open(T), Err(Full { capacity: 1 }));
    assert_eq!(head.advance().end_lsn, Lsn(120));
    writer.open(T).unwrap();
}

#[test]
fn a_keepalive_waits_for_what_is_outstanding_and_is_not_a_publication() {
    let (mut writer, settler, mut head) = ledger(4, Lsn(100));
    assert_eq!(writer.keepalive(Lsn(100)), Ok(false));
    writer.open(T).unwrap();
    let row = writer.row();
    writer.commit(Lsn(120));
    assert_eq!(writer.keepalive(Lsn(200)), Ok(true));
    assert_eq!(head.advance().end_lsn, Lsn(100));
    settler.settle(row);
    let confirmed = head.advance();
    assert_eq!((confirmed.end_lsn, confirmed.transactions, confirmed.outstanding), (Lsn(200), 1, 0));
    assert_eq!(confirmed.last_published.unwrap().end_lsn, Lsn(120));
}

#[test]
fn a_late_report_of_an_earlier_ledger_settles_nothing() {
    let (mut old, _, _) = ledger(4, Lsn(100));
    old.open(T).unwrap();
    let late = old.row();
    let (mut writer, settler, mut head) = ledger(4, Lsn(100));
    writer.open(T).unwrap();
    let row = writer.row();
    writer.commit(Lsn(120));
    settler.settle(late);
    assert_eq!(head.advance().end_lsn, Lsn(100));
    settler.settle(row);
    assert_eq!(head.advance().end_lsn, Lsn(120));
}

#[test]
#[should_panic(expected = "not of the open transaction")]
fn a_row_of_an_ended_transaction_is_not_taken_back() {
    let (mut writer, _, _) = ledger(4, Lsn(100));
    writer.open(T).unwrap();
    let row = writer.row();
    writer.commit(Lsn(120));
    writer.open(T).unwrap();
    writer.unsent(row);
}

/// The truth about each transaction, kept beside the ledger: what was sent, and what was settled before
/// the ledger was told.
struct Truth {
    sent: Vec<AtomicU64>,
    settled: Vec<AtomicU64>,
    /// The head has given up, so that a failure ends the test instead of leaving the writer waiting.
    over: AtomicBool,
}

const TRANSACTIONS: usize = 200_000;

fn end_of(index: usize) -> Lsn {
    Lsn(10 + 10 * index as u64)
}

/// Opens, fills and ends all transactions, rows going to the settlers in turn.
fn write_all(mut writer: Writer, settlers: &[SyncSender<(usize, usize)>], truth: &Truth) {
    let mut random = 1u64;
    for index in 0..TRANSACTIONS {
        let transaction = Transaction { commit_lsn: end_of(index), xid: index as u32, commit_time: 0 };
        while writer.open(transaction).is_err() {
            if truth.over.load(SeqCst) {
                return;
            }
            std::thread::yield_now();
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for row in 0..(random >> 33) % 4 {
            truth.sent[index].fetch_add(1, SeqCst);
            settlers[row as usize % settlers.len()].send((writer.row(), index)).unwrap();
        }
        writer.commit(end_of(index));
    }
}

/// Settles a few rows at a time, the newest first.
fn settle_all(settler: &Settler, rows: &Receiver<(usize, usize)>, truth: &Truth) {
    let mut held = Vec::new();
    while let Ok(row) = rows.recv() {
        held.push(row);
        held.extend(rows.try_iter().take(5));
        for (opaque, index) in held.drain(..).rev() {
            truth.settled[index].fetch_add(1, SeqCst);
            settler.settle(opaque);
        }
    }
}

/// Confirms until all is, and says what was confirmed wrongly, or that nothing more is.
fn confirm_all(head: &mut Head, truth: &Truth) -> Result<(), String> {
    let mut checked = 0;
    let mut progress = Instant::now();
    while checked < TRANSACTIONS {
        let confirmed = head.advance();
        let before = checked;
        while checked < TRANSACTIONS && end_of(checked) <= confirmed.end_lsn {
            if truth.sent[checked].load(SeqCst) != truth.settled[checked].load(SeqCst) {
                return Err(format!("transaction {checked} was confirmed too early"));
            }
            checked += 1;
        }
        if before < checked {
            progress = Instant::now();
        } else if progress.elapsed() > Duration::from_secs(20) {
            return Err(format!("transaction {checked} is never confirmed"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Many reuses of few slots by a writer, two settlers that settle out of order and a head: whatever the
/// head confirms has every row settled, and in the end all is confirmed.
#[test]
fn threads_never_confirm_what_is_not_settled() {
    let zeros = || (0..TRANSACTIONS).map(|_| AtomicU64::new(0)).collect();
    let truth = Truth { sent: zeros(), settled: zeros(), over: AtomicBool::new(false) };
    let (writer, settler, mut head) = ledger(8, Lsn(0));
    let outcome = std::thread::scope(|scope| {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..2).map(|_| sync_channel(64)).unzip();
        for receiver in receivers {
            let (settler, truth) = (settler.clone(), &truth);
            scope.spawn(move || settle_all(&settler, &receiver, truth));
        }
        let shared = &truth;
        scope.spawn(move || write_all(writer, &senders, shared));
        let outcome = confirm_all(&mut head, &truth);
        truth.over.store(true, SeqCst);
        outcome
    });
    assert_eq!(outcome, Ok(()));
    assert_eq!(head.advance().outstanding, 0);
}
