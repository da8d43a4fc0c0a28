//! Publishing what no slot can bring: the rows that stand in the table, by `seq`, and then the stream.
//!
//! The phase `filling` is on Kafka before the slot is made. A start that finds it drops the slot and
//! begins again, so that a fill that was killed half way never looks healthy (R34). The slot is made
//! with an exported snapshot: the rows visible in it are published here, everything else comes from the
//! slot, which begins exactly where the snapshot ends.
//!
//! Which rows: after a loss those whose transaction is not visible in the newest snapshot of which everything is
//! known to be published, of those that the server's history shares (R10); without one all.
//!
//! Filled records carry the position `(epoch, 0, seq)` and the time of the fill: a record as old as its
//! row may be older than the topic's retention, and Kafka would delete it at once (R41).

mod by_id;
mod rows;

pub(crate) use by_id::{ById, by_id};
pub(crate) use rows::{is_published, order, table, unpublished};

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Loss;
use crate::ledger::{self, Head, Settler, Writer};
use crate::lsn::Lsn;
use crate::observe::Phase;
use crate::publisher::{Confirmations, Flow, Poller, Publishers, Reach, Window};
use crate::quarantine::keeper::Keeper;
use crate::quarantine::recall::{recall, whose};
use crate::quarantine::{self, Holds};
use crate::reader::Positions;
use crate::router::outlet::{Outlet, RouteError, Ways};
use crate::router::topics::Topics;
use crate::router::topics::cluster::Cluster;
use crate::router::{Plan, RelationShape, RowPosition, Scratch, Value};
use crate::session::{Context, End, Ending, Owned, Sql, blocking, own, step};
use crate::state::{PublishedSnapshot, RecordedPhase, Recorder, RecorderParts, Ring, StateRecord};
use crate::wire::{Connection, CreatedSlot, Interrupt};
use own::{keep_alive, published, target, wire_end};

/// Rows fetched and not yet handed over.
const ROWS_AHEAD: usize = 16;

/// Fills, records the phase `streaming`, and ends with [`End::Again`]: the next session streams.
/// `loss` is what it answers, where it does not begin again.
pub(crate) async fn run(
    context: &Context,
    ending: &Arc<Ending>,
    owned: Owned,
    record: StateRecord,
    loss: Option<Loss>,
) -> End {
    // Before anything is recorded: a record that says `filling` would outlive the advice to skip.
    let outbox = &context.settings.outbox;
    let fits = match &record.phase {
        RecordedPhase::Filling { base, .. } => unpublished(outbox, base.as_deref()).map(drop),
        RecordedPhase::Streaming | RecordedPhase::Forgotten => Ok(()),
    };
    if let Err(error) = order(outbox).map(drop).and(fits) {
        ending.end(error.end());
        return error.end();
    }
    context.observed.enter(Phase::Filling, Some("the state record".into()));
    let Owned { sql, reading, store, cluster, .. } = owned;
    // A slot from a fill that was cut short is dropped below; nobody may stream from it then.
    drop(reading);
    let slot = context.settings.slot();
    let mut record = record;
    let work = async {
        let holds = recall(&sql, &context.settings, context.lane, &mut record).await?;
        let desk = begin(context, ending, store, record, loss).await?;
        let aside = Arc::new(quarantine::Desk::default());
        let (writer, settler, head) = ledger::ledger(2, desk.record.position);
        let keeper = Keeper {
            sql: &sql,
            whose: whose(&context.settings, context.lane),
            desk: &aside,
            recorder: &desk.recorder,
            settler: settler.clone(),
            observed: &context.observed,
            ending,
        };
        let way = Way { writer, settler, head, holds, aside: aside.clone(), cluster };
        let result = tokio::select! {
            biased;
            result = fill(context, ending, &sql, &desk, way) => result,
            end = keeper.keep() => Err(end),
        };
        let over = match &result {
            Ok(()) => filled(),
            Err(end) => end.clone(),
        };
        ending.end(over);
        // It ends with the session.
        if blocking(move || Ok(desk.recording.join().is_err())).await == Ok(true) {
            tracing::error!("the recorder's thread panicked");
        }
        result
    };
    let result = tokio::select! {
        biased;
        end = keep_alive(&sql, &slot, None) => Err(end),
        result = step(context, ending, work) => result,
    };
    let end = match result {
        Ok(()) => filled(),
        Err(End::Drained) => End::Undrained {
            in_flight: 0,
            reason: "the fill was stopped half way; the next start begins it again".into(),
        },
        Err(end) => end,
    };
    ending.end(end.clone());
    ending.told().unwrap_or(end)
}

fn filled() -> End {
    End::Again("the rows that stood in the table and were not known to be published are".into())
}

