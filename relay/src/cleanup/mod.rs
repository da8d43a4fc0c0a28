//! Clean-up: what is published is removed from the table, and nothing else is (R36).
//!
//! It runs within a streaming session, on a connection of its own (R47), and ends with it. What is published it knows
//! from one place: the newest snapshot in a state record that Kafka has acknowledged, and that is believed. Nothing that
//! goes wrong here ends the session: the rows stay, it is said and counted, and the next look comes later.
//!
//! | file | what it owns |
//! |---|---|
//! | `link` | the connection of one look, and what its errors mean |
//! | `buckets` | which buckets may be looked at on a day; a bucket of `outbox.events` is emptied by the database |
//! | `rows` | small batches of deletes from a table of another shape |
//! | `measure` | how large the table is, and how old its oldest row |

mod buckets;
mod link;
mod measure;
mod rows;

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use crate::config::{CleanupMode, Settings};
use crate::observe::{Kept, Observed};
use crate::session::chain;
use crate::state::{PublishedSnapshot, Recorder};
use link::{CleanupError, Link};

/// The first look of a session comes after this, if not sooner: a relay that reconnects often still cleans up.
const FIRST: Duration = Duration::from_secs(30);
/// The longest time between two looks at what was read in vain, unless looks are further apart anyway.
const RAREST: Duration = Duration::from_secs(3600);
/// Time between two batches of deletes, which leaves the server to others.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);

/// The clean-up of one session.
pub(crate) struct Cleaner<'s> {
    /// The relay's settings.
    pub(crate) settings: &'s Settings,
    /// Knows what is published.
    pub(crate) recorder: &'s Recorder,
    /// What is seen from outside.
    pub(crate) observed: &'s Observed,
}

/// What one look has come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    rows: u64,
    buckets: u64,
    kept: Vec<(Kept, String)>,
}

