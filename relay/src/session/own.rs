//! Owning a lane: lock, slot, fence, record, comparison, in this order.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use outbox_postgres_link::transport::{SslMode, is_loopback};

use super::compare::{Decision, HaltReason, MustMeet, PLUGIN, SlotFacts};
use super::disposition::end_of_state;
use super::sql::{ServerLook, Sql, server_facts};
use super::{Context, End, Ending, Facts, Owned, Reading, blocking, chain, claimed, step, weigh};
use crate::config::{Loss, Settings};
use crate::lsn::Lsn;
use crate::observe::Phase;
use crate::publisher::Contact;
use crate::reader::{self, Positions, ReaderConfig, ReaderEnd};
use crate::router::topics::cluster::Cluster;
use crate::state::{RecordedPhase, StateRecord, Store, StoreError, topic};
use crate::wire::{Connection, SystemIdentity, Target, TimelineHistory, WireError};

/// How often a relay in line looks whether the lane is free, and its owner whether the slot is: what a take-over may
/// take beside the server's ten seconds of patience with a frozen owner is five.
const IN_LINE: Duration = Duration::from_millis(250);
/// Every so many looks it is asked anew who the owner is, which the server answers with all its locks in view.
const ASK_WHO: u32 = 20;
/// Pause between two attempts on the state topic.
const TOPIC: Duration = Duration::from_secs(1);

/// What a session goes on with once it owns its lane.
pub(super) enum Next {
    /// Publish from the slot.
    Stream(Start),
    /// Make the slot; what stands in the table is never published.
    MakeSlot,
    /// Publish the rows of the table first; the record says `filling`.
    Fill {
        /// The record that this session writes first.
        record: StateRecord,
        /// What was lost; `None` where nothing was, or where a fill begins again.
        loss: Option<Loss>,
    },
}

/// What a stream begins with.
pub(super) struct Start {
    /// The record that this session writes first.
    pub(super) record: StateRecord,
    /// What has to be met before skipping is believed.
    pub(super) must_meet: Option<MustMeet>,
    /// The outbox table's OID.
    pub(super) outbox_oid: Option<u32>,
}

/// The replication side of a session before it streams.
struct Replication {
    timeline: u32,
    system_id: String,
    history: Vec<(u32, Lsn)>,
    reading: Option<Reading>,
}

pub(super) async fn own(context: &Context, ending: &Arc<Ending>) -> Result<(Owned, Next), End> {
    let settings = &context.settings;
    let slot_name = settings.slot();
    context.observed.enter(Phase::Connecting, Some("PostgreSQL".into()));
    let name = context.lane_name();
    step(context, ending, log_in_safely(context)).await?;
    let sql = step(context, ending, async {
        Sql::connect(&settings.source, &name, ending.clone()).await.map_err(|error| error.end())
    })
    .await?;
    context.logged_in.store(true, SeqCst);
    let look = step(context, ending, server(&sql)).await?;
    step(context, ending, in_line(context, &sql, &name)).await?;

    // It connects while the lane is being taken over; nothing waits for it then.
    let cluster = Cluster::on_its_way(&settings.kafka, &settings.state.topic);
    let cluster = cluster.map_err(|error| End::halt(&error))?;
    let slot = step(context, ending, slot_at_rest(context, &sql, &slot_name)).await?;
    context.observed.enter(Phase::Recovering, Some("the replication slot".into()));
    let usable = slot.as_ref().is_some_and(|(facts, _)| streamable(facts, &settings.source.database));
    let replication = step(context, ending, replicate(context, usable)).await?;
    if replication.system_id != look.system_id {
        return Err(End::Reconnect(format!(
            "the SQL connection is on system {} and the replication connection on {}: a load balancer between?",
            look.system_id, replication.system_id
        )));
    }
    if let Some(reading) = &replication.reading {
        let checked = step(context, ending, same_backend(&sql, &slot_name, reading.pid)).await;
        if let Err(end) = checked {
            return Err(said_by(replication.reading, end));
        }
    }
    // Looked at again now that nobody else can move it.
    let slot =
        step(context, ending, async { sql.slot(&slot_name).await.map_err(|error| error.end()) }).await?;

    // Kafka may keep us waiting; the lane is kept meanwhile, and the stream gets its feedback.
    let remembering = async {
        tokio::select! {
            biased;
            end = keep_alive(&sql, &slot_name, replication.reading.as_ref()) => Err(end),
            found = remember(context, ending) => found,
        }
    };
    let remembered = step(context, ending, remembering).await;
    let (store, record) = match remembered {
        Ok(found) => found,
        Err(end @ End::Reconnect(_)) => return Err(said_by(replication.reading, end)),
        Err(end) => return Err(end),
    };
    let (reading, writer) = (replication.reading, uuid::Uuid::now_v7());
    let owned = Owned { sql, reading, store, cluster, writer };
    let slot = slot.map(|(facts, _)| facts);
    let facts = (look, replication.timeline, replication.history);
    let next = step(context, ending, decide(context, &owned, record, slot, facts)).await?;
    step(context, ending, published(context, &owned.sql)).await?;
    Ok((owned, next))
}

