//! Why a session cannot go on, in sentences for the person who has to act.

use std::time::Duration;

use crate::ledger::LastPublished;
use crate::lsn::Lsn;

/// How to begin anew without losing what the table still holds. True by the decisions of
/// [`compare`](super::compare): without record and slot, `publish` is a fill from the empty snapshot.
const BEGIN_ANEW: &str = "To begin anew, drop the slot if there is one, run `outbox-relay forget --yes` \
    and start with --existing=publish: every row that the table still holds is published again under its own event id";

/// What was seen, without what only a table can mend.
fn seen(reason: &HaltReason) -> String {
    reason.to_string().replace(BEGIN_ANEW, "").trim_end_matches([' ', '.']).replace(". . ", ". ")
}

fn range(missing: Option<&(Lsn, Lsn)>) -> String {
    missing.map_or(String::new(), |(from, to)| format!(" in the log from {from} to {to}"))
}

fn in_words(last: Option<&LastPublished>) -> String {
    last.map_or("none so far".to_owned(), |last| format!("{} at {}", last.xid, last.end_lsn))
}

fn lane_in_words(name: Option<&str>) -> String {
    name.map_or("the lane without a name".to_owned(), |name| format!("lane {name}"))
}

/// Facts that do not agree, each with what was seen, what it means and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// First start; the table is empty.
    #[error(
        "there is no replication slot and no state record: this relay has not run here before. Run \
         `outbox-relay init`, or start with --existing=publish or --existing=skip"
    )]
    NothingYet,
    /// First start; the table holds rows.
    #[error(
        "there is no replication slot and no state record, but the outbox table holds rows, and no slot \
         can bring them. Say what is to become of them: --existing=publish publishes them first, \
         --existing=skip never does; `outbox-relay init` asks the same"
    )]
    NothingYetButRows,
    /// The memory of another lane.
    #[error(
        "number {number} of the lanes is {}'s, whose state record stands there, and this is {}: with its position \
         events that were never published would be passed over. Give each lane the number that it had (and the name, \
         since the slot goes by it); a number that was never used is a new lane. Where the lane of that record is to be \
         no more, run `outbox-relay forget --yes` with --lane {number}, then start with --existing=publish or skip",
        lane_in_words(recorded.as_deref()), lane_in_words(found.as_deref())
    )]
    AnothersLane {
        /// The number of both.
        number: u32,
        /// The lane's name in the record.
        recorded: Option<String>,
        /// The lane's name in the configuration.
        found: Option<String>,
    },
    /// The slot does not exist.
    #[error(
        "the replication slot is gone, while the state record says that events are published up to \
         {position}: events committed between {position} and {wal_end} may be unpublished. No new slot \
         was made, since it would hide that. {BEGIN_ANEW}"
    )]
    SlotGone {
        /// The record's position.
        position: Lsn,
        /// The server's WAL end.
        wal_end: Lsn,
    },
    /// The slot does not exist on the new timeline.
    #[error(
        "the server went over to timeline {timeline} at {switch_point}, and there is no replication slot on it: \
         events committed after {position} may be unpublished, and what was published between {switch_point} and \
         {furthest}, if anything, the server has lost. On PostgreSQL 17 and later make the slot a failover slot. \
         {BEGIN_ANEW}"
    )]
    SlotGoneAfterSwitch {
        /// The smaller of the record's position and the switch point.
        position: Lsn,
        /// No LSN that was sent exceeds it.
        furthest: Lsn,
        /// Where the timelines part.
        switch_point: Lsn,
        /// The server's timeline.
        timeline: u32,
    },
    /// The slot exists and cannot be used.
    #[error(
        "the server has invalidated the replication slot ({reason}): WAL that it needed is gone, and \
         events committed after {position} may be unpublished. {BEGIN_ANEW}. To keep it from happening \
         again, look at max_slot_wal_keep_size, wal_level and idle_replication_slot_timeout"
    )]
    SlotInvalidated {
        /// The server's word for it.
        reason: String,
        /// The record's position, or the slot's where there is no record.
        position: Lsn,
    },
    /// The slot's creation has not come to an end.
    #[error(
        "the replication slot has no confirmed_flush_lsn: it is still being created, which waits for the \
         transactions that were open when it began. Look for old ones in pg_stat_activity and \
         pg_prepared_xacts, and start again"
    )]
    SlotUnfinished,
    /// The slot was moved past the record.
    #[error(
        "the replication slot stands at {slot}, ahead of the state record's {position}: somebody else \
         moved or recreated it, and events committed between {position} and {slot} may be unpublished. \
         {BEGIN_ANEW}"
    )]
    SlotAhead {
        /// The record's position.
        position: Lsn,
        /// The slot's.
        slot: Lsn,
    },
    /// The slot is ahead on a new timeline.
    #[error(
        "the server went over to timeline {timeline} at {switch_point}, and the replication slot stands \
         at {slot}, ahead of what is known to be published of the shared history, {position}: events \
         committed between {position} and {slot} may be unpublished. {BEGIN_ANEW}"
    )]
    SlotAheadAfterSwitch {
        /// The smaller of the record's position and the switch point.
        position: Lsn,
        /// The slot's.
        slot: Lsn,
        /// Where the timelines part.
        switch_point: Lsn,
        /// The server's timeline.
        timeline: u32,
    },
    /// Another cluster.
    #[error(
        "this is database system {found}, and the state record is of system {recorded}, published up to \
         {position}: the relay is connected to another cluster, or the cluster was replaced by a dump or \
         an upgrade. Point source.url at the former one, or give this relay another name"
    )]
    OtherSystem {
        /// System identifier in the record.
        recorded: String,
        /// System identifier of the server.
        found: String,
        /// The record's position.
        position: Lsn,
    },
    /// Less log than was published.
    #[error(
        "the server's WAL ends at {wal_end} on timeline {timeline}, below {position}, up to which its \
         events are published: an earlier state of its disk was restored. What was published beyond \
         {wal_end} is no longer in the database, and new events would be taken for old ones. {BEGIN_ANEW}"
    )]
    ServerBehind {
        /// The server's WAL end.
        wal_end: Lsn,
        /// The position it has to reach.
        position: Lsn,
        /// The server's timeline.
        timeline: u32,
    },
    /// The stream is not the one that was published from.
    #[error(
        "the server's log is not the one that was published from: the last published transaction ({}) \
         was not met, or was followed by events up to {seen} that were never published. An \
         earlier state of its disk was restored. {BEGIN_ANEW}",
        in_words(expected.as_ref())
    )]
    OtherHistory {
        /// The transaction that had to be met; `None` where nothing was published yet.
        expected: Option<LastPublished>,
        /// The LSN at which it was clear that it would not be, or that more followed it.
        seen: Lsn,
    },
    /// The bound on fills is reached.
    #[error(
        "{reason}. It was not filled by itself: that has happened {fills} times within {} h, as often as \
         recovery.max_fills allows; find out what loses the slot",
        window.as_secs() / 3600
    )]
    TooManyFills {
        /// What was lost this time.
        reason: Box<HaltReason>,
        /// Fills within the window.
        fills: usize,
        /// `recovery.window`.
        window: Duration,
    },
    /// A table in which nothing stands that was published.
    #[error(
        "{reason}. It was not filled by itself: no row of the table is known to be published, so rows may be \
         deleted there before they are, and what is missing with them. If rows stay until they are published, \
         and clean-up has removed all that were, set outbox.rows_stay = true; if not, set it to false"
    )]
    RowsMayBeGone {
        /// What was lost.
        reason: Box<HaltReason>,
    },
    /// Events that came as messages cannot be published from anywhere else.
    #[error(
        "{}. What services emitted{} is in no table (outbox.from = \"messages\"), so nothing can fill it: find out what \
         was committed then, and let it be emitted again. To begin anew, drop the slot if there is one, run \
         `outbox-relay forget --yes` and start with --existing=skip",
        seen(reason), range(missing.as_ref())
    )]
    MessagesGone {
        /// What was lost.
        reason: Box<HaltReason>,
        /// The part of the log.
        missing: Option<(Lsn, Lsn)>,
    },
    /// A fill was to be made, or gone on with, and events are messages.
    #[error(
        "this relay was to publish rows of a table, or was cut off while it did, and now outbox.from is \"messages\": let \
         it finish with outbox.from = \"table\", or give the relay of messages another name"
    )]
    NoTable,
    /// Not a slot of this relay.
    #[error(
        "the replication slot uses the output plugin `{found}`, not pgoutput: another program made it. \
         Drop it if nobody uses it, or give this relay another name"
    )]
    WrongPlugin {
        /// The slot's plugin; empty for a physical slot.
        found: String,
    },
    /// A slot of another database.
    #[error(
        "the replication slot belongs to database `{slot}`, and source.url names `{connected}`. Correct \
         source.url, or give this relay another name: slot names are shared by the whole server"
    )]
    WrongDatabase {
        /// The slot's database.
        slot: String,
        /// Ours.
        connected: String,
    },
    /// A slot that does not outlive its session.
    #[error(
        "the replication slot is temporary: it ends with the session that made it, or it was not yet \
         synchronised when this server took over, and then it is not complete. On PostgreSQL 17 and later \
         make it a failover slot and set synchronized_standby_slots. {BEGIN_ANEW}"
    )]
    TemporarySlot,
    /// An earlier timeline.
    #[error(
        "the server is on timeline {found}, and the state record was made on timeline {recorded}: this is \
         a former primary, or an earlier state of its disk. Point source.url at the present primary"
    )]
    TimelineWentBack {
        /// Timeline in the record.
        recorded: u32,
        /// Timeline of the server.
        found: u32,
    },
    /// The history file is not there.
    #[error(
        "the server is on timeline {found}, the state record was made on timeline {recorded}, and the \
         server gives no history of its timeline: where the two part cannot be known. Restore \
         {found:08X}.history to its pg_wal from the archive, and start again"
    )]
    HistoryMissing {
        /// Timeline in the record.
        recorded: u32,
        /// Timeline of the server.
        found: u32,
    },
    /// A sibling.
    #[error(
        "the server is on timeline {found}, whose history does not contain timeline {recorded} of the \
         state record: it was promoted from a state before that timeline began. Point source.url at the \
         present primary. {BEGIN_ANEW}"
    )]
    NotAnAncestor {
        /// Timeline in the record.
        recorded: u32,
        /// Timeline of the server.
        found: u32,
    },
}
