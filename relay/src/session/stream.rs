//! Publishing from the slot: the threads of the data path, and the loop that watches over them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::own::{Start, keep_alive, published, reader_end, store_end};
use super::standbys::HeldBack;
use super::{Context, End, Ending, Owned, Reading, Sql, blocking, drain, step};
use crate::cleanup::Cleaner;
use crate::config::Guarantee;
use crate::ledger::{self, Settler};
use crate::lsn::Lsn;
use crate::observe::{Observed, Phase, SlotLog};
use crate::publisher::{Confirmations, Gate, Poller, Publishers, Transactional, Window};
use crate::quarantine::keeper::Keeper;
use crate::quarantine::recall::{recall, whose};
use crate::quarantine::{Desk, Holds};
use crate::reader::{Positions, Reader};
use crate::router::outlet::{Outlet, Ways};
use crate::router::thread as router;
use crate::router::topics::Topics;
use crate::router::topics::cluster::Cluster;
use crate::state::{Place, Recorder, RecorderParts, StateRecord, Store, Together};

/// How often the SQL connection is pinged; it ends on the server after ten idle seconds.
const PING: Duration = Duration::from_secs(2);
/// Every so many pings a snapshot is taken for the ring.
const SNAPSHOT_EVERY: u32 = 5;

/// A session has one SQL connection and ends with it, and its candidates with the session.
const ONLY_CONNECTION: u64 = 0;

/// The running pipeline of one session.
pub(super) struct Pipeline {
    pub(super) reader: Reader,
    pub(super) recorder: Arc<Recorder>,
    pub(super) confirmations: Arc<Confirmations>,
    pub(super) positions: Arc<Positions>,
    pub(super) window: Arc<Window>,
    /// Where Kafka transactions are cut, with exactly one delivery.
    pub(super) gate: Option<Arc<Gate>>,
    pub(super) desk: Arc<Desk>,
    settler: Settler,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) router: JoinHandle<()>,
    poller: Poller,
    recording: JoinHandle<()>,
    watching: JoinHandle<()>,
}

pub(super) async fn run(context: &Context, ending: &Arc<Ending>, owned: Owned, start: Start) -> End {
    let Owned { sql, reading, store, cluster } = owned;
    let Some(reading) = reading else {
        return End::Reconnect("the slot went away before the stream began".into());
    };
    let pid = reading.pid;
    let Start { mut record, must_meet, outbox_oid } = start;
    let recalling = recall(&sql, &context.settings, context.lane, &mut record);
    let holds = match step(context, ending, recalling).await {
        Ok(holds) => holds,
        Err(end) => return over(ending, end),
    };
    let start = Start { record, must_meet, outbox_oid };
    let begun = {
        let (mine, over) = (context.clone(), ending.clone());
        let slot = context.settings.slot();
        let beginning = async {
            tokio::select! {
                biased;
                end = keep_alive(&sql, &slot, None) => Err(end),
                begun = blocking(move || begin(&mine, &over, reading, (store, cluster), start, holds)) => begun,
            }
        };
        step(context, ending, beginning).await
    };
    let pipeline = match begun {
        Ok(pipeline) => pipeline,
        Err(end) => return over(ending, end),
    };
    context.outstanding.begins();
    let slowly = context.refusals.until().map(|until| one_by_one(until.commit_lsn));
    context.observed.enter(Phase::Streaming, slowly);
    tracing::info!(slot = context.settings.slot(), "streaming");
    let keeper = Keeper {
        sql: &sql,
        whose: whose(&context.settings, context.lane),
        desk: &pipeline.desk,
        recorder: &pipeline.recorder,
        settler: pipeline.settler.clone(),
        observed: &context.observed,
        ending,
    };
    let (settings, recorder) = (&context.settings, &pipeline.recorder);
    let cleaner = Cleaner { settings, recorder, observed: &context.observed };
    let end = tokio::select! {
        biased;
        end = watch(context, ending, &sql, &pipeline, pid) => end,
        end = keeper.keep() => Some(end),
        never = cleaner.keep_clean() => match never {},
    };
    // The server must not wait for us: its connections go first, the rest of the pipeline after.
    let polite = end == Some(End::Drained);
    if polite {
        context.outstanding.drained(pipeline.positions.recorded());
    }
    // What a drain says stands, also where the connection was lost meanwhile: the program ends with it.
    let undrained = end.clone().filter(|end| matches!(end, End::Undrained { .. }));
    if let Some(end) = end {
        ending.end(end);
    }
    let had_ended = pipeline.reader.has_ended();
    if !polite {
        pipeline.reader.interrupt().interrupt();
    }
    drop(sql);
    let closing = ending.clone();
    let closed = blocking(move || {
        pipeline.close(polite, had_ended, &closing);
        Ok(())
    });
    if let Err(end) = closed.await {
        ending.end(end);
    }
    if !polite {
        // Nothing hands over any more.
        context.outstanding.lost(context.refusals.handed().commit_lsn);
    }
    let told = ending.wait().await;
    undrained.unwrap_or(told)
}