/// Pings the SQL connection, which ends on the server after ten idle seconds, until it or the stream is
/// lost.
pub(crate) async fn keep_alive(sql: &Sql, slot: &str, reading: Option<&Reading>) -> End {
    let mut pings = tokio::time::interval(Duration::from_secs(2));
    loop {
        pings.tick().await;
        if let Err(error) = sql.ping(slot).await {
            return error.end();
        }
        if reading.is_some_and(|reading| reading.reader.has_ended()) {
            return lost_early();
        }
    }
}

/// What the stream ended with says more than that it was missed.
fn said_by(reading: Option<Reading>, otherwise: End) -> End {
    match reading {
        Some(reading) if reading.reader.has_ended() => reader_end(&reading.reader.close()),
        _ => otherwise,
    }
}

/// The SQL driver answers a server that asks for the password in clear text. Our own connection refuses to, so
/// over a network it goes first; with TLS always, since it also says best what is wrong.
async fn log_in_safely(context: &Context) -> Result<(), End> {
    let source = &context.settings.source;
    let in_the_clear = source.transport.mode == SslMode::Disable;
    if in_the_clear && (source.password.is_none() || is_loopback(&source.host)) {
        return Ok(());
    }
    let target = target(&context.settings);
    blocking(move || Connection::connect(&target).map(drop).map_err(|error| wire_end(&error))).await
}

fn lost_early() -> End {
    End::Reconnect("the replication stream ended before it was used".into())
}

async fn server(sql: &Sql) -> Result<ServerLook, End> {
    let look = sql.server().await.map_err(|error| error.end())?;
    if look.in_recovery {
        return Err(End::Reconnect(
            "the server is a standby (in recovery); a relay needs the primary".into(),
        ));
    }
    Ok(look)
}

/// Halts where the outbox table is not, or no longer, in the publication: nothing else would notice.
pub(crate) async fn published(context: &Context, sql: &Sql) -> Result<(), End> {
    let settings = &context.settings;
    let found = sql.unpublished(&settings.publication(), &settings.outbox).await;
    found.map_err(|error| error.end())?.map_or(Ok(()), |sentence| Err(End::Halt(sentence)))
}

/// Waits in line for the lane.
async fn in_line(context: &Context, sql: &Sql, name: &str) -> Result<(), End> {
    for look in 0_u32.. {
        if sql.try_own(name).await.map_err(|error| error.end())? {
            break;
        }
        if look.is_multiple_of(ASK_WHO) {
            let owner = sql.lane_owner(name).await.map_err(|error| error.end())?;
            let sentence = format!("lane {name} is owned by {owner}");
            if context.refuses_to_wait() {
                return Err(End::Standby(sentence));
            }
            if look == 0 {
                tracing::info!("{sentence}; waiting in line");
            }
            context.observed.enter(Phase::Standby, Some(sentence));
        }
        if context.outstanding.is_any() {
            let ping = sql.ping(&context.settings.slot()).await.map_err(|error| error.end())?;
            if ping.slot_confirmed.is_some_and(|confirmed| context.outstanding.confirmed(confirmed)) {
                tracing::info!("what a lost session had in flight is confirmed by the lane's owner");
            }
        }
        tokio::time::sleep(IN_LINE).await;
    }
    context.owned.store(true, SeqCst);
    Ok(())
}

