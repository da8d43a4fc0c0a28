//! Takes records, runs them, and acts on what became of them. One function turns what happened into what follows.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::future::select_all;
use smallvec::SmallVec;
use tokio::sync::watch;

use super::attempt::{Attempt, NO_ID, NO_TYPE, Reason, UNREGISTERED};
use super::business_key::business_key;
use super::company::Parts;
use super::engine::{After, Hands, Work};
use super::failure::{Failed, failed, no_room, rejected, trouble};
use super::inbox::Name;
use super::outside::{self, older_than_dedup};
use super::permit::Told;
use super::transaction::{self, Entry, Turn, convicted, transient};
use super::{AGAIN, Shared, light};
use crate::consumer::Unregistered;
use crate::database::Database;
use crate::event::Facts;
use crate::handler::{Bound, Kind};
use crate::ladder::Failure;
use crate::metrics::counts::Settled;
use crate::record::Record;

/// What becomes of the first record of a run. Acted on by [`end`] alone.
#[derive(Debug)]
pub(super) enum Fate {
    /// Settled, durably, and how.
    Settled(Settled),
    /// It comes again after a while, and holds its key meanwhile.
    Again(Duration),
    /// It comes again when the partition is assigned again; nothing of it is decided here.
    Left,
}

/// How a run of records went.
enum Ran {
    /// Those of several keys in one transaction, a turn for each record.
    Together(Vec<Vec<Turn>>),
    /// One record by itself.
    Alone(Fate),
}

/// The loop of one worker. Ends when the consumer stops.
pub(super) async fn work(shared: Arc<Shared>) {
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    let workers = shared.registered.concurrency;
    let mut hands = Hands { workers, threads, light: 1 };
    while let Some((mut works, lost)) = next(&shared, hands).await {
        if light::is_light(&works) {
            light::run(&shared, works, &mut hands).await;
            continue;
        }
        let ran = tokio::select! {
            biased;
            // A partition is another's: what runs for it ends here, and decides nothing (C30).
            () = any_gone(lost) => None,
            ran = run(&shared, &mut works) => Some(ran),
        };
        match ran {
            None => leave(&shared, works),
            Some(Ran::Alone(fate)) => {
                // It is the fate of the first; where others were taken with it, they run again.
                let mut fate = Some(&fate);
                works.into_iter().for_each(|work| end(&shared, work, fate.take()));
            }
            Some(Ran::Together(turns)) => decide(&shared, works, turns).await,
        }
        let ready = shared.engine().ready() > 0;
        if ready {
            shared.work.notify_one();
        }
        shared.permits_changed();
    }
}

/// For the crash journal: no handler of this process has just said that it is done.
fn without_handler(how: Settled) -> bool {
    how != Settled::Done
}

async fn any_gone(mut lost: Lost) {
    match lost.pop() {
        Some(one) if lost.is_empty() => gone(one).await,
        Some(last) => drop(select_all(lost.into_iter().chain([last]).map(|lost| Box::pin(gone(lost)))).await),
        None => {}
    }
}

pub(super) async fn gone(mut lost: watch::Receiver<bool>) {
    // A sender that went away is no loss: the partition left in order, after its handlers.
    if lost.wait_for(|lost| *lost).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// For each partition of some records: becomes true when it is lost.
type Lost = SmallVec<[watch::Receiver<bool>; 1]>;

/// The next records; `None` when the consumer stops.
async fn next(shared: &Shared, hands: Hands) -> Option<(Vec<Work>, Lost)> {
    loop {
        let woken = shared.work.notified();
        if shared.is_stopping() {
            return None;
        }
        let ((works, lost), more) = {
            let mut engine = shared.engine();
            // As many handlers as may wait beside each other do, or there is room for more.
            let light = if shared.waiting.load(SeqCst) < hands.workers { hands.light } else { 0 };
            let works = engine.take(Hands { light, ..hands });
            let lost = if light::is_light(&works) {
                Lost::new()
            } else {
                works.iter().map(|work| engine.lost_of(work.lane())).collect()
            };
            ((works, lost), engine.ready() > 0)
        };
        if !works.is_empty() {
            if more {
                shared.work.notify_one();
            }
            return Some((works, lost));
        }
        // A record that came between is told of again by the next: never for longer than this.
        let _timeout = tokio::time::timeout(AGAIN, woken).await;
    }
}

/// What is to be done with a record.
pub(super) enum Plan<'r> {
    /// Nobody's concern.
    Skip,
    /// No handler can be given it; the kind of the one that it is for, where there is one.
    GiveUp(Reason, Option<Kind>),
    /// Its handler, and what it is known by.
    Run(&'r Bound, Name),
}

pub(super) fn plan<'r>(shared: &'r Shared, record: &Record) -> Plan<'r> {
    let registered = &shared.registered;
    let Some(event_type) = record.event_type() else {
        return Plan::GiveUp(Reason::new(NO_TYPE, "the record has no header `type`"), None);
    };
    let Some(handler) = registered.handlers.of(record) else {
        return match registered.unregistered {
            Unregistered::Skip => Plan::Skip,
            Unregistered::Fail => {
                let said = format!("no handler is registered for the type {event_type}");
                Plan::GiveUp(Reason::new(UNREGISTERED, said), None)
            }
        };
    };
    let Some(id) = record.id else {
        return Plan::GiveUp(Reason::new(NO_ID, "the record has no header `id` that is a UUID"), None);
    };
    let name = match &handler.dedup {
        Some(dedup) => match business_key(&**dedup, &Facts::new(record, id)) {
            Ok(key) => Name::of_key(key),
            Err(reason) => return Plan::GiveUp(reason, Some(handler.kind)),
        },
        None => Name::of_id(id, record),
    };
    Plan::Run(handler, name)
}