/// The session is over before it streams; whatever runs for it hears so.
fn over(ending: &Ending, end: End) -> End {
    ending.end(end.clone());
    ending.told().unwrap_or(end)
}

/// Builds the pipeline. The first record is acknowledged before the router reads anything: it makes the
/// record this session's, with the epoch and position that the comparison decided on.
fn begin(
    context: &Context,
    ending: &Arc<Ending>,
    reading: Reading,
    (store, cluster): (crate::state::Store, Arc<Cluster>),
    start: Start,
    holds: Holds,
) -> Result<Pipeline, End> {
    let Start { mut record, must_meet, outbox_oid } = start;
    let settings = &context.settings;
    let observed = &context.observed;
    let position = record.position;
    let epoch = record.epoch;
    let pins = record.partitions.clone();
    let (writer, settler, head) = ledger::ledger(ledger::DEFAULT_CAPACITY, position);
    let (window, publishers) = producers(context, &settler, &mut record, reading.positions.lag())?;
    let confirmations = Confirmations::new(position);
    let Reading { reader, chunks, positions, .. } = reading;
    let thread = |error: std::io::Error| End::reconnect(&error);
    // Before the first record: with exactly one delivery its acknowledgement comes by the same reports.
    let poller =
        Poller::spawn(publishers.clone(), head, confirmations.clone(), observed.clone(), ending.clone())
            .map_err(thread)?;
    let (place, gate) = place(context, ending, store, &publishers, &window, position)?;
    let (recorder, recording) = Recorder::spawn(RecorderParts {
        place,
        record,
        believed: must_meet.is_none_or(|must_meet| must_meet.is_met()),
        confirmations: confirmations.clone(),
        positions: positions.clone(),
        settings: settings.state.clone(),
        observed: observed.clone(),
        ending: ending.clone(),
    })
    .map_err(thread)?;
    let ceiling = recorder.begun(ending);
    if let Some(end) = ending.told() {
        return Err(end);
    }
    let draining = Arc::new(AtomicBool::new(false));
    let (recorded, seen, over) = (recorder.clone(), observed.clone(), ending.clone());
    let topics = Topics::new(pins, cluster, &settings.kafka, &settings.topics, recorded, seen, over)
        .map_err(|error| End::halt(&error))?;
    let topics = topics.behind(gate.clone());
    let watching = topics.watch().map_err(thread)?;
    let desk = Arc::new(Desk::default());
    let ways = Ways {
        topics,
        ledger: writer,
        settler: settler.clone(),
        publishers,
        window: window.clone(),
        gate: gate.clone(),
        holds,
        desk: desk.clone(),
        observed: observed.clone(),
        ending: ending.clone(),
    };
    let parts = router::RouterParts {
        settings: settings.clone(),
        lane: context.lane,
        outbox_oid,
        epoch,
        position,
        must_meet,
        ceiling,
        outlet: Outlet::new(settings, ways),
        gate: gate.clone(),
        recorder: recorder.clone(),
        observed: observed.clone(),
        ending: ending.clone(),
        draining: draining.clone(),
    };
    let router = router::spawn(parts, chunks).map_err(thread)?;
    Ok(Pipeline {
        reader,
        recorder,
        confirmations,
        positions,
        window,
        gate,
        desk,
        settler,
        draining,
        router,
        poller,
        recording,
        watching,
    })
}

