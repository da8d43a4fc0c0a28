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
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::attempt::{Attempt, Called, First, first};
use super::engine::{After, Engine, Hands, Work};
use super::failure::{Failed, failed};
use super::outside;
use super::permit::{Counted, Flowing, Running, Told};
use super::worker::{Fate, Plan, end, gone, plan};
use super::{AGAIN, Shared};
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::journal::{Ending, Permit, Started};
use crate::metrics::Tally;
use crate::metrics::counts::Settled;
use crate::record::{Company, Record};

/// Most keys of one task.
pub(super) const MOST: usize = 128;
/// How long handlers may compute on one task before those that are not begun go back.
const TURN: Duration = Duration::from_millis(1);
/// Handlers that take less than this, each, let more of them run on a task; four times as long lets fewer.
const SHORT: Duration = Duration::from_micros(20);

/// Whether these records are for this module.
pub(super) fn is_light(works: &[Work]) -> bool {
    let first = works.first().and_then(Work::first);
    first.is_some_and(|record| record.company.is_some_and(Company::is_light))
}

/// Records of one key on this task.
struct Turn {
    work: Work,
    step: Step,
}

/// How far the first of them is.
#[derive(Default)]
enum Step {
    /// It is to be asked about.
    #[default]
    Idle,
    /// Its handler may start.
    May(Started),
    /// Its handler has ended, and so.
    Ended(Started, Settled),
}

impl Turn {
    fn of(work: Work) -> Turn {
        Turn { work, step: Step::Idle }
    }

    /// The records, and the handler that was to run, or has run.
    fn into_running(self, shared: &Shared) -> (Work, Option<Running<'_>>) {
        let running = match self.step {
            Step::Idle => None,
            Step::May(started) | Step::Ended(started, _) => Some(Running::begun(shared, started)),
        };
        (self.work, running)
    }
}

/// What follows for records and takes its time; `None` when all of it is done.
type Waiting<'s> = Pin<Box<dyn Future<Output = Option<Turn>> + Send + 's>>;

/// Runs what it is given to the end, and whatever comes of its kind meanwhile. `hands.light` is how many keys are to be
/// taken the next time.
pub(super) async fn run(shared: &Arc<Shared>, works: Vec<Work>, hands: &mut Hands) {
    let mut waiting: FuturesUnordered<Waiting<'_>> = FuturesUnordered::new();
    let mut turns: Vec<Turn> = works.into_iter().map(Turn::of).collect();
    loop {
        // Those that wait have their turn between the others.
        those_that_end(&mut waiting, &mut turns, false).await;
        // Where some are waited for others may take what is ready.
        let more = waiting.is_empty() && !shared.is_stopping();
        if let Some(work) = look(shared, &mut turns, more.then_some(*hands)) {
            wait_by_itself(shared, work, &mut waiting);
        }
        poll_fn(|cx| {
            begin(shared, &mut turns, &mut waiting, &mut hands.light, cx);
            Poll::Ready(())
        })
        .await;
        if turns.is_empty() {
            if waiting.is_empty() {
                return;
            }
            those_that_end(&mut waiting, &mut turns, true).await;
        }
        // It may be that nothing was waited for: others have their turn.
        tokio::task::consume_budget().await;
    }
}