async fn run(shared: &Arc<Shared>, works: &mut [Work]) -> Ran {
    let first = works.first().and_then(Work::first).map(|record| plan(shared, record));
    let Some(first) = first else { return Ran::Together(Vec::new()) };
    let database = match &first {
        Plan::Run(Bound { kind: Kind::Transactional | Kind::Batch(_), .. }, _)
        | Plan::GiveUp(_, Some(Kind::Transactional | Kind::Batch(_))) => &shared.database,
        _ => &None,
    };
    if let Some(database) = database {
        // In a place of its own: what is waited for in parts is moved about otherwise, kilobytes at a time.
        return Ran::Together(Box::pin(together(shared, database, works)).await);
    }
    let Some(work) = works.first_mut() else { return Ran::Together(Vec::new()) };
    Ran::Alone(match (first, &shared.database) {
        (Plan::Skip, _) => Fate::Settled(Settled::Unregistered),
        (Plan::GiveUp(reason, kind), _) => Box::pin(give_up(shared, work, reason, kind)).await,
        (Plan::Run(handler, name), None) if handler.kind.needs_inbox() => {
            let id = name.id;
            shared.halt(format!("the handler of event {id} needs an inbox, and there is no database"));
            Fate::Left
        }
        (Plan::Run(handler, name), database) => match (Told::admitted(shared, handler), database) {
            (Err(wait), _) => Fate::Again(wait),
            (Ok(told), Some(database)) if handler.kind.needs_inbox() => {
                Box::pin(outside::external(shared, database, work, handler, name, told)).await
            }
            (Ok(told), _) => Box::pin(outside::idempotent(shared, work, handler, name, told)).await,
        },
    })
}

/// Those that the retry budget lets run, in one transaction.
async fn together(shared: &Shared, database: &Database, works: &[Work]) -> Vec<Vec<Turn>> {
    let mut turns: Vec<Vec<Turn>> = Vec::with_capacity(works.len());
    let mut running = Vec::with_capacity(works.len());
    for (at, work) in works.iter().enumerate() {
        let (entries, otherwise) = entries(shared, work);
        turns.push(if entries.is_empty() { vec![otherwise] } else { Vec::new() });
        if !entries.is_empty() {
            running.push((at, entries));
        }
    }
    if running.is_empty() {
        return turns;
    }
    let (places, entries): (Vec<usize>, Vec<Vec<Entry<'_>>>) = running.into_iter().unzip();
    let ran = transaction::run(shared, database, entries).await;
    for (at, of_key) in places.into_iter().zip(ran) {
        turns[at] = of_key;
    }
    turns
}

/// Those of a run that can be given to a handler now, from the first on; where there is none, the turn of the first.
fn entries<'w>(shared: &'w Shared, work: &'w Work) -> (Vec<Entry<'w>>, Turn) {
    let mut entries = Vec::new();
    for record in work.records() {
        let (handler, name) = match plan(shared, record) {
            Plan::Run(handler, name) => (handler, name),
            Plan::GiveUp(reason, kind) => return (entries, Turn::GiveUp(reason, kind)),
            Plan::Skip => break,
        };
        match Told::admitted(shared, handler) {
            Ok(told) => entries.push(Entry { record, lane: work.lane(), name, handler, told }),
            Err(wait) => return (entries, Turn::Wait(wait)),
        }
    }
    (entries, Turn::Wait(AGAIN))
}

/// A record that no handler can be given.
async fn give_up(shared: &Shared, work: &mut Work, reason: Reason, kind: Option<Kind>) -> Fate {
    let name = work.first().and_then(|record| Some(Name::of_id(record.id?, record)));
    failed(shared, work, Failed { failure: Failure::Permanent, reason, kind, name, token: None }).await
}