/// Where the state record is written. With exactly one delivery the producer of events takes over the transactional id
/// under which the record was read.
fn place(
    context: &Context,
    ending: &Ending,
    store: Store,
    publishers: &Arc<Publishers>,
    window: &Arc<Window>,
    position: Lsn,
) -> Result<(Place, Option<Arc<Gate>>), End> {
    let delivery = &context.settings.delivery;
    match delivery.guarantee {
        Guarantee::AtLeastOnce => Ok((Place::Apart(Box::new(store)), None)),
        Guarantee::ExactlyOnce => {
            let gate = Arc::new(Gate::new(position));
            let parts = (publishers.clone(), gate.clone(), window.clone());
            let together = Together::take_over(store, parts.0, parts.1, parts.2, ending)
                .map_err(|error| store_end(&error))?;
            Ok((Place::Together(Box::new(together), delivery.clone()), Some(gate)))
        }
    }
}

/// The session's producers, and the bound on what they have in flight.
fn producers(
    context: &Context,
    settler: &Settler,
    record: &mut StateRecord,
    lag: Duration,
) -> Result<(Arc<Window>, Arc<Publishers>), End> {
    let (kafka, delivery) = (&context.settings.kafka, &context.settings.delivery);
    let transactional = (delivery.guarantee == Guarantee::ExactlyOnce).then(|| Transactional {
        id: Store::id_of(&context.settings, context.lane),
        timeout: delivery.transaction_timeout,
    });
    let window = Arc::new(Window::new(kafka.max_in_flight_records, kafka.max_in_flight_bytes));
    let flow = context.refusals.flow(record);
    // Within a session with transactions the producer stays.
    let flow = if transactional.is_some() { flow } else { flow.at(lag) };
    if let Some(until) = context.refusals.until() {
        tracing::info!("{}", one_by_one(until.commit_lsn));
    }
    let (observed, refusals) = (context.observed.clone(), context.refusals.clone());
    let publishers =
        Publishers::new(kafka, settler.clone(), window.clone(), observed, refusals, flow, transactional);
    Ok((window, Arc::new(publishers.map_err(|error| End::halt(&error))?)))
}

fn one_by_one(until: Lsn) -> String {
    format!("sending one record at a time up to {until}, after a refusal")
}

/// The loop of a session: the end comes first, then the order to stop, then the pings. `None` when the
/// stream has ended: the reader says why.
async fn watch(context: &Context, ending: &Ending, sql: &Sql, pipeline: &Pipeline, pid: i32) -> Option<End> {
    let mut pings = interval(PING);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks = interval(Duration::from_millis(200));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0;
    let mut held_back = HeldBack::default();
    loop {
        tokio::select! {
            biased;
            end = ending.wait() => return Some(end),
            () = context.told_to_stop() => {
                return Some(drain::drain(context, ending, sql, pipeline).await);
            }
            _ = looks.tick() => {
                show(&context.observed, pipeline);
                // Every thread runs as long as its session; one that has ended before has lost its stream, or
                // panicked.
                if pipeline.reader.has_ended() || pipeline.has_lost_a_thread() {
                    return said(ending).await;
                }
            }
            _ = pings.tick() => {
                count += 1;
                let work = async {
                    let wal_end = ping(context, sql, pipeline, pid, count % SNAPSHOT_EVERY == 1).await?;
                    let (slot, observed) = (context.settings.slot(), &context.observed);
                    let looked = held_back.look(sql, &slot, observed, wal_end).await;
                    looked.map_err(|error| error.end())
                };
                tokio::select! {
                    biased;
                    end = ending.wait() => return Some(end),
                    result = work => if let Err(end) = result { return Some(end) },
                }
            }
        }
    }
}

