//! Handlers that have no transaction, several at a time on one task: one look at the engine is for all of them.
//!
//! A worker takes the runs of several keys. It asks for all first records at once, begins them one after the other, and
//! waits only for those that wait themselves. What has ended is settled at the next look, together with the question
//! for the records behind. Handlers that only compute gain the most; those that wait run beside each other here as they
//! would in workers of their own, and no more of them than the consumer's concurrency.
//!
//! What computes for long would hold up the others on its task: how many are taken follows from how long the last ones
//! took, and those that are not begun in time go back.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::attempt::{Attempt, attempt};
use super::engine::{After, Work};
use super::failure::{Failed, failed};
use super::inbox::Name;
use super::outside;
use super::permit::{Counted, Running, Told};
use super::worker::{Fate, Plan, end, gone, plan};
use super::{AGAIN, Shared};
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::journal::{Ending, Permit, Started};
use crate::keys::Item;
use crate::metrics::counts::Settled;
use crate::record::{Company, Record};

/// Most keys of one task.
pub(super) const MOST: usize = 64;
/// How long handlers may compute on one task before those that are not begun go back.
const TURN: Duration = Duration::from_millis(1);
/// The clock is looked at behind one in so many handlers.
const CLOCK: usize = 8;
/// Handlers that take less than this, each, let more of them run on a task; four times as long lets fewer.
const SHORT: Duration = Duration::from_micros(20);

/// Whether these records are for this module.
pub(super) fn is_light(works: &[Work]) -> bool {
    let first = works.first().and_then(Work::first);
    first.is_some_and(|record| record.company.is_some_and(Company::is_light))
}

/// A record whose handler may start.
struct Head {
    work: Work,
    item: Item<Record>,
    started: Started,
}

/// A record whose handler has ended.
struct Ended<'s> {
    work: Work,
    item: Item<Record>,
    running: Running<'s>,
    name: Name,
    attempt: Attempt,
}

/// What follows for a record and takes its time; `None` when all of it is done.
type Waiting<'s> = Pin<Box<dyn Future<Output = Option<Ended<'s>>> + Send + 's>>;

/// Runs what it is given to the end. `size` is how many keys are to be taken the next time.
pub(super) async fn run(shared: &Arc<Shared>, works: Vec<Work>, size: &mut usize) {
    let mut waiting: FuturesUnordered<Waiting<'_>> = FuturesUnordered::new();
    let (mut idle, mut ended) = (works, Vec::new());
    loop {
        let (heads, other) = look(shared, &mut idle, &mut ended);
        if let Some(work) = other {
            wait_by_itself(shared, work, &mut waiting);
        }
        let (begun, count) = (Instant::now(), heads.len());
        let mut heads = heads.into_iter();
        let mut back = Vec::new();
        for (number, head) in heads.by_ref().enumerate() {
            let Some(place) = Counted::below(&shared.waiting, shared.registered.concurrency) else {
                back.push(head);
                break;
            };
            begin(shared, head, place, &mut ended, &mut waiting).await;
            // The first say how long they take; to look at the clock behind each would take as long as some of them.
            if number % CLOCK == 0 && begun.elapsed() >= TURN {
                break;
            }
        }
        back.extend(heads);
        give_back(shared, back);
        let each = begun.elapsed() / u32::try_from(count.max(1)).unwrap_or(1);
        *size = if each < SHORT {
            (*size * 2).min(MOST)
        } else if each < SHORT * 4 {
            *size
        } else {
            1
        };
        let failed = ended.extract_if(.., |ended| !is_settled(&ended.attempt));
        for failed in failed {
            waiting.push(Box::pin(follow(shared, failed)));
        }
        if ended.is_empty() {
            if waiting.is_empty() {
                return;
            }
            some_end(&mut waiting, &mut ended).await;
        }
    }
}

