//! Looks at the relay once a second and whenever somebody asks, and turns what it sees into a
//! [`Status`].

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

use super::Identity;
use super::lag::{Behind, WalClock};
use super::rates::{Counted, Rates};
use super::readiness::{Progress, Readiness, Sample};
use super::status::{self, Status};
use crate::lsn::Lsn;
use crate::observe::{Kept, Observed};

/// One relay under observation.
pub(super) struct Watch {
    identity: Identity,
    observed: Arc<Observed>,
    /// Taken by the sampler and by requests, never by the data path.
    seen: Mutex<Seen>,
}

struct Seen {
    progress: Progress,
    rates: Rates,
    wal: WalClock,
}

impl Watch {
    pub(super) fn new(identity: Identity, observed: Arc<Observed>, stalled_after: Duration) -> Self {
        let seen = Seen {
            progress: Progress::new(stalled_after),
            rates: Rates::default(),
            wal: WalClock::default(),
        };
        Watch { identity, observed, seen: Mutex::new(seen) }
    }

    /// Samples; to be called once a second.
    pub(super) fn sample(&self) {
        self.look(&mut self.seen.lock(), Instant::now());
    }

    /// What is to be seen now.
    pub(super) fn status(&self) -> Status {
        self.status_at(Instant::now(), SystemTime::now())
    }

    /// As of `now`, which is `today` on the wall; times do not decrease from call to call.
    pub(super) fn status_at(&self, now: Instant, today: SystemTime) -> Status {
        let last_error = self.observed.last_error();
        let (_, phase_since, waiting_for) = self.observed.phase();
        let mut seen = self.seen.lock();
        let sample = self.look(&mut seen, now);
        let said = last_error.as_ref().map(|(_, message)| message.as_str());
        let reason = match seen.progress.readiness(waiting_for.as_deref(), said) {
            Readiness::Ready => None,
            Readiness::NotReady(reason) => Some(reason),
        };
        let rates = seen.rates.per_second();
        let behind = seen.wal.behind(sample.at, sample.server_wal, sample.recorded);
        drop(seen);

        let observed = &*self.observed;
        Status {
            lane: self.identity.lane.clone(),
            relay: self.relay(sample.at),
            phase: sample.phase.name(),
            phase_seconds: now.saturating_duration_since(phase_since).as_secs(),
            waiting_for,
            ready: reason.is_none(),
            reason,
            epoch: observed.epoch.get(),
            lag: self.lag(&sample, behind, today),
            positions: status::Positions {
                received: Observed::lsn(&observed.received),
                confirmed: sample.confirmed,
                recorded: sample.recorded,
                slot_confirmed_flush: Observed::lsn(&observed.slot_confirmed),
                server_wal: sample.server_wal,
            },
            slot: self.slot(),
            topics: status::Topics { grown: observed.grown_topics() },
            in_flight: status::Volume {
                records: observed.in_flight_records.get(),
                bytes: observed.in_flight_bytes.get(),
            },
            rates: status::Rates {
                records_per_second: tenths(rates.records),
                bytes_per_second: tenths(rates.bytes),
                segments_per_transaction: rates.segments_per_transaction,
            },
            delivery: self.delivery(),
            quarantine: status::Quarantine {
                open: self.observed.quarantine_open.get(),
                held_keys: self.observed.held_keys.get(),
            },
            cleanup: self.cleanup(today),
            totals: self.totals(),
            last_error: last_error.map(|(at, message)| status::LastError { at: timestamp(at), message }),
            process: status::Process { resident_memory_bytes: resident_memory() },
        }
    }

    fn look(&self, seen: &mut Seen, now: Instant) -> Sample {
        let observed = &*self.observed;
        let sample = Sample {
            at: now.saturating_duration_since(self.identity.started_at),
            phase: observed.phase().0,
            // Recorded before the server's position: it is read first, so it can only look older, and a
            // position that moves in between is not mistaken for one beyond the server's.
            recorded: Observed::lsn(&observed.recorded),
            confirmed: Observed::lsn(&observed.confirmed),
            server_wal: Observed::lsn(&observed.server_wal),
            published_records: observed.published_records.get(),
            skipped_rows: observed.skipped_rows.get(),
        };
        seen.progress.observe(sample);
        seen.rates.observe(Counted {
            at: sample.at,
            records: sample.published_records,
            bytes: observed.published_bytes.get(),
            transactions: observed.published_transactions.get(),
            segments: observed.replication_segments.get(),
        });
        seen.wal.observe(sample.at, sample.server_wal, sample.recorded);
        sample
    }

    fn relay(&self, uptime: Duration) -> status::Relay {
        let Identity { relay, slot, publication, version, .. } = self.identity.clone();
        status::Relay { name: relay, slot, publication, version, uptime_seconds: uptime.as_secs() }
    }

    fn lag(&self, sample: &Sample, behind: Behind, today: SystemTime) -> status::Lag {
        let distance = |from: Lsn| {
            let known = !from.is_zero() && !sample.server_wal.is_zero();
            known.then(|| sample.server_wal.0.saturating_sub(from.0))
        };
        let seconds = match behind {
            Behind::Exactly(time) => Some(time),
            Behind::AtLeast(time) => self.commit_age(today).map(|age| age.max(time)),
            Behind::Unknown => None,
        };
        status::Lag {
            bytes: distance(sample.recorded),
            slot_bytes: distance(Observed::lsn(&self.observed.slot_confirmed)),
            seconds: seconds.map(|time| tenths(time.as_secs_f64())),
        }
    }