/// The stream is gone. A server that shuts down says so on the SQL connection at the same time, and says
/// more than a closed stream; it is given a moment to.
async fn said(ending: &Ending) -> Option<End> {
    tokio::time::timeout(Duration::from_millis(300), ending.wait()).await.ok()
}

/// Answers where the server's log ends.
async fn ping(
    context: &Context,
    sql: &Sql,
    pipeline: &Pipeline,
    pid: i32,
    with_snapshot: bool,
) -> Result<Lsn, End> {
    let ping = sql.ping(&context.settings.slot()).await.map_err(|error| error.end())?;
    // Answered on the connection that took the snapshots: no crash lies between (R38).
    pipeline.recorder.candidates(|candidates| candidates.answered(ONLY_CONNECTION));
    context.observed.server_wal.set(ping.wal_flush.0);
    if let Some(confirmed) = ping.slot_confirmed {
        context.observed.slot_confirmed.set(confirmed.0);
    }
    show_log(&context.observed, ping.slot_log);
    if ping.active_pid != Some(pid) {
        return Err(End::Reconnect(format!(
            "the slot is no longer streamed by our backend {pid} but by {:?}",
            ping.active_pid
        )));
    }
    if with_snapshot {
        published(context, sql).await?;
        let (snapshot, lsn) = sql.snapshot().await.map_err(|error| error.end())?;
        pipeline.recorder.candidates(|candidates| {
            candidates.taken(lsn, snapshot, jiff::Timestamp::now(), ONLY_CONNECTION);
        });
    }
    Ok(ping.wal_flush)
}

/// Shows what the server keeps for the slot, and says it where that turns (R28).
fn show_log(observed: &Observed, now: SlotLog) {
    let turned = now.turned(&observed.slot_log_is(now));
    let status = now.status.map_or("gone", |status| status.name());
    match turned {
        Some(false) => tracing::warn!(
            status,
            limit_bytes = now.limit_bytes,
            "the slot is about to lose its log (max_slot_wal_keep_size): the relay has to catch up, or the limit to be raised"
        ),
        Some(true) => tracing::info!(status, "the slot's log is safe again"),
        None => {}
    }
}

/// Copies what the data path counts for itself to where it is seen.
fn show(observed: &Observed, pipeline: &Pipeline) {
    observed.in_flight_records.set(pipeline.window.records());
    observed.in_flight_bytes.set(pipeline.window.bytes());
}

impl Pipeline {
    /// Whether a thread other than the reader's has ended.
    fn has_lost_a_thread(&self) -> bool {
        let ended = [&self.router, &self.recording, &self.watching].map(JoinHandle::is_finished);
        ended.contains(&true) || self.poller.has_ended()
    }

    /// Waits for the threads, which end with the session. In the order of the data path, so that nothing
    /// waits for what has ended before it.
    fn close(self, polite: bool, had_ended: bool, ending: &Ending) {
        let end = if polite { self.reader.close() } else { self.reader.abort() };
        let end = reader_end(&end);
        if had_ended && matches!(ending.told(), Some(End::Undrained { .. })) {
            tracing::warn!(reason = end.sentence(), "how the replication stream ended");
        }
        // Heard only where nobody has said why before.
        ending.end(end);
        for thread in [self.router, self.recording, self.watching] {
            if thread.join().is_err() {
                tracing::error!("a thread of the session panicked");
            }
        }
        self.poller.stop();
    }
}