/// Makes the slot where the configuration says that what stands in the table is never published.
pub(crate) async fn make_slot_only(context: &Context, ending: &Arc<Ending>, owned: Owned) -> End {
    let made = step(context, ending, make_slot(context, ending, &owned.sql)).await;
    let end = match made {
        Ok((_, created)) => End::Again(format!(
            "made the slot at {}; rows that stood in the table are not published, as configured",
            created.consistent_point
        )),
        Err(end) => end,
    };
    ending.end(end.clone());
    ending.told().unwrap_or(end)
}

/// What runs beside a fill: the recorder, and what its record waits for.
struct Desk {
    recorder: Arc<Recorder>,
    recording: JoinHandle<()>,
    confirmations: Arc<Confirmations>,
    record: StateRecord,
}

impl Desk {
    /// Rows of transactions visible in this snapshot are published.
    fn base(&self) -> Option<&str> {
        match &self.record.phase {
            RecordedPhase::Filling { base, .. } => base.as_deref(),
            RecordedPhase::Streaming | RecordedPhase::Forgotten => None,
        }
    }
}

/// What the rows take on their way out.
struct Way {
    writer: Writer,
    settler: Settler,
    head: Head,
    holds: Holds,
    aside: Arc<quarantine::Desk>,
    cluster: Arc<Cluster>,
}

/// Puts the phase `filling` on Kafka before anything is changed in the database.
async fn begin(
    context: &Context,
    ending: &Arc<Ending>,
    store: crate::state::Store,
    record: StateRecord,
    loss: Option<Loss>,
) -> Result<Desk, End> {
    let (context, ending) = (context.clone(), ending.clone());
    blocking(move || {
        let confirmations = Confirmations::new(record.position);
        let parts = RecorderParts {
            store,
            record: record.clone(),
            // There is no slot to confirm anything to.
            believed: false,
            confirmations: confirmations.clone(),
            positions: Arc::new(Positions::default()),
            settings: context.settings.state.clone(),
            observed: context.observed.clone(),
            ending: ending.clone(),
        };
        let (recorder, recording) = Recorder::spawn(parts).map_err(|error| End::reconnect(&error))?;
        recorder.begun(&ending);
        // Not before: a session that ends sooner leaves the former record, which decides for the same fill again. From
        // here on the record says `filling`, and a start that finds it begins no other fill, nor counts one.
        if let Some(loss) = loss.filter(|_| recorder.recorded_up_to(record.position)) {
            context.observed.filled(loss);
        }
        ending.told().map_or(Ok(Desk { recorder, recording, confirmations, record }), Err)
    })
    .await
}

async fn fill(context: &Context, ending: &Arc<Ending>, sql: &Sql, desk: &Desk, way: Way) -> Result<(), End> {
    tracing::info!(
        epoch = desk.record.epoch,
        base = desk.base(),
        "filling: publishing rows that stand in the table"
    );
    let (connection, created) = make_slot(context, ending, sql).await?;
    let (sender, receiver) = mpsc::channel(ROWS_AHEAD);
    let base = desk.base();
    let rows = rows::Rows::open(&context.settings, &created.snapshot, base).await;
    let rows = rows.map_err(|error| error.end())?;
    // The snapshot is imported: the connection that exported it may go.
    drop(connection);
    context.observed.enter(Phase::Filling, None);
    let (shape, snapshot) = (rows.shape().clone(), rows.snapshot().to_owned());
    let publish = {
        let (context, ending) = (context.clone(), ending.clone());
        let (recorder, confirmations) = (desk.recorder.clone(), desk.confirmations.clone());
        let record = desk.record.clone();
        let point = created.consistent_point;
        blocking(move || {
            publish(&context, &ending, &recorder, confirmations, &record, &shape, receiver, point, way)
        })
    };
    let fetch = async { rows.send_all(sender).await.map_err(|error| error.end()) };
    let (fetched, published) = tokio::join!(fetch, publish);
    let count = published?;
    fetched?;
    let recorder = desk.recorder.clone();
    let (ending, point) = (ending.clone(), created.consistent_point);
    blocking(move || {
        recorder.change(&ending, move |record| {
            record.phase = RecordedPhase::Streaming;
            record.position = point;
            let taken_at = jiff::Timestamp::now();
            record.ring = Ring::default();
            record.ring.push(PublishedSnapshot { lsn: point, snapshot, taken_at });
        });
        ending.told().map_or(Ok(()), Err)
    })
    .await?;
    context.observed.filled_rows.add(count);
    tracing::info!(rows = count, position = %created.consistent_point, "filled");
    Ok(())
}