    /// Age of the newest wholly published commit; the server's clock may differ from ours, and one that
    /// is ahead makes it zero.
    fn commit_age(&self, today: SystemTime) -> Option<Duration> {
        let millis = self.observed.published_commit_millis.get();
        let committed = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))?;
        (millis != 0).then(|| today.duration_since(committed).unwrap_or_default())
    }

    fn slot(&self) -> status::Slot {
        let log = self.observed.slot_log();
        status::Slot {
            wal_status: log.status.map(|status| status.name()),
            safe_wal_bytes: log.safe_bytes,
            keep_limit_bytes: log.limit_bytes,
        }
    }

    fn delivery(&self) -> status::Delivery {
        let observed = &*self.observed;
        let commits = observed.kafka_commits.get();
        let records = observed.kafka_committed_records.get();
        status::Delivery {
            guarantee: self.identity.guarantee,
            transactions_committed: commits,
            transactions_aborted: observed.kafka_aborts.get(),
            committed_records: records,
            records_per_transaction: (commits > 0).then(|| tenths(records as f64 / commits as f64)),
            commit_seconds: observed.kafka_commit_micros.get() as f64 / 1e6,
            split_transactions: observed.split_transactions.get(),
        }
    }

    fn cleanup(&self, today: SystemTime) -> status::Cleanup {
        let look = self.observed.cleanup();
        let counted = Kept::ALL.into_iter().map(|why| (why, self.observed.kept_so_often(why)));
        let kept = counted.filter(|(_, count)| *count > 0);
        let age = |since: SystemTime| today.duration_since(since).unwrap_or_default().as_secs();
        status::Cleanup {
            mode: look.mode,
            looked_at: look.looked_at.map(timestamp),
            result: look.result,
            held_up: look.held_up,
            cleaned_at: look.cleaned_at.map(timestamp),
            kept: kept.map(|(why, count)| status::KeptCount { reason: why.name(), count }).collect(),
            table_bytes: look.table_bytes,
            oldest_row_seconds: look.oldest_row.map(age),
        }
    }

    fn totals(&self) -> status::Totals {
        let observed = &*self.observed;
        status::Totals {
            records: observed.published_records.get(),
            bytes: observed.published_bytes.get(),
            transactions: observed.published_transactions.get(),
            skipped_rows: observed.skipped_rows.get(),
            filled_rows: observed.filled_rows.get(),
            fills: observed.fills().map(|(loss, count)| (loss.name(), count)).collect(),
            foreign_changes: observed.foreign_changes.get(),
            refused_messages: observed.refused_messages.get(),
            quarantined_rows: observed.quarantined_rows.get(),
            quarantine_settled: observed.quarantine_settled.get(),
            cleaned_rows: observed.cleaned_rows.get(),
            cleaned_buckets: observed.cleaned_buckets.get(),
            state_records: observed.state_records.get(),
            reconnects: observed.reconnects.get(),
            replication_segments: observed.replication_segments.get(),
        }
    }
}

/// More digits would only be noise to a reader.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn timestamp(at: SystemTime) -> jiff::Timestamp {
    // Only years beyond 9999 do not fit.
    jiff::Timestamp::try_from(at).unwrap_or(jiff::Timestamp::MAX)
}

/// `VmRSS` of Linux; other systems do not say.
fn resident_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Phase;

    fn watch(observed: &Arc<Observed>, started_at: Instant) -> Watch {
        let identity = Identity {
            relay: "orders".to_owned(),
            lane: None,
            slot: "outbox_orders".to_owned(),
            publication: "outbox_orders".to_owned(),
            version: "1.2.3".to_owned(),
            guarantee: "at_least_once",
            started_at,
        };
        Watch::new(identity, observed.clone(), Duration::from_secs(30))
    }

    #[test]
    fn follows_what_is_observed() {
        let (observed, start) = (Arc::new(Observed::new()), Instant::now());
        let watch = watch(&observed, start);
        let status = |seconds| {
            let later = Duration::from_secs(seconds);
            watch.status_at(start + later, SystemTime::UNIX_EPOCH + Duration::from_secs(1000))
        };
        let first = status(0);
        assert_eq!((first.phase, first.ready), ("connecting", false));
        assert_eq!((first.lag.bytes, first.lag.slot_bytes, first.lag.seconds), (None, None, None));

        observed.enter(Phase::Streaming, None);
        observed.server_wal.set(1000);
        observed.recorded.set(400);
        observed.slot_confirmed.set(300);
        let behind = status(1);
        assert_eq!((behind.lag.bytes, behind.lag.slot_bytes), (Some(600), Some(700)));
        assert_eq!(behind.lag.seconds, None, "when the log passed the position was not seen");
        observed.published_commit_millis.set(958_000);
        assert_eq!(status(2).lag.seconds, Some(42.0));

        observed.recorded.set(1000);
        observed.published_records.add(50);
        let caught_up = status(5);
        assert_eq!((caught_up.lag.bytes, caught_up.lag.seconds), (Some(0), Some(0.0)));
        assert_eq!((caught_up.ready, caught_up.reason), (true, None));
        assert_eq!(caught_up.rates.records_per_second, 10.0);
        assert_eq!(caught_up.relay.uptime_seconds, 5);

        // The commit is old and the database busy: only the log's own time counts.
        observed.server_wal.set(2000);
        status(6);
        assert_eq!(status(9).lag.seconds, Some(3.0));
    }

    #[test]
    fn errors_carry_their_time() {
        let observed = Arc::new(Observed::new());
        let watch = watch(&observed, Instant::now());
        assert!(watch.status().last_error.is_none());
        let before = timestamp(SystemTime::now());
        observed.error("slot is gone".to_owned());
        let last = watch.status().last_error.unwrap();
        assert_eq!(last.message, "slot is gone");
        assert!(last.at >= before);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_is_seen() {
        assert!(resident_memory().unwrap() > 1 << 20);
    }
}
