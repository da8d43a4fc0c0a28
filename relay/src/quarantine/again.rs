//! Entries that PostgreSQL has lost, made again from their rows (R39).
//!
//! The position has passed these rows, so no stream brings them again, and the state record says that they were not
//! published. What the record does not say is why: a row that makes no record says it itself, and of one that does it
//! is not known any more whether the broker refused it or an earlier event of its key was held. It is held all the
//! same, and whoever decides about it finds the reason where it is released.
//!
//! Entries that were settled are not in the record's list: the keeper takes them off it, so one that its owner has
//! pruned since is not missed.

use std::collections::HashMap;

use super::desk::EntryId;
use super::entry::{Cause, Entry, RawRow, position_text};
use super::holds::{Holds, NotTaken, Standing};
use super::table::{self, Recalled, Whose};
use crate::config::{QuarantineSettings, Settings};
use crate::fill::{ById, by_id};
use crate::router::{Plan, RowPosition, Scratch};
use crate::session::{End, Sql};
use crate::state::ListedEntry;

/// Entries that are made in one go; so many rows are held at once.
const AT_ONCE: usize = 20;

/// Why an entry cannot be made again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotMade {
    /// The list does not say of which event it was.
    #[error("the state record does not have the whole id of its event")]
    NoId,
    /// Its row is gone.
    #[error("no row of the outbox has the id of its event")]
    NoRow,
    /// Several rows have it.
    #[error("several rows of the outbox have the id of its event")]
    Several,
    /// It is larger than what is held of a row.
    #[error("its row has {0} bytes, more than source.max_row_bytes")]
    TooLarge(u64),
    /// Its values are not UTF-8.
    #[error("its row has a value that is not UTF-8")]
    NotText,
    /// Its topic's policy is to halt.
    #[error("the policy of its topic is to halt")]
    Policy,
    /// A later event of its key is held already.
    #[error("a later event of its key is held already, behind which it would have to wait")]
    LaterHeld,
    /// The table cannot be read as the configuration says.
    #[error("the outbox cannot be routed: {0}")]
    Plan(String),
}

/// Makes entries again, in the order of their positions; the first that cannot be is the answer.
///
/// # Errors
/// The session's end: PostgreSQL does not answer.
pub(super) async fn make(
    sql: &Sql,
    settings: &Settings,
    whose: &Whose,
    missing: &[(EntryId, ListedEntry)],
    found: &[Recalled],
) -> Result<Result<(), (EntryId, NotMade)>, End> {
    let mut order = Order::new(&settings.quarantine, found);
    for some in missing.chunks(AT_ONCE) {
        let ids: Vec<&str> = some.iter().map(|(_, listed)| listed.id.as_str()).collect();
        let (shape, mut rows) = by_id(settings, &ids).await.map_err(|error| error.end())?;
        let plan = match Plan::compile(&shape, &settings.outbox, &settings.kafka) {
            Ok(plan) => plan,
            Err(error) => return Ok(Err((some[0].0, NotMade::Plan(error.to_string())))),
        };
        let mut entries = Vec::with_capacity(some.len());
        for (id, listed) in some {
            let entry = raw_row(&plan, listed, &mut rows).and_then(|raw| order.entry(&plan, *id, raw));
            match entry {
                Ok(entry) => entries.push(entry),
                Err(why) => return Ok(Err((*id, why))),
            }
        }
        let plain: Vec<&Entry> = entries.iter().collect();
        table::insert(sql, whose, &plain).await.map_err(|error| error.end())?;
        for entry in &entries {
            tracing::warn!(
                position = position_text(&entry.at),
                state = entry.state.word(),
                cause = entry.cause.code(),
                "made again: {}",
                entry.reason
            );
        }
    }
    Ok(Ok(()))
}

fn raw_row(plan: &Plan, listed: &ListedEntry, rows: &mut HashMap<String, ById>) -> Result<RawRow, NotMade> {
    if !listed.has_whole_id() {
        return Err(NotMade::NoId);
    }
    match rows.remove(&listed.id) {
        None => Err(NotMade::NoRow),
        Some(ById::Several) => Err(NotMade::Several),
        Some(ById::TooLarge(bytes)) => Err(NotMade::TooLarge(bytes)),
        Some(ById::NotText) => Err(NotMade::NotText),
        Some(ById::Row(values)) => {
            let formats = values.iter().map(|value| if value.is_some() { 't' } else { 'n' }).collect();
            Ok(RawRow { columns: plan.columns().to_vec(), values, formats })
        }
    }
}

/// Where entries stand that are made in the order of their positions, among those that are there.
struct Order<'f> {
    quarantine: &'f QuarantineSettings,
    found: &'f [Recalled],
    holds: Holds,
    now: i64,
}

