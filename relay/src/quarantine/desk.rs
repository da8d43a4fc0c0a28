//! What the router hands to the keeper and asks of it. The router is a thread without I/O to PostgreSQL;
//! the keeper is a task beside the session's loop.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::entry::{Cause, Entry, RawRow};
use crate::lsn::Lsn;
use crate::session::Ending;

/// Entries on their way into the table; full means that the router waits.
const MAX_WAITING: usize = 500;
/// Their bytes.
const MAX_WAITING_BYTES: usize = 16 << 20;
/// How long one wait lasts before the session's end is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Which entry: epoch, commit LSN, ordinal. In this order entries of one key were read.
pub type EntryId = (u64, Lsn, u64);

/// An entry as it comes back from the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which one.
    pub id: EntryId,
    /// Commit time of its transaction, Unix milliseconds.
    pub commit_unix_millis: i64,
    /// The row; `None` where only a reference was kept, or what is stored is no row.
    pub row: Option<RawRow>,
}

/// What was decided of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// The entry.
    pub entry: Stored,
    /// Discarded, not released.
    pub discard: bool,
    /// Its queue and key; `None` where nothing is held.
    pub queue: Option<(String, Vec<u8>)>,
}

/// What became of a decided entry and those behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The decided entry.
    pub head: EntryId,
    /// Whether it was discarded.
    pub discard: bool,
    /// Its queue and key.
    pub queue: Option<(String, Vec<u8>)>,
    /// The last of those behind it that was published.
    pub last: Option<EntryId>,
    /// The one that could not be published: from now on the queue's held one.
    pub stuck: Option<Stuck>,
}

/// An entry that could not be published when its turn came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Which one.
    pub id: EntryId,
    /// Why.
    pub cause: Cause,
    /// In words.
    pub reason: String,
}