/// Waits until one has ended, and takes in all that have.
async fn some_end<'s>(waiting: &mut FuturesUnordered<Waiting<'s>>, ended: &mut Vec<Ended<'s>>) {
    let mut any = false;
    poll_fn(|cx| {
        loop {
            match waiting.poll_next_unpin(cx) {
                Poll::Ready(Some(one)) => {
                    any = true;
                    ended.extend(one);
                }
                Poll::Pending if !any => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// One look at the engine: settles what has ended, and asks for what comes next of each run. Runs of which nothing is
/// left are over. Returns those that may start, and one that may not yet, to ask again by itself; others of its kind go
/// back.
fn look(shared: &Shared, idle: &mut Vec<Work>, ended: &mut Vec<Ended<'_>>) -> (Vec<Head>, Option<Work>) {
    let (mut heads, mut other) = (Vec::with_capacity(idle.len() + ended.len()), None);
    let mut settled = Vec::with_capacity(ended.len());
    for ended in ended.iter() {
        shared.registered.metrics.settled(&ended.item.record, how(&ended.attempt));
    }
    let mut engine = shared.engine();
    for Ended { work, item, running, attempt, .. } in ended.drain(..) {
        if let Some(started) = running.into_started() {
            engine.handler_ended(started, Ending::Settled);
        }
        engine.settled(work.lane(), &item.record, how(&attempt) != Settled::Done);
        settled.push(item);
        idle.push(work);
    }
    for mut work in idle.drain(..) {
        // What is left of a partition that leaves is its next owner's.
        let next = if engine.goes_on(work.lane()) { work.take_first() } else { None };
        let Some(item) = next else {
            let _no_hold = engine.end(work, After::GoOn);
            continue;
        };
        match engine.may_start(work.lane(), &item.record) {
            Permit::Start(started) => heads.push(Head { work, item, started }),
            // Asked again, one by one: it waits for a commit, or is not to run at all.
            Permit::CommitFirst | Permit::Wait | Permit::Convict { .. } | Permit::Gone => {
                engine.will_not_start(work.lane(), &item.record);
                work.give_back(item);
                if let Some(one_too_many) = other.replace(work) {
                    let _no_hold = engine.end(one_too_many, After::GoOn);
                }
            }
        }
    }
    drop(engine);
    shared.bury(settled);
    shared.permits_changed();
    (heads, other)
}

/// Begins a handler: it ends at once, or is waited for beside the others.
async fn begin<'s>(
    shared: &'s Arc<Shared>,
    Head { mut work, mut item, started }: Head,
    place: Counted<'s>,
    ended: &mut Vec<Ended<'s>>,
    waiting: &mut FuturesUnordered<Waiting<'s>>,
) {
    let running = Running::begun(shared, started);
    let Plan::Run(handler, name) = plan(shared, &item.record) else {
        // It is given up by itself, so that nobody waits for its dead letter.
        item.record.company = None;
        work.give_back(item);
        end(shared, work, Some(&Fate::Again(Duration::ZERO)));
        return shared.work.notify_one();
    };
    let told = match Told::admitted(shared, handler) {
        Ok(told) => told,
        Err(wait) => {
            drop(running);
            work.give_back(item);
            return end(shared, work, Some(&Fate::Again(wait)));
        }
    };
    let lost = work.lost.clone();
    let mut call = Box::pin(call(shared, item, running, handler, name, told));
    match poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await {
        Poll::Ready(called) => ended.push(called.of(work)),
        Poll::Pending => waiting.push(Box::pin(async move {
            let _place = place;
            tokio::select! {
                biased;
                // The partition is another's: what runs for it ends here, and decides nothing (C30).
                () = gone(lost) => {
                    drop(call);
                    end(shared, work, Some(&Fate::Left));
                    None
                }
                called = &mut call => Some(called.of(work)),
            }
        })),
    }
}

/// A handler that has ended, without the run that its record is of.
struct Called<'s> {
    item: Item<Record>,
    running: Running<'s>,
    name: Name,
    attempt: Attempt,
}

impl<'s> Called<'s> {
    fn of(self, work: Work) -> Ended<'s> {
        let Called { item, running, name, attempt } = self;
        Ended { work, item, running, name, attempt }
    }
}

async fn call<'s>(
    shared: &'s Shared,
    item: Item<Record>,
    running: Running<'s>,
    handler: &'s Bound,
    name: Name,
    mut told: Told<'s>,
) -> Called<'s> {
    let record = &item.record;
    let facts = Facts::new(record, name.id, &shared.registered.name);
    let begin = || handler.one(facts, None);
    let (attempt, took) = attempt(shared, record, name.id, begin, handler.timeout).await;
    shared.registered.metrics.attempted(record, attempt.ended(), took);
    told.end(attempt.is_failure().filter(|failed| !failed || record.tries.counted == 0));
    if let Attempt::Rejected(reason) = &attempt {
        tracing::warn!(id = %name.id, reason, "rejected");
    }
    Called { item, running, name, attempt }
}

/// Not begun in time: others may take them.
fn give_back(shared: &Shared, heads: Vec<Head>) {
    if heads.is_empty() {
        return;
    }
    let mut engine = shared.engine();
    for Head { mut work, item, started } in heads {
        engine.handler_ended(started, Ending::Survived);
        work.give_back(item);
        let _no_hold = engine.end(work, After::GoOn);
    }
    drop(engine);
    shared.work.notify_one();
}

/// What follows for a record whose attempt has failed.
async fn follow<'s>(shared: &'s Arc<Shared>, ended: Ended<'s>) -> Option<Ended<'s>> {
    let Ended { mut work, item, running, name, attempt } = ended;
    work.give_back(item);
    let fate = match attempt.failure() {
        None => Fate::Again(AGAIN),
        Some((failure, reason)) => {
            let failing =
                Failed { failure, reason, kind: Some(Kind::Idempotent), name: Some(name), token: None };
            tokio::select! {
                biased;
                () = gone(work.lost.clone()) => Fate::Left,
                fate = failed(shared, &mut work, failing) => fate,
            }
        }
    };
    if matches!(fate, Fate::Settled(_)) {
        running.settled();
    } else {
        drop(running);
    }
    end(shared, work, Some(&fate));
    None
}

/// A record that may not start at once is waited for, where there is a place for it.
fn wait_by_itself<'s>(shared: &'s Arc<Shared>, work: Work, waiting: &mut FuturesUnordered<Waiting<'s>>) {
    match Counted::below(&shared.waiting, shared.registered.concurrency) {
        None => _ = shared.engine().end(work, After::GoOn),
        Some(place) => waiting.push(Box::pin(async move {
            let _place = place;
            by_itself(shared, work).await
        })),
    }
}

async fn by_itself<'s>(shared: &'s Arc<Shared>, mut work: Work) -> Option<Ended<'s>> {
    let planned = work.first().map(|record| plan(shared, record));
    let fate = match planned {
        Some(Plan::Run(handler, name)) => match Told::admitted(shared, handler) {
            Err(wait) => Fate::Again(wait),
            Ok(told) => tokio::select! {
                biased;
                () = gone(work.lost.clone()) => Fate::Left,
                fate = outside::idempotent(shared, &mut work, handler, name, told) => fate,
            },
        },
        // As in begin().
        _ => {
            work.first_mut().into_iter().for_each(|record| record.company = None);
            Fate::Again(Duration::ZERO)
        }
    };
    end(shared, work, Some(&fate));
    None
}

fn is_settled(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Done(_) | Attempt::Rejected(_))
}

fn how(attempt: &Attempt) -> Settled {
    match attempt {
        Attempt::Rejected(_) => Settled::Rejected,
        _ => Settled::Done,
    }
}