/// The slot, once nobody streams from it, where it is one to stream from. A former owner that was frozen loses lane and
/// slot within ten seconds, but maybe the slot a moment later than the lane: whoever has the lane waits for it here,
/// since a session that ended for a slot in use would give up the lane, and pause for longer than that moment.
async fn slot_at_rest(
    context: &Context,
    sql: &Sql,
    name: &str,
) -> Result<Option<(SlotFacts, Option<i32>)>, End> {
    let mut said = false;
    loop {
        let slot = sql.slot(name).await.map_err(|error| error.end())?;
        let Some((facts, Some(active))) = &slot else { return Ok(slot) };
        if !streamable(facts, &context.settings.source.database) {
            return Ok(slot);
        }
        let sentence = format!(
            "replication slot {name} is streamed by process {active} yet, although the lane is ours: a former owner \
             that the server has not missed yet, or another program"
        );
        if !std::mem::replace(&mut said, true) {
            tracing::info!("{sentence}; waiting for it to go");
        }
        context.observed.enter(Phase::Standby, Some(sentence));
        tokio::time::sleep(IN_LINE).await;
    }
}

/// Connects for replication, learns the timeline's history and begins to read, where there is a slot.
async fn replicate(context: &Context, usable: bool) -> Result<Replication, End> {
    let settings = context.settings.clone();
    let observed = context.observed.clone();
    blocking(move || {
        let target = target(&settings);
        let mut connection = Connection::connect(&target).map_err(|error| wire_end(&error))?;
        let (identity, history) = identify(&mut connection)?;
        let (timeline, system_id) = (identity.timeline, identity.system_id);
        if !usable {
            return Ok(Replication { timeline, system_id, history, reading: None });
        }
        let pid = connection.backend_pid();
        let stream = connection
            .start_replication(&settings.slot(), &settings.publication(), settings.outbox.format)
            .map_err(|error| wire_end(&error))?;
        let source = &settings.source;
        let config =
            ReaderConfig::new(source.read_ahead_bytes, source.max_row_bytes, source.wal_sender_timeout);
        let positions = Arc::new(Positions::default());
        let (reader, chunks) = reader::spawn(stream, config, positions.clone(), observed)
            .map_err(|error| End::reconnect(&error))?;
        let reading = Some(Reading { reader, chunks, positions, pid });
        Ok(Replication { timeline, system_id, history, reading })
    })
    .await
}

/// Which server this is, and by which switches it came to its timeline.
pub(crate) fn identify(connection: &mut Connection) -> Result<(SystemIdentity, Vec<(u32, Lsn)>), End> {
    let identity = connection.identify_system().map_err(|error| wire_end(&error))?;
    let history = match identity.timeline {
        0 | 1 => Vec::new(),
        timeline => known_history(connection.timeline_history(timeline))?
            .switches
            .iter()
            .map(|switch| (switch.timeline, switch.switch_point))
            .collect(),
    };
    Ok((identity, history))
}

/// A history file that is gone matters only where the timelines differ, and the comparison says so then.
fn known_history(answer: Result<TimelineHistory, WireError>) -> Result<TimelineHistory, End> {
    match answer {
        Err(error) if error.sqlstate().is_some() => {
            tracing::warn!("the timeline's history: {}", chain(&error));
            Ok(TimelineHistory { switches: Vec::new() })
        }
        answer => answer.map_err(|error| wire_end(&error)),
    }
}

/// Where and as whom the relay replicates.
pub(crate) fn target(settings: &Settings) -> Target {
    let source = &settings.source;
    Target {
        host: source.host.clone(),
        port: source.port,
        user: source.user.clone(),
        password: source.password_now(),
        transport: source.transport.clone(),
        database: source.database.clone(),
        application_name: format!("outbox-relay {}", settings.name),
        connect_timeout: source.connect_timeout,
        wal_sender_timeout: source.wal_sender_timeout,
        receive_buffer: source.receive_buffer,
    }
}