/// Makes the slot anew. It waits for transactions that are open or prepared: visibly.
async fn make_slot(
    context: &Context,
    ending: &Arc<Ending>,
    sql: &Sql,
) -> Result<(Connection, CreatedSlot), End> {
    let slot = context.settings.slot();
    let there = sql.slot(&slot).await.map_err(|error| error.end())?.is_some();
    let target = target(&context.settings);
    // A slot that is made before its publication breaks on the first change it decodes (R11).
    published(context, sql).await?;
    let connecting = blocking(move || Connection::connect(&target).map_err(|error| wire_end(&error)));
    let mut connection = connecting.await?;
    // Making a slot may wait for hours; whoever stops waiting for it ends the connection.
    let mut leaving = Leaving(Some(connection.interrupt()));
    let (ending, failover) = (ending.clone(), context.settings.source.failover_slot);
    let make = blocking(move || {
        if there {
            tracing::warn!(slot, "dropping the slot: a new one is made");
            // Active yet: that is our own former backend, about to notice.
            let dropped = connection.drop_slot(&slot);
            dropped.map_err(|error| End::Reconnect(wire_end(&error).sentence()))?;
        }
        let created = connection.create_slot(&slot, false, failover).map_err(|error| wire_end(&error))?;
        if let Some(end) = ending.told() {
            return Err(end);
        }
        Ok((connection, created))
    });
    tokio::pin!(make);
    loop {
        tokio::select! {
            biased;
            made = &mut make => {
                leaving.0 = None;
                return made;
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                let open = sql.open_transactions().await.map_err(|error| error.end())?;
                let waiting = open.map(|open| format!("the new slot waits for open transactions: {open}"));
                if let Some(sentence) = &waiting {
                    tracing::warn!("{sentence}");
                }
                context.observed.enter(Phase::Filling, waiting);
            }
        }
    }
}

/// Interrupts the connection when it is dropped.
struct Leaving(Option<Interrupt>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(interrupt) = self.0.take() {
            interrupt.interrupt();
        }
    }
}

/// Hands the rows over and waits until all are acknowledged; answers how many there were.
#[allow(clippy::too_many_arguments)] // one call, from the function above
fn publish(
    context: &Context,
    ending: &Arc<Ending>,
    recorder: &Arc<Recorder>,
    confirmations: Arc<Confirmations>,
    record: &StateRecord,
    shape: &RelationShape,
    mut rows: mpsc::Receiver<rows::Row>,
    consistent_point: Lsn,
    way: Way,
) -> Result<u64, End> {
    let settings = &context.settings;
    let kafka = &settings.kafka;
    let observed = &context.observed;
    let plan = Plan::compile(shape, &settings.outbox, kafka).map_err(|error| End::halt(&error))?;
    let Way { mut writer, settler, head, holds, aside, cluster } = way;
    let window = Arc::new(Window::new(kafka.max_in_flight_records, kafka.max_in_flight_bytes));
    let refusals = context.refusals.clone();
    refusals.begin();
    let flow = if refusals.until().is_some() { Flow::OneAtATime } else { Flow::CatchUp };
    let publishers =
        Publishers::new(kafka, settler.clone(), window.clone(), observed.clone(), refusals, flow)
            .map_err(|error| End::halt(&error))?;
    let publishers = Arc::new(publishers);
    let poller =
        Poller::spawn(publishers.clone(), head, confirmations.clone(), observed.clone(), ending.clone())
            .map_err(|error| End::reconnect(&error))?;
    let whole = ledger::Transaction { commit_lsn: consistent_point, xid: 0, commit_time: 0 };
    writer.open(whole).map_err(|error| End::halt(&error))?;
    let pins = record.partitions.clone();
    let (recorded, seen, over) = (recorder.clone(), observed.clone(), ending.clone());
    let topics = Topics::new(pins, cluster, kafka, &settings.topics, recorded, seen, over)
        .map_err(|error| End::halt(&error))?;
    let ways = Ways {
        topics,
        ledger: writer,
        settler,
        publishers,
        window: window.clone(),
        holds,
        desk: aside,
        observed: observed.clone(),
        ending: ending.clone(),
    };
    let mut outlet = Outlet::new(settings, ways);
    let result = hand_over(&mut outlet, &plan, record.epoch, &mut rows);
    let result = result.map_err(|error| error.end()).and_then(|count| {
        outlet.ledger.commit(consistent_point);
        while confirmations.newest().end_lsn < consistent_point && !ending.is_over() {
            observed.in_flight_records.set(window.records());
            ending.pause(Duration::from_millis(20));
        }
        ending.told().map_or(Ok(count), Err)
    });
    drop(outlet);
    poller.stop();
    result
}

fn hand_over(
    outlet: &mut Outlet,
    plan: &Plan,
    epoch: u64,
    rows: &mut mpsc::Receiver<rows::Row>,
) -> Result<u64, RouteError> {
    let mut scratch = Scratch::default();
    let mut count = 0;
    while let Some(row) = rows.blocking_recv() {
        let at = RowPosition {
            epoch,
            commit_lsn: Lsn::ZERO,
            ordinal: row.seq,
            commit_unix_millis: jiff::Timestamp::now().as_millisecond(),
        };
        outlet.reach(Reach { commit_lsn: Lsn::ZERO, ordinal: row.seq })?;
        let values: Vec<Value<'_>> = row.values().collect();
        outlet.publish(plan, &values, &at, &mut scratch)?;
        if outlet.ending.is_over() {
            break;
        }
        count += 1;
    }
    Ok(count)
}