impl Cleaner<'_> {
    /// Looks again and again, until it is dropped.
    pub(crate) async fn keep_clean(self) -> Infallible {
        let settings = &self.settings.cleanup;
        self.observed.cleanup_shows(|look| look.mode = Some(settings.mode.name()));
        let mut pause = settings.interval.min(FIRST);
        loop {
            sleep(pause).await;
            let mut found = Found::default();
            match self.look(&mut found).await {
                Ok(()) => {}
                Err(error) if settings.mode == CleanupMode::Off => {
                    tracing::debug!("looking at the table: {}", chain(&error));
                }
                Err(error) => found.keep(error.kept(), chain(&error)),
            }
            let in_vain = found.rows == 0 && found.kept.iter().any(|(why, _)| why.is_dear());
            self.show(&found);
            pause = next_pause(pause, settings.interval, in_vain);
        }
    }

    /// One look. An error ends it; what was found before stands.
    async fn look(&self, found: &mut Found) -> Result<(), CleanupError> {
        // Messages stand in no table.
        if self.settings.outbox.message_prefix.is_some() {
            return Ok(());
        }
        let link = Link::open(self.settings).await?;
        let cleaned = match self.settings.cleanup.mode {
            CleanupMode::Buckets => self.buckets(&link, found).await,
            CleanupMode::Delete => self.rows(&link, found).await,
            CleanupMode::Off => Ok(()),
        };
        let measured = self.measure(&link).await;
        cleaned.and(measured)
    }

    async fn measure(&self, link: &Link) -> Result<(), CleanupError> {
        let measured = measure::measure(link, &self.settings.outbox).await?;
        self.observed.cleanup_shows(|look| {
            look.table_bytes = Some(measured.bytes);
            look.oldest_row = measured.oldest_age.and_then(|age| SystemTime::now().checked_sub(age));
        });
        Ok(())
    }

    /// What is published; where no record says it yet, everything stays.
    fn published(&self, found: &mut Found) -> Option<PublishedSnapshot> {
        let published = self.recorder.published();
        if published.is_none() {
            found.keep(Kept::Unrecorded, "what is published is not recorded yet".into());
        }
        published
    }

    async fn buckets(&self, link: &Link, found: &mut Found) -> Result<(), CleanupError> {
        let keep = self.settings.cleanup.keep;
        let now = buckets::clock(link).await?;
        for bucket in buckets::due(now, keep) {
            let Some(published) = self.published(found) else { return Ok(()) };
            match buckets::clean(link, bucket, &published, keep).await {
                Ok(Ok(rows)) => {
                    self.observed.cleaned_rows.add(rows);
                    self.observed.cleaned_buckets.add(u64::from(rows > 0));
                    found.rows += rows;
                    found.buckets += u64::from(rows > 0);
                }
                Ok(Err((why, detail))) => found.keep(why, detail),
                // Somebody's lock on one bucket says nothing of the others.
                Err(error) if error.is_of_one_bucket() => {
                    found.keep(error.kept(), format!("bucket {bucket}: {}", chain(&error)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn rows(&self, link: &Link, found: &mut Found) -> Result<(), CleanupError> {
        let (cleanup, outbox) = (&self.settings.cleanup, &self.settings.outbox);
        loop {
            let Some(published) = self.published(found) else { return Ok(()) };
            if let Some(detail) = rows::relay_behind(link, outbox, published.lsn).await? {
                found.keep(Kept::Relay, detail);
                return Ok(());
            }
            let Some(referenced) = rows::referenced(link).await? else {
                let detail = "an entry of the quarantine refers to a row without the event's id";
                found.keep(Kept::Quarantine, detail.into());
                return Ok(());
            };
            let deleted = rows::delete(link, outbox, cleanup, &published, &referenced).await?;
            self.observed.cleaned_rows.add(deleted);
            found.rows += deleted;
            if deleted < cleanup.batch_rows as u64 {
                if rows::old_rows_are_left(link, outbox, cleanup, &referenced).await? {
                    found.keep(Kept::Unpublished, "rows that are old enough are not published".into());
                }
                return Ok(());
            }
            sleep(BETWEEN_BATCHES).await;
        }
    }

    fn show(&self, found: &Found) {
        let sentence = found.sentence();
        let before = self.observed.cleanup_shows(|look| {
            let now = SystemTime::now();
            look.looked_at = Some(now);
            look.cleaned_at = if found.rows > 0 { Some(now) } else { look.cleaned_at };
            look.held_up = found.kept.len() as u64;
            look.result = Some(sentence.clone());
        });
        for (why, _) in &found.kept {
            self.observed.kept(*why);
        }
        if found.rows > 0 {
            tracing::info!(rows = found.rows, buckets = found.buckets, "cleaned up: {sentence}");
        } else if found.kept.iter().any(|(why, _)| !why.is_usual())
            && before.result.as_ref() != Some(&sentence)
        {
            tracing::warn!("not cleaned up: {sentence}");
        } else {
            tracing::debug!("clean-up: {sentence}");
        }
    }
}

impl Found {
    fn keep(&mut self, why: Kept, detail: String) {
        self.kept.push((why, detail));
    }

    /// In words, for `/status` and the log.
    fn sentence(&self) -> String {
        let removed = match (self.rows, self.buckets) {
            (0, _) => None,
            (rows, 0) => Some(format!("removed {rows} rows")),
            (rows, buckets) => Some(format!("emptied {buckets} buckets of {rows} rows")),
        };
        let kept = self.kept.iter().map(|(_, detail)| detail.clone());
        let all: Vec<String> = removed.into_iter().chain(kept).collect();
        if all.is_empty() { "nothing to remove".into() } else { all.join("; ") }
    }
}

/// Looks are further and further apart while rows are read in vain: each may read a whole bucket.
fn next_pause(pause: Duration, interval: Duration, in_vain: bool) -> Duration {
    if in_vain { (pause * 2).clamp(interval, RAREST.max(interval)) } else { interval }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_in_vain_is_looked_at_less_and_less_often() {
        let seconds = Duration::from_secs;
        let interval = seconds(300);
        let mut pause = FIRST;
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pause = next_pause(pause, interval, true);
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [300, 600, 1200, 2400, 3600, 3600]);
        assert_eq!(next_pause(pause, interval, false), interval);
        assert_eq!(next_pause(seconds(7200), seconds(7200), true), seconds(7200), "never more often");
    }

    #[test]
    fn a_look_is_told_in_one_sentence() {
        let mut found = Found::default();
        assert_eq!(found.sentence(), "nothing to remove");
        (found.rows, found.buckets) = (7, 1);
        found.keep(Kept::Relay, "slot outbox_b is lost".into());
        assert_eq!(found.sentence(), "emptied 1 buckets of 7 rows; slot outbox_b is lost");
        found.buckets = 0;
        assert!(found.sentence().starts_with("removed 7 rows; "));
    }
}