impl<'f> Order<'f> {
    fn new(quarantine: &'f QuarantineSettings, found: &'f [Recalled]) -> Order<'f> {
        let now = jiff::Timestamp::now().as_millisecond();
        Order { quarantine, found, holds: Holds::default(), now }
    }

    /// Those that hold their key.
    fn heads(&self) -> impl Iterator<Item = (EntryId, &'f (String, Vec<u8>))> {
        let heads = self.found.iter().filter(|entry| entry.open && !entry.behind);
        heads.filter_map(|entry| Some((entry.id, entry.queue.as_ref()?)))
    }

    fn entry(&mut self, plan: &Plan, id: EntryId, raw: RawRow) -> Result<Entry, NotMade> {
        let row = raw.row().ok_or(NotMade::NotText)?;
        let (epoch, commit_lsn, ordinal) = id;
        // When it was committed is not known any more: what is published has the time of now, as in a fill (R41).
        let at = RowPosition { epoch, commit_lsn, ordinal, commit_unix_millis: self.now };
        let (cause, why) = match plan.record(&row, &at, &mut Scratch::default()) {
            Err(why) => (Cause::of(&why), why.to_string()),
            Ok(_) => (Cause::Refused, "why it was not published is not known any more".to_owned()),
        };
        let place = plan.place(&row);
        let (queue, key) = (place.queue(), place.key.clone().unwrap_or_default());
        let heads: Vec<_> =
            self.heads().filter(|(_, (held_by, _))| Some(held_by) == queue.as_ref()).collect();
        for (head, (held_by, held)) in heads.iter().filter(|(_, (_, held))| *held == key) {
            if *head > id {
                return Err(NotMade::LaterHeld);
            }
            self.holds.hold(held_by, held);
        }
        let policy = self.quarantine.policy_of(place.topic.as_deref());
        let standing = self.holds.take_in(queue, &key, cause, policy, u64::MAX);
        let Standing { state, cause, held_by } = standing.map_err(|why| match why {
            NotTaken::Policy | NotTaken::Full => NotMade::Policy,
        })?;
        let reason = format!(
            "made again from its row in the outbox, since PostgreSQL had lost its entry (a failover, a restore) or \
             somebody had deleted it; {why}"
        );
        let bytes = raw.bytes() as u64;
        drop(row);
        Ok(Entry { at, place, held_by, state, cause, reason, row: Some(raw), bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::State;
    use super::*;
    use crate::config::{Overrides, load};
    use crate::lsn::Lsn;
    use crate::router::{ColumnInfo, RelationShape};

    fn settings() -> Settings {
        let env = || {
            [
                ("OUTBOX_RELAY_NAME", "orders"),
                ("OUTBOX_RELAY_SOURCE_URL", "postgres://relay@localhost/shop"),
                ("OUTBOX_RELAY_KAFKA_BROKERS", "k1:9092"),
            ]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .into()
        };
        load(None, &env, Overrides::default()).expect("settings")
    }

    /// The columns of the contract that are published, with a value each.
    fn row(settings: &Settings, topic: &str, key: &str) -> (Plan, RawRow) {
        let columns: Vec<ColumnInfo> = settings
            .outbox
            .columns
            .published()
            .map(|name| ColumnInfo { name: name.to_owned(), type_oid: 25 })
            .collect();
        let shape = RelationShape { schema: "outbox".into(), table: "events".into(), columns };
        let plan = Plan::compile(&shape, &settings.outbox, &settings.kafka).expect("a plan");
        let value = |column: &ColumnInfo| match column.name.as_str() {
            "id" => Some("0197f3a0-0000-7000-8000-000000000001".into()),
            "aggregatetype" => Some(topic.into()),
            "aggregateid" => Some(key.into()),
            "type" => Some("Made".into()),
            "payload" => Some("{}".into()),
            _ => None,
        };
        let values: Vec<Option<Vec<u8>>> = shape.columns.iter().map(value).collect();
        let formats = values.iter().map(|value| if value.is_some() { 't' } else { 'n' }).collect();
        (plan, RawRow { columns: shape.columns, values, formats })
    }

    fn held(lsn: u64, key: &str) -> Recalled {
        Recalled {
            id: (1, Lsn(lsn), 0),
            event_id: None,
            queue: Some(("outbox.event.order".into(), key.into())),
            open: true,
            behind: false,
            decided: None,
        }
    }

    #[test]
    fn the_first_of_a_key_is_held_and_the_next_waits_behind_it() {
        let settings = settings();
        let mut order = Order::new(&settings.quarantine, &[]);
        let mut made = |lsn, key: &str| {
            let (plan, raw) = row(&settings, "order", key);
            let entry = order.entry(&plan, (1, Lsn(lsn), 0), raw).unwrap();
            (entry.state, entry.cause, entry.held_by.is_some(), entry.row.is_some())
        };
        assert_eq!(made(5, "a"), (State::Held, Cause::Refused, true, true));
        assert_eq!(made(6, "b"), (State::Held, Cause::Refused, true, true));
        assert_eq!(made(7, "a"), (State::Queued, Cause::Behind, true, true));
    }

    #[test]
    fn it_stands_behind_what_is_there_and_never_before_it() {
        let settings = settings();
        let found = [held(5, "a"), held(9, "b")];
        let mut order = Order::new(&settings.quarantine, &found);
        let (plan, raw) = row(&settings, "order", "a");
        assert_eq!(order.entry(&plan, (1, Lsn(7), 0), raw).unwrap().state, State::Queued);
        let (plan, raw) = row(&settings, "order", "b");
        assert_eq!(order.entry(&plan, (1, Lsn(7), 0), raw), Err(NotMade::LaterHeld));
    }

    #[test]
    fn a_row_that_makes_no_record_says_why_itself() {
        let settings = settings();
        let mut order = Order::new(&settings.quarantine, &[]);
        let (plan, raw) = row(&settings, "no topic", "a");
        let entry = order.entry(&plan, (1, Lsn(5), 0), raw).unwrap();
        assert_eq!((entry.cause, entry.held_by.as_deref()), (Cause::IllegalTopic, Some("?no topic")));
        assert!(entry.reason.starts_with("made again from its row"), "{}", entry.reason);
    }
}