/// After a transaction: what is settled frees its key at once; the rest is decided about, one by one.
async fn decide(shared: &Arc<Shared>, works: Vec<Work>, turns: Vec<Vec<Turn>>) {
    let (mut rest, mut settled) = (Vec::new(), Vec::new());
    for (work, turns) in works.iter().zip(&turns) {
        for (record, turn) in work.records().zip(turns) {
            if let Turn::Settled(how) = turn {
                shared.registered.metrics.settled(record, *how);
            }
        }
    }
    {
        let mut engine = shared.engine();
        for (mut work, turns) in works.into_iter().zip(turns) {
            let mut left = Vec::new();
            for turn in turns {
                match turn {
                    Turn::Settled(how) => {
                        settled.extend(engine.settle(&mut work, left.len(), without_handler(how)));
                    }
                    turn => left.push(turn),
                }
            }
            if left.is_empty() {
                engine.end(work, After::GoOn);
            } else {
                rest.push((work, left));
            }
        }
    }
    drop(settled);
    let apart = rest.iter().flat_map(|(_, turns)| turns).filter(|turn| matches!(turn, Turn::Apart)).count();
    let mut parts = Parts::of(apart, &shared.parts);
    for (work, turns) in &mut rest {
        for (record, turn) in work.records_mut().zip(turns) {
            let company = shared.registered.company(record);
            record.company = parts.company(record, turn, company);
        }
    }
    // Nobody waits for a dead letter of another.
    rest.sort_by_key(|(_, turns)| turns.first().is_some_and(Turn::is_written_about));
    for (mut work, turns) in rest {
        let Some(first) = turns.into_iter().next() else { continue };
        let lost = shared.engine().lost_of(work.lane());
        let fate = tokio::select! {
            biased;
            () = gone(lost) => Fate::Left,
            fate = Box::pin(conclude(shared, &mut work, first)) => fate,
        };
        end(shared, work, Some(&fate));
    }
}

/// What follows for the first record of a run that is not settled.
async fn conclude(shared: &Arc<Shared>, work: &mut Work, turn: Turn) -> Fate {
    let planned = work.first().map(|record| plan(shared, record));
    let (kind, name) = match planned {
        Some(Plan::Run(handler, name)) => (Some(handler.kind), Some(name)),
        _ => (None, None),
    };
    let fail = |(failure, reason), name| Failed { failure, reason, kind, name, token: None };
    match turn {
        Turn::Settled(how) => Fate::Settled(how),
        Turn::Attempted(Attempt::Rejected(why)) => match (&shared.database, &name) {
            (Some(database), Some(name)) => rejected(shared, database, work, name, &why).await,
            _ => Fate::Again(AGAIN),
        },
        Turn::Attempted(attempt) => {
            let failure = attempt.failure().unwrap_or_else(|| transient("lost", "it came to nothing"));
            failed(shared, work, fail(failure, name)).await
        }
        Turn::GiveUp(reason, kind) => give_up(shared, work, reason, kind).await,
        Turn::TooOld => failed(shared, work, fail(older_than_dedup(), name)).await,
        Turn::Convicted(deaths) => failed(shared, work, fail(convicted(deaths), name)).await,
        Turn::Later => Fate::Again(AGAIN / 5),
        Turn::Alone => {
            if let Some(record) = work.first_mut() {
                record.tries.uncounted = record.tries.uncounted.saturating_add(1);
            }
            Fate::Again(Duration::ZERO)
        }
        Turn::Again | Turn::Apart => Fate::Again(Duration::ZERO),
        Turn::Blocked => Fate::Again(AGAIN),
        Turn::Wait(delay) => Fate::Again(delay),
        Turn::Full => no_room(shared, work),
        Turn::Trouble(said) => trouble(work, &said),
        Turn::Left => Fate::Left,
    }
}

/// The only place that acts on what became of a run; `fate` is its first record's.
pub(super) fn end(shared: &Arc<Shared>, mut work: Work, fate: Option<&Fate>) {
    if let (Some(Fate::Settled(how)), Some(record)) = (fate, work.first()) {
        shared.registered.metrics.settled(record, *how);
    }
    let mut settled = None;
    let mut engine = shared.engine();
    let after = match fate {
        None => After::GoOn,
        Some(Fate::Settled(how)) => {
            settled = engine.settle(&mut work, 0, without_handler(*how));
            After::GoOn
        }
        Some(Fate::Again(delay)) if delay.is_zero() => After::GoOn,
        // Where its partition has left the engine lets the key go and settles nothing; where the consumer stops,
        // nobody takes the key again.
        Some(Fate::Again(_) | Fate::Left) => After::Wait,
    };
    let hold = engine.end(work, after);
    drop(engine);
    drop(settled);
    if let (Some(hold), Some(Fate::Again(delay))) = (hold, fate) {
        let (shared, delay) = (shared.clone(), *delay);
        tokio::spawn(async move {
            shared.pause(delay).await;
            shared.engine().resume(hold);
            shared.work.notify_one();
        });
    }
}

/// A partition of the group is lost: its part is over, and what others have in it runs again.
fn leave(shared: &Arc<Shared>, works: Vec<Work>) {
    for work in works {
        let lost = *shared.engine().lost_of(work.lane()).borrow();
        end(shared, work, lost.then_some(&Fate::Left));
    }
}