/// What the router asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// What was decided of this entry; nothing, where the decision is carried out already.
    Decision {
        /// The entry.
        id: EntryId,
        /// The transaction that brought the message and marked the entry.
        xid: u32,
    },
    /// The next of those that queued up, after this one.
    Behind {
        /// Queue and key.
        queue: (String, Vec<u8>),
        /// The last that is known; `None` for the first page.
        after: Option<EntryId>,
    },
    /// To be written down; answered with the number of entries that are settled by it.
    Outcome(Outcome),
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Decision`].
    Decision(Option<Box<Decided>>),
    /// To [`Question::Behind`]; empty at the end.
    Behind(Vec<Stored>),
    /// To [`Question::Outcome`].
    Settled(u64),
}

/// One thing to do, in the order of the stream.
pub enum Order {
    /// Put an entry into the table, list it, and settle its row.
    Enter(Box<Entry>, usize),
    /// Answer.
    Ask(Box<Question>, SyncSender<Answer>),
}

#[derive(Default)]
struct Orders {
    waiting: VecDeque<Order>,
    /// Taken and not yet done.
    at_work: usize,
    entries: usize,
    bytes: usize,
}

/// The desk between router and keeper.
#[derive(Default)]
pub struct Desk {
    orders: Mutex<Orders>,
    room: Condvar,
    work: Notify,
}

impl Desk {
    /// Hands an entry in; waits while too many are on their way. The row settles later.
    pub fn enter(&self, entry: Entry, opaque: usize, ending: &Ending) {
        let charge = entry.charge();
        let mut orders = self.orders.lock();
        let full = |orders: &Orders| orders.entries >= MAX_WAITING || orders.bytes >= MAX_WAITING_BYTES;
        while full(&orders) && !ending.is_over() {
            self.room.wait_for(&mut orders, LOOK);
        }
        orders.entries += 1;
        orders.bytes += charge;
        orders.waiting.push_back(Order::Enter(Box::new(entry), opaque));
        drop(orders);
        self.work.notify_one();
    }

    /// Asks and waits for the answer; `None` when the session is over. What was handed in before is done
    /// before.
    pub fn ask(&self, question: Question, ending: &Ending) -> Option<Answer> {
        self.ask_until(question, ending, |_| false)
    }

    /// The same; also `None` when the caller, told how long it waits, gives up.
    pub fn ask_until(
        &self,
        question: Question,
        ending: &Ending,
        gives_up: impl Fn(Duration) -> bool,
    ) -> Option<Answer> {
        let since = Instant::now();
        let (reply, answer) = mpsc::sync_channel(1);
        self.orders.lock().waiting.push_back(Order::Ask(Box::new(question), reply));
        self.work.notify_one();
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) if !ending.is_over() && !gives_up(since.elapsed()) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// Waits for work: a question, or as many entries as may go into one statement.
    pub async fn take(&self, most: usize, most_bytes: usize) -> Vec<Order> {
        loop {
            let taken = self.take_now(most, most_bytes);
            if !taken.is_empty() {
                return taken;
            }
            self.work.notified().await;
        }
    }

    fn take_now(&self, most: usize, most_bytes: usize) -> Vec<Order> {
        let mut orders = self.orders.lock();
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(order) = orders.waiting.front() {
            let charge = match order {
                Order::Ask(..) if taken.is_empty() => 0,
                Order::Ask(..) => break,
                Order::Enter(entry, _) => entry.charge(),
            };
            let asked = matches!(order, Order::Ask(..));
            if !taken.is_empty() && (taken.len() >= most || bytes + charge > most_bytes) {
                break;
            }
            bytes += charge;
            taken.extend(orders.waiting.pop_front());
            if asked {
                break;
            }
        }
        orders.at_work += taken.len();
        taken
    }

    /// What was taken is done.
    pub fn done(&self, count: usize, entries: usize, bytes: usize) {
        let mut orders = self.orders.lock();
        orders.at_work -= count;
        orders.entries -= entries;
        orders.bytes -= bytes;
        self.room.notify_all();
    }

    /// Whether nothing waits and nothing is being done.
    pub fn is_idle(&self) -> bool {
        let orders = self.orders.lock();
        orders.waiting.is_empty() && orders.at_work == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quarantine::State;
    use crate::router::{Place, RowPosition};

    fn entry(ordinal: u64, bytes: usize) -> Entry {
        let row = RawRow { columns: Vec::new(), values: vec![Some(vec![0; bytes])], formats: "t".to_owned() };
        Entry {
            at: RowPosition { epoch: 1, commit_lsn: Lsn(1), ordinal, commit_unix_millis: 0 },
            place: Place::default(),
            held_by: None,
            state: State::Held,
            cause: Cause::Header,
            reason: String::new(),
            row: Some(row),
            bytes: 0,
        }
    }

    fn ordinals(orders: &[Order]) -> Vec<Option<u64>> {
        let ordinal = |order: &Order| match order {
            Order::Enter(entry, _) => Some(entry.at.ordinal),
            Order::Ask(..) => None,
        };
        orders.iter().map(ordinal).collect()
    }

    #[test]
    fn work_is_taken_in_order_and_a_question_by_itself() {
        let (desk, ending) = (std::sync::Arc::new(Desk::default()), std::sync::Arc::new(Ending::default()));
        for ordinal in 0..3 {
            desk.enter(entry(ordinal, 10), 0, &ending);
        }
        let asking = std::thread::spawn({
            let (desk, ending) = (desk.clone(), ending.clone());
            move || desk.ask(Question::Decision { id: (1, Lsn(1), 0), xid: 7 }, &ending)
        });
        while desk.orders.lock().waiting.len() < 4 {
            std::thread::yield_now();
        }
        desk.enter(entry(9, 10), 0, &ending);
        assert_eq!(ordinals(&desk.take_now(2, 1 << 20)), [Some(0), Some(1)]);
        assert_eq!(ordinals(&desk.take_now(2, 1 << 20)), [Some(2)]);
        let asked = desk.take_now(2, 1 << 20);
        assert_eq!(ordinals(&asked), [None]);
        assert!(!desk.is_idle());
        for order in asked {
            if let Order::Ask(_, reply) = order {
                reply.send(Answer::Decision(None)).unwrap();
            }
        }
        assert_eq!(asking.join().unwrap(), Some(Answer::Decision(None)));
        assert_eq!(ordinals(&desk.take_now(2, 1 << 20)), [Some(9)]);
        desk.done(5, 4, 4 * (10 + 1024));
        assert!(desk.is_idle());
    }

    #[test]
    fn one_statement_is_bounded_in_bytes_and_takes_at_least_one() {
        let (desk, ending) = (Desk::default(), Ending::default());
        desk.enter(entry(0, 5000), 0, &ending);
        desk.enter(entry(1, 5000), 0, &ending);
        assert_eq!(ordinals(&desk.take_now(100, 1000)), [Some(0)]);
        assert_eq!(ordinals(&desk.take_now(100, 100_000)), [Some(1)]);
    }

    #[test]
    fn what_became_of_a_decision_comes_back_from_the_state_record_as_it_went() {
        let stuck = Stuck { id: (1, Lsn(9), 2), cause: Cause::TooLarge, reason: "too large".to_owned() };
        let outcome = Outcome {
            head: (1, Lsn(7), 0),
            discard: false,
            queue: Some(("t".to_owned(), vec![0, 255])),
            last: Some((1, Lsn(8), 0)),
            stuck: Some(stuck),
        };
        let text = serde_json::to_string(&outcome).unwrap();
        assert!(text.contains("\"too_large\""), "{text}");
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
    }

    #[test]
    fn whoever_asks_may_give_up() {
        let (desk, ending) = (Desk::default(), Ending::default());
        let question = Question::Decision { id: (1, Lsn(1), 0), xid: 7 };
        assert_eq!(desk.ask_until(question, &ending, |waited| waited > LOOK), None);
    }

    #[test]
    fn whoever_waits_hears_the_end() {
        let (desk, ending) = (Desk::default(), Ending::default());
        ending.end(crate::session::End::Drained);
        assert_eq!(desk.ask(Question::Decision { id: (1, Lsn(1), 0), xid: 7 }, &ending), None);
    }
}