/// Both connections are on one server, and the slot is ours (R44). Nor do commits wait for us (R31).
async fn same_backend(sql: &Sql, slot: &str, pid: i32) -> Result<(), End> {
    if let Some(names) = sql.waits_for_us(pid).await.map_err(|error| error.end())? {
        return Err(End::Halt(format!(
            "synchronous_standby_names is `{names}` and takes this relay for a synchronous standby: every commit would \
             wait for Kafka; name the standbys in that setting one by one, without *"
        )));
    }
    match sql.slot(slot).await.map_err(|error| error.end())? {
        Some((_, Some(active))) if active == pid => Ok(()),
        Some((_, active)) => Err(End::Reconnect(format!(
            "slot {slot} is streamed by {} and not by our backend {pid}: are the connections on different servers \
             (a load balancer, a connection pooler)?",
            active.map_or("nobody".into(), |active| format!("backend {active}"))
        ))),
        None => Err(End::Reconnect(format!("slot {slot} is gone"))),
    }
}

/// Fences other writers and reads what the relay remembers.
async fn remember(context: &Context, ending: &Arc<Ending>) -> Result<(Store, Option<StateRecord>), End> {
    let settings = context.settings.clone();
    context.observed.enter(Phase::Recovering, Some("the state record on Kafka".into()));
    let contact = Contact::seen_in(&context.observed);
    while let Err(error) = topic::ensure(&settings.kafka, &settings.state.topic, &contact).await {
        context.observed.waiting_for(Some(format!("the state topic {}: {error}", settings.state.topic)));
        tracing::warn!(%error, topic = settings.state.topic, "waiting for the state topic");
        tokio::time::sleep(TOPIC).await;
    }
    let (lane, ending) = (context.lane, ending.clone());
    blocking(move || {
        let mut store = Store::fence(&settings, lane, contact, &ending).map_err(|error| store_end(&error))?;
        let record = store.read(&ending).map_err(|error| store_end(&error))?;
        Ok((store, record))
    })
    .await
}

/// Compares slot, server and record, and says what is seen.
async fn decide(
    context: &Context,
    owned: &Owned,
    record: Option<StateRecord>,
    slot: Option<SlotFacts>,
    (look, timeline, history): (ServerLook, u32, Vec<(u32, Lsn)>),
) -> Result<Next, End> {
    let settings = &context.settings;
    let wal_end = owned.sql.wal_end().await.map_err(|error| error.end())?;
    let server = server_facts(&look, timeline, history, wal_end, &settings.source.database);
    let has_rows = match (&record, &slot) {
        (None, None) => owned.sql.table_has_rows(&settings.outbox).await.map_err(|error| error.end())?,
        _ => false,
    };
    let (record, forgotten) = match record {
        Some(record) if record.phase == RecordedPhase::Forgotten => (None, Some(record)),
        record => (record, None),
    };
    let fresh = |position| {
        let first =
            StateRecord::first(&settings.name, context.lane, &server.system_id, server.timeline, position);
        match &forgotten {
            None => first,
            Some(old) => StateRecord {
                epoch: old.epoch.saturating_add(1),
                partitions: old.partitions.clone(),
                ..first
            },
        }
    };
    let found = context.found.lock().take();
    let facts = Facts {
        record: record.as_ref(),
        slot: slot.as_ref(),
        server: &server,
        has_rows,
        found: found.as_ref(),
    };
    let decision = weigh(&owned.sql, settings, context.lane, facts).await.map_err(|error| {
        // Not answered: the next session is asked the same.
        *context.found.lock() = found.clone();
        error.end()
    })?;
    match decision {
        Decision::Begin { position } => {
            tracing::info!(%position, "no state record yet: beginning where the slot stands");
            stream(context, owned, fresh(position), None).await
        }
        Decision::Continue { position, must_meet } => {
            tracing::info!(%position, meets_first = must_meet.is_some(), "going on from the state record");
            let record = record.unwrap_or_else(|| fresh(position));
            stream(context, owned, record, must_meet).await
        }
        Decision::NewTimeline { record, switch_point, possibly_lost, must_meet } => {
            tracing::warn!(timeline, %switch_point, epoch = record.epoch, "the server is on a new timeline");
            if let Some((from, to)) = possibly_lost {
                tracing::warn!(
                    %from, %to,
                    "if events were sent beyond the switch point, which was possible up to the ceiling, their \
                     transactions were lost in the failover although they stand on the topics: compare by position"
                );
            }
            stream(context, owned, *record, must_meet).await
        }
        Decision::MakeSlot => Ok(Next::MakeSlot),
        Decision::Fill { epoch, base, shared_lsn, drop_slot: _, reason } => {
            let old = record.unwrap_or_else(|| fresh(Lsn::ZERO));
            let old = StateRecord { epoch: epoch.max(old.epoch), ..old };
            if let Some(reason) = &reason {
                lost(context, reason, base.is_some());
            }
            let record = old.filling(&server.system_id, server.timeline, base, shared_lsn, reason.is_some());
            let loss = reason.and_then(|reason| reason.loss());
            Ok(Next::Fill { record: claimed(record, owned.writer), loss })
        }
        // Of several servers another may be the present primary.
        Decision::Halt(reason @ HaltReason::TimelineWentBack { .. })
            if !settings.source.others.is_empty() =>
        {
            Err(End::reconnect(&reason))
        }
        Decision::Halt(reason) => Err(End::halt(&reason)),
    }
}