/// Takes in all that have ended; where it is to wait, at least one.
async fn those_that_end(waiting: &mut FuturesUnordered<Waiting<'_>>, turns: &mut Vec<Turn>, wait: bool) {
    let mut any = !wait;
    poll_fn(|cx| {
        loop {
            match waiting.poll_next_unpin(cx) {
                Poll::Ready(Some(one)) => {
                    any = true;
                    turns.extend(one);
                }
                Poll::Pending if !any => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// One look at the engine: settles what has ended, asks for what comes next of each run, lets go of runs of which
/// nothing is left, and takes others in their place where it is told to. Leaves those whose first handler may start;
/// returns one that may not yet, to ask again by itself. Others of its kind go back.
fn look(shared: &Shared, turns: &mut Vec<Turn>, hands: Option<Hands>) -> Option<Work> {
    let mut settled = Vec::with_capacity(turns.len());
    let mut tally = shared.registered.metrics.tally();
    for turn in turns.iter() {
        match (&turn.step, turn.work.first()) {
            (Step::Ended(_, Settled::Done), Some(record)) => tally.settled(record),
            (Step::Ended(_, how), Some(record)) => shared.registered.metrics.settled(record, *how),
            _ => {}
        }
    }
    drop(tally);
    let mut engine = shared.engine();
    for turn in turns.iter_mut() {
        if let Step::Ended(started, how) = mem::take(&mut turn.step) {
            engine.handler_ended(started, Ending::Settled);
            settled.extend(engine.settle(&mut turn.work, 0, how != Settled::Done));
        }
    }
    let (mut other, mut at) = (None, 0);
    let mut hands = hands;
    loop {
        let Some(turn) = turns.get_mut(at) else {
            // Once: those that are taken are asked about as the others were.
            let more = hands.take().filter(|hands| turns.len() < hands.light);
            let Some(hands) = more else { break };
            let light = hands.light - turns.len();
            turns.extend(engine.take_light(Hands { light, ..hands }).into_iter().map(Turn::of));
            continue;
        };
        let asked = ask(&mut engine, turn);
        if matches!(asked, Asked::May) {
            at += 1;
            continue;
        }
        let Turn { work, .. } = turns.swap_remove(at);
        if matches!(asked, Asked::NotYet) && other.is_none() {
            other = Some(work);
        } else {
            let _no_hold = engine.end(work, After::GoOn);
        }
    }
    let ready = engine.ready();
    drop(engine);
    shared.bury(settled);
    shared.permits_changed();
    shared.wake(ready);
    other
}

/// What is known of a run whose first record was asked about.
enum Asked {
    /// The handler may start.
    May,
    /// Not yet, or never: to be asked again by itself.
    NotYet,
    /// Nothing is left, or it is for the partition's next owner.
    Over,
}

/// Asks for the first record of a run.
fn ask(engine: &mut Engine, turn: &mut Turn) -> Asked {
    let lane = turn.work.lane();
    let Some(record) = turn.work.first().filter(|_| engine.goes_on(lane)) else { return Asked::Over };
    match engine.may_start(lane, record) {
        Permit::Start(started) => {
            turn.step = Step::May(started);
            Asked::May
        }
        // It waits for a commit, or is not to run at all.
        Permit::CommitFirst | Permit::Wait | Permit::Convict { .. } | Permit::Gone => {
            engine.will_not_start(lane, record);
            Asked::NotYet
        }
    }
}

/// Begins the handlers that may start, one after the other. Those that end at once and well are left; those that wait are
/// waited for beside each other.
fn begin<'s>(
    shared: &'s Arc<Shared>,
    turns: &mut Vec<Turn>,
    waiting: &mut FuturesUnordered<Waiting<'s>>,
    size: &mut usize,
    cx: &mut Context<'_>,
) {
    let concurrency = shared.registered.concurrency;
    let begun = Instant::now();
    let mut calls = Calls { shared, tally: shared.registered.metrics.tally(), flowing: None, now: begun };
    let mut place = Counted::below(&shared.waiting, concurrency);
    let (mut at, mut count) = (0, 0_u32);
    while at < turns.len() && place.is_some() && calls.now - begun < TURN {
        count += 1;
        match calls.call(&mut turns[at], cx) {
            Came::ToAnEnd => at += 1,
            Came::To(attempt) => waiting.push(Box::pin(follow(shared, turns.swap_remove(at), attempt))),
            Came::Alone => {
                let (mut work, running) = turns.swap_remove(at).into_running(shared);
                drop(running);
                work.first_mut().into_iter().for_each(|record| record.company = None);
                end(shared, work, Some(&Fate::Again(Duration::ZERO)));
                shared.work.notify_one();
            }
            Came::Later(wait) => {
                let (work, running) = turns.swap_remove(at).into_running(shared);
                drop(running);
                end(shared, work, Some(&Fate::Again(wait)));
            }
            Came::ToWait(handler, called, told) => {
                let waits = wait(shared, turns.swap_remove(at), (handler, called, told), place.take());
                waiting.push(Box::pin(waits));
                place = Counted::below(&shared.waiting, concurrency);
            }
        }
    }
    let each = (calls.now - begun) / count.max(1);
    drop(calls);
    drop(place);
    give_back(shared, turns.split_off(at));
    *size = if each < SHORT {
        (*size * 2).min(MOST)
    } else if each < SHORT * 4 {
        *size
    } else {
        1
    };
}

/// What the first part of a call has come to.
enum Came<'s> {
    /// It has ended, and its record is as good as settled.
    ToAnEnd,
    /// It has failed.
    To(Attempt),
    /// It waits.
    ToWait(&'s Bound, Called, Option<Told<'s>>),
    /// It has no handler: it is given up by itself, so that nobody waits for its dead letter.
    Alone,
    /// It may not begin yet.
    Later(Duration),
}

/// Calls one after the other.
struct Calls<'s> {
    shared: &'s Shared,
    tally: Tally<'s>,
    /// The handler of the last ones, while the retry budget lets its events flow.
    flowing: Option<Flowing<'s>>,
    /// When the last one came back.
    now: Instant,
}

impl<'s> Calls<'s> {
    fn call(&mut self, turn: &mut Turn, cx: &mut Context<'_>) -> Came<'s> {
        let Some(record) = turn.work.first() else { return Came::Alone };
        let registered = &self.shared.registered;
        // Only records that have both are light; of those some have no business key.
        let (Some(handler), Some(id)) = (registered.handlers.of(record), record.id) else {
            return Came::Alone;
        };
        let id = match &handler.dedup {
            None => id,
            Some(_) => match plan(self.shared, record) {
                Plan::Run(_, name) => name.id,
                Plan::Skip | Plan::GiveUp(..) => return Came::Alone,
            },
        };
        let told = match self.admitted(handler) {
            Ok(told) => told,
            Err(wait) => return Came::Later(wait),
        };
        let facts = Facts::new(record, id);
        let came_to = first(self.shared, record, id, || handler.one(facts, None), self.now, cx);
        let began = mem::replace(&mut self.now, Instant::now());
        let attempt = match came_to {
            First::Ended(attempt) => attempt,
            First::Waits(called) => return Came::ToWait(handler, called, told.or_else(|| self.told())),
        };
        let took = self.now - began;
        match (&attempt, &mut self.flowing) {
            (Attempt::Done(_), Some(flowing)) => {
                flowing.went_well();
                self.tally.attempted(record, took);
            }
            _ => {
                registered.metrics.attempted(record, attempt.ended(), took);
                let told = told.or_else(|| self.told());
                // Those before it are counted before it, and the next one asks again.
                self.flowing = None;
                if let Some(mut told) = told {
                    told.end(of_all(&attempt, record));
                }
            }
        }
        let Some(how) = settled(&attempt, record) else { return Came::To(attempt) };
        if let Step::May(started) = mem::take(&mut turn.step) {
            turn.step = Step::Ended(started, how);
        }
        Came::ToAnEnd
    }

    /// Asks the retry budget; `None` where its answer for the last one holds for this one.
    fn admitted(&mut self, handler: &'s Bound) -> Result<Option<Told<'s>>, Duration> {
        if self.flowing.as_ref().is_some_and(|flowing| flowing.is_of(handler)) {
            return Ok(None);
        }
        // The last ones are counted first.
        self.flowing = None;
        match Told::admitted(self.shared, handler)?.flowing() {
            Ok(flowing) => {
                self.flowing = Some(flowing);
                Ok(None)
            }
            Err(told) => Ok(Some(told)),
        }
    }

    fn told(&self) -> Option<Told<'s>> {
        self.flowing.as_ref().map(Flowing::told)
    }
}

/// What the retry budget is told of an attempt: of a record that has failed before it says nothing of others that it
/// fails again.
fn of_all(attempt: &Attempt, record: &Record) -> Option<bool> {
    attempt.is_failure().filter(|failed| !failed || record.tries.counted == 0)
}

/// Waits for a handler beside others.
async fn wait<'s>(
    shared: &'s Arc<Shared>,
    turn: Turn,
    (handler, called, told): (&'s Bound, Called, Option<Told<'s>>),
    place: Option<Counted<'s>>,
) -> Option<Turn> {
    let _place = place;
    let (work, running) = turn.into_running(shared);
    let lost = shared.engine().lost_of(work.lane());
    let mut rest = Box::pin(called.rest(handler.timeout));
    let (attempt, took) = tokio::select! {
        biased;
        // The partition is another's: what runs for it ends here, and decides nothing (C30).
        () = gone(lost) => {
            drop(rest);
            drop((told, running));
            end(shared, work, Some(&Fate::Left));
            return None;
        }
        ended = &mut rest => ended,
    };
    let (Some(record), Some(started)) = (work.first(), running.and_then(Running::into_started)) else {
        end(shared, work, Some(&Fate::Again(AGAIN)));
        return None;
    };
    shared.registered.metrics.attempted(record, attempt.ended(), took);
    if let Some(mut told) = told {
        told.end(of_all(&attempt, record));
    }
    match settled(&attempt, record) {
        Some(how) => Some(Turn { work, step: Step::Ended(started, how) }),
        None => follow(shared, Turn { work, step: Step::May(started) }, attempt).await,
    }
}

/// How an attempt settles its record, if it does.
fn settled(attempt: &Attempt, record: &Record) -> Option<Settled> {
    match attempt {
        Attempt::Done(_) => Some(Settled::Done),
        Attempt::Rejected(reason) => {
            tracing::warn!(id = ?record.id, reason, "rejected");
            Some(Settled::Rejected)
        }
        Attempt::Failed(..) | Attempt::TimedOut(_) => None,
    }
}

/// Not begun in time: others may take them.
fn give_back(shared: &Shared, turns: Vec<Turn>) {
    if turns.is_empty() {
        return;
    }
    let mut engine = shared.engine();
    for Turn { work, step } in turns {
        if let Step::May(started) | Step::Ended(started, _) = step {
            engine.handler_ended(started, Ending::Survived);
        }
        let _no_hold = engine.end(work, After::GoOn);
    }
    drop(engine);
    shared.work.notify_one();
}

/// What follows for a record whose attempt has failed.
async fn follow(shared: &Arc<Shared>, turn: Turn, attempt: Attempt) -> Option<Turn> {
    let (mut work, running) = turn.into_running(shared);
    let name = match work.first().map(|record| plan(shared, record)) {
        Some(Plan::Run(_, name)) => Some(name),
        _ => None,
    };
    let fate = match attempt.failure() {
        None => Fate::Again(AGAIN),
        Some((failure, reason)) => {
            let failing = Failed { failure, reason, kind: Some(Kind::Idempotent), name, token: None };
            let lost = shared.engine().lost_of(work.lane());
            tokio::select! {
                biased;
                () = gone(lost) => Fate::Left,
                fate = failed(shared, &mut work, failing) => fate,
            }
        }
    };
    match running {
        Some(running) if matches!(fate, Fate::Settled(_)) => running.settled(),
        running => drop(running),
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

async fn by_itself(shared: &Arc<Shared>, mut work: Work) -> Option<Turn> {
    let planned = work.first().map(|record| plan(shared, record));
    let fate = match planned {
        Some(Plan::Run(handler, name)) => match Told::admitted(shared, handler) {
            Err(wait) => Fate::Again(wait),
            Ok(told) => {
                let lost = shared.engine().lost_of(work.lane());
                tokio::select! {
                    biased;
                    () = gone(lost) => Fate::Left,
                    fate = outside::idempotent(shared, &mut work, handler, name, told) => fate,
                }
            }
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