/// Says what was lost and what follows.
fn lost(context: &Context, reason: &HaltReason, known: bool) {
    let rows = match known {
        true => "every row of the table that is not known to be published",
        false => "every row of the table, since nothing says which are published",
    };
    tracing::error!(
        "{reason}. As configured, a new slot is made and {rows} is published now, under its own event id"
    );
    context.observed.error(format!("{reason}. Filled as configured"));
}

/// Begins to stream with this record.
async fn stream(
    context: &Context,
    owned: &Owned,
    record: StateRecord,
    must_meet: Option<MustMeet>,
) -> Result<Next, End> {
    let found = owned.sql.table_oid(&context.settings.outbox).await;
    let outbox_oid = found.map_err(|error| error.end())?;
    Ok(Next::Stream(Start { record: claimed(record, owned.writer), must_meet, outbox_oid }))
}

/// A slot that lost its log, or is another program's or another database's, is not tried: the comparison
/// says more of it than the server's refusal.
fn streamable(slot: &SlotFacts, database: &str) -> bool {
    let lost = slot.invalidation_reason.is_some() || slot.wal_status.as_deref() == Some("lost");
    !lost && slot.plugin == PLUGIN && slot.database == database
}

/// The end of a session whose replication connection could not be made or used.
pub(crate) fn wire_end(error: &WireError) -> End {
    match error.sqlstate() {
        // A role that may log in but not stream is refused by its log-in.
        Some("42501") if matches!(error, WireError::Server { doing, .. } if *doing == crate::wire::LOGGING_IN) => {
            End::Halt(format!(
                "{}; the role of source.url needs the attribute REPLICATION: `ALTER ROLE … REPLICATION` (a managed service \
                 may have a role in its place: `GRANT rds_replication TO …` on RDS), or `outbox-relay init` again as a \
                 superuser",
                chain(error)
            ))
        }
        Some(code) => end_of_state(Some(code), chain(error)),
        None => match error {
            // What waiting does not mend: the two sides do not accept each other.
            WireError::Authentication { .. } | WireError::Unbound { .. } => End::halt(error),
            WireError::Tls(trouble) if trouble.is_permanent() => End::Distrust(chain(error)),
            WireError::Tls(_)
            | WireError::Connect { .. }
            | WireError::Io { .. }
            | WireError::Closed { .. }
            | WireError::NoAnswer { .. }
            | WireError::Protocol { .. }
            | WireError::Server { .. } => End::reconnect(error),
        },
    }
}

/// The end of a session whose stream ended.
pub(super) fn reader_end(end: &ReaderEnd) -> End {
    match end {
        ReaderEnd::ClosedByServer(Some(error)) => end_of_state(Some(&error.sqlstate), chain(end)),
        // Bytes that are no frames come again from the same slot: reading them again mends nothing, but
        // neither can it hurt, and a broken middlebox may be gone by then.
        ReaderEnd::Stopped
        | ReaderEnd::ClosedByServer(None)
        | ReaderEnd::Io { .. }
        | ReaderEnd::Silent { .. }
        | ReaderEnd::Framing(_) => End::reconnect(end),
    }
}

fn store_end(error: &StoreError) -> End {
    match error {
        StoreError::Over => End::Reconnect(error.to_string()),
        StoreError::Fenced { .. } => End::Fenced(error.to_string()),
        StoreError::Record { .. } | StoreError::Kafka(_) => End::halt(error),
    }
}
