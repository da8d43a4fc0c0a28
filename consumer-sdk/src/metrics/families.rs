//! The metrics by name: what each says, its labels, and where in a [`Status`] it is found.
//!
//! Names and units are spelled out as they appear on the wire, so that a name found in an alert is found in the code.
//! Every series carries the label `consumer`. `docs/consumer-metrics.md` holds this table; a test compares the two.

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Histogram, Meter};

use super::Source;
use super::status::{Park, Parked, Partition, Pool, Status};

/// Takes the values of a family, with their labels.
type Emit<'e> = dyn FnMut(f64, &[(&'static str, &str)]) + 'e;

/// One metric.
pub(super) struct Family {
    /// Name on the wire, unit included.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Labels beside `consumer`. A test holds what is read to it, and the document.
    #[cfg_attr(not(test), allow(dead_code, reason = "for the test"))]
    pub(super) labels: &'static [&'static str],
    /// What it says, for people.
    pub(super) help: &'static str,
    /// Its values; what is not known is left out (an old lag would be worse than none).
    read: fn(&Status, &mut Emit<'_>),
}

/// Whether a metric only grows while the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A distribution.
pub(super) struct Distribution {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    buckets: &'static [f64],
}

/// Labels of both distributions beside `consumer`.
#[cfg(test)]
pub(super) const DISTRIBUTED_BY: [&str; 2] = ["topic", "event_type"];

/// From a look-up in the database to a call that hangs.
pub(super) const HANDLER_SECONDS: Distribution = Distribution {
    name: "outbox_consumer_handler_seconds",
    help: "Time that one attempt of a handler took, whatever it came to.",
    buckets: &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0],
};

/// From a few milliseconds to what a ladder or an outage makes of it.
pub(super) const RECORD_TO_COMMIT_SECONDS: Distribution = Distribution {
    name: "outbox_consumer_record_to_commit_seconds",
    help: "Time from the record's own timestamp, which with the relay is its commit in the source, to the commit of its \
           handler's effects; of events that were done.",
    buckets: &[
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0,
        14400.0, 86400.0,
    ],
};

type Read = fn(&Status, &mut Emit<'_>);

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: Read,
) -> Family {
    Family { name, kind: Kind::Counter, labels, help, read }
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    read: Read,
) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, read }
}

/// Exact up to 2^53.
fn float(value: u64) -> f64 {
    value as f64
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

fn partitions(status: &Status, emit: &mut Emit<'_>, value: fn(&Partition) -> Option<f64>) {
    for partition in &status.partitions {
        if let Some(value) = value(partition) {
            let number = partition.partition.to_string();
            emit(value, &[("topic", &partition.topic), ("partition", &number)]);
        }
    }
}

fn pool(status: &Status, emit: &mut Emit<'_>, value: fn(&Pool) -> u64) {
    if let Some(pool) = &status.pool {
        emit(float(value(pool)), &[]);
    }
}

fn park(status: &Status, emit: &mut Emit<'_>, value: fn(&Park) -> f64) {
    if let Some(park) = &status.park {
        emit(value(park), &[]);
    }
}

fn parked(status: &Status, emit: &mut Emit<'_>, value: fn(&Parked) -> f64) {
    if let Some(parked) = &status.parked {
        emit(value(parked), &[]);
    }
}

const PARTITION: &[&str] = &["topic", "partition"];

/// What happens to events.
const EVENTS: &[Family] = &[
    counter(
        "outbox_consumer_read_records_total",
        PARTITION,
        "Records read from Kafka, repetitions included.",
        |s, emit| {
            for read in &s.totals.read {
                let number = read.partition.to_string();
                emit(float(read.records), &[("topic", &read.topic), ("partition", &number)]);
            }
        },
    ),
    counter(
        "outbox_consumer_read_bytes_total",
        PARTITION,
        "Bytes of those, as they count in memory.",
        |s, emit| {
            for read in &s.totals.read {
                let number = read.partition.to_string();
                emit(float(read.bytes), &[("topic", &read.topic), ("partition", &number)]);
            }
        },
    ),
    counter(
        "outbox_consumer_attempts_total",
        &["topic", "event_type", "outcome"],
        "Attempts of handlers by how they ended: done, rejected, retry (the handler asked for it), failed, permanent, \
         timed_out, panicked, conflict (serialization failure, deadlock or lost connection of the handler's own \
         transaction, not counted as failed), not_committed. The error rate is the share of all but done, rejected and \
         conflict.",
        |s, emit| {
            for events in &s.totals.events {
                for (outcome, count) in &events.attempts {
                    let labels = [
                        ("topic", events.topic.as_str()),
                        ("event_type", &events.event_type),
                        ("outcome", outcome),
                    ];
                    emit(float(*count), &labels);
                }
            }
        },
    ),
    counter(
        "outbox_consumer_same_record_failures_total",
        &["topic", "event_type"],
        "Failed attempts at records that had failed before; high beside few failures in all: one record fails again and \
         again.",
        |s, emit| {
            for events in &s.totals.events {
                let labels = [("topic", events.topic.as_str()), ("event_type", &events.event_type)];
                emit(float(events.same_record_failures), &labels);
            }
        },
    ),
    counter(
        "outbox_consumer_settled_records_total",
        &["topic", "event_type", "state"],
        "Records settled, durably, by what became of them: done, rejected, duplicate (settled before), unregistered \
         (no handler), parked (with its key, until the next rung), queued (behind a parked event of its key), held \
         (until somebody releases it), dead, dropped. An event that was parked counts again when it is done.",
        |s, emit| {
            for events in &s.totals.events {
                for (state, count) in &events.settled {
                    let labels = [
                        ("topic", events.topic.as_str()),
                        ("event_type", &events.event_type),
                        ("state", state),
                    ];
                    emit(float(*count), &labels);
                }
            }
        },
    ),
    counter(
        "outbox_consumer_dedup_hits_total",
        &["topic", "event_type"],
        "Records that the inbox knew as settled, so that no handler ran: state duplicate of the family above.",
        |s, emit| {
            for events in &s.totals.events {
                let hits = events.settled.get("duplicate").copied().unwrap_or(0);
                emit(float(hits), &[("topic", &events.topic), ("event_type", &events.event_type)]);
            }
        },
    ),
    counter(
        "outbox_consumer_retries_total",
        &["topic", "event_type", "rung"],
        "Failed attempts that are followed by another, by where the event waits: in_place, or the rung from 0.",
        |s, emit| {
            for events in &s.totals.events {
                for (rung, count) in &events.retries {
                    let labels = [
                        ("topic", events.topic.as_str()),
                        ("event_type", &events.event_type),
                        ("rung", rung),
                    ];
                    emit(float(*count), &labels);
                }
            }
        },
    ),
    counter(
        "outbox_consumer_dead_letters_total",
        &["topic", "event_type", "cause"],
        "Dead letters by cause: exhausted, permanent, unreadable, unregistered, killed (it killed the process), too_old. \
         Each is an event of which somebody has to decide.",
        |s, emit| {
            for events in &s.totals.events {
                for (cause, count) in &events.dead_letters {
                    let labels = [
                        ("topic", events.topic.as_str()),
                        ("event_type", &events.event_type),
                        ("cause", cause),
                    ];
                    emit(float(*count), &labels);
                }
            }
        },
    ),
];

/// Where the partitions stand.
const PARTITIONS: &[Family] = &[
    gauge(
        "outbox_consumer_lag_records",
        PARTITION,
        "Offsets between the frontier, below which everything is settled, and the end of the log. Gaps of transactions \
         and compaction count.",
        |s, emit| partitions(s, emit, |p| p.lag_records.map(|lag| lag as f64)),
    ),
    gauge(
        "outbox_consumer_lag_seconds",
        PARTITION,
        "Age of the record at the frontier, by its own timestamp; where none is in hand, how long the log is known to \
         have more. 0 when everything is settled.",
        |s, emit| partitions(s, emit, |p| p.lag_seconds),
    ),
    gauge(
        "outbox_consumer_oldest_unsettled_seconds",
        PARTITION,
        "For how long the record at the frontier has been in hand; 0 when none is. Grows while one record holds up the \
         frontier although others are handled, which no lag of commits shows.",
        |s, emit| partitions(s, emit, |p| Some(p.oldest_unsettled_seconds)),
    ),
    gauge("outbox_consumer_unsettled_records", PARTITION, "Records read and not settled.", |s, emit| {
        partitions(s, emit, |p| Some(p.unsettled as f64));
    }),
    gauge(
        "outbox_consumer_uncommitted_offsets",
        PARTITION,
        "Offsets between what the broker has acknowledged and the frontier; repeated after a crash, as far as the \
         commit does not name them.",
        |s, emit| partitions(s, emit, |p| Some((p.frontier - p.committed).max(0) as f64)),
    ),
    gauge("outbox_consumer_partition_paused", PARTITION, "1 while the partition is not read.", |s, emit| {
        partitions(s, emit, |p| Some(flag(p.paused)));
    }),
    gauge(
        "outbox_consumer_unclean_starts",
        PARTITION,
        "Starts at the partition's committed offset that ended without progress and without a clean stop, as its commit \
         said when it was assigned. From 2 on the consumer handles one record at a time.",
        |s, emit| partitions(s, emit, |p| Some(f64::from(p.unclean_starts))),
    ),
    counter(
        "outbox_consumer_restarts_total",
        PARTITION,
        "Assignments of the partition that found an unclean start: a process died before.",
        |s, emit| {
            for read in &s.totals.read {
                let number = read.partition.to_string();
                emit(float(read.restarts), &[("topic", &read.topic), ("partition", &number)]);
            }
        },
    ),
    gauge("outbox_consumer_assigned_partitions", &[], "Partitions that this instance has.", |s, emit| {
        emit(s.partitions.len() as f64, &[]);
    }),
    counter(
        "outbox_consumer_rebalanced_partitions_total",
        &["event"],
        "Partitions that were assigned, revoked (given back in order), or lost.",
        |s, emit| {
            emit(float(s.totals.partitions_assigned), &[("event", "assigned")]);
            emit(float(s.totals.partitions_revoked), &[("event", "revoked")]);
            emit(float(s.totals.partitions_lost), &[("event", "lost")]);
        },
    ),
    counter(
        "outbox_consumer_standstills_total",
        &[],
        "Partitions whose log went on and that the client did not read; each was given back and taken on again.",
        |s, emit| emit(float(s.totals.standstills), &[]),
    ),
    counter(
        "outbox_consumer_offset_jumps_total",
        &["why"],
        "Partitions that did not begin where this consumer had left them: back (the committed offset was reset), forgotten \
         (it expired or was deleted), deleted (the log begins beyond it: events were never read), replaced (the log ends \
         before it: the topic was made anew or its log was cut). Each is worth an alert, and the log says what to do.",
        |s, emit| {
            for (why, count) in &s.totals.offset_jumps {
                emit(float(*count), &[("why", why)]);
            }
        },
    ),
    counter(
        "outbox_consumer_commits_total",
        &["result"],
        "Commits of a partition's offset, done or failed; a failed one is made again while the partition is here.",
        |s, emit| {
            emit(float(s.totals.commits), &[("result", "done")]);
            emit(float(s.totals.commits_failed), &[("result", "failed")]);
        },
    ),
];

/// What is in hand, and what it waits for.
const IN_HAND: &[Family] = &[
    gauge("outbox_consumer_in_hand_records", &[], "Records held in memory.", |s, emit| {
        emit(s.in_hand.records as f64, &[]);
    }),
    gauge("outbox_consumer_in_hand_bytes", &[], "Their bytes.", |s, emit| emit(s.in_hand.bytes as f64, &[])),
    gauge(
        "outbox_consumer_ready_keys",
        &[],
        "Keys that have a record to run and wait for a worker.",
        |s, emit| {
            emit(s.in_hand.ready_keys as f64, &[]);
        },
    ),
    gauge("outbox_consumer_running_handlers", &[], "Keys of which a record runs.", |s, emit| {
        emit(s.in_hand.running as f64, &[]);
    }),
    gauge(
        "outbox_consumer_intake_full",
        &[],
        "1 while nothing is read because too much is held.",
        |s, emit| {
            emit(flag(s.in_hand.full), &[]);
        },
    ),
    gauge(
        "outbox_consumer_isolated",
        &[],
        "1 while one record at a time is handled, because one is suspected of killing the process.",
        |s, emit| emit(flag(s.isolation.on), &[]),
    ),
    gauge("outbox_consumer_suspects", &[], "Records that the crash journal names.", |s, emit| {
        emit(s.isolation.suspects as f64, &[]);
    }),
    gauge(
        "outbox_consumer_pool_size",
        &[],
        "The most connections to the database there may be.",
        |s, emit| {
            pool(s, emit, |pool| pool.size as u64);
        },
    ),
    gauge("outbox_consumer_pool_in_use", &[], "Connections that somebody has.", |s, emit| {
        pool(s, emit, |pool| pool.in_use as u64);
    }),
    gauge("outbox_consumer_pool_waiting", &[], "Callers that wait for a connection.", |s, emit| {
        pool(s, emit, |pool| pool.waiting as u64);
    }),
    counter(
        "outbox_consumer_pool_waits_total",
        &[],
        "How often a caller had to wait for a connection.",
        |s, emit| pool(s, emit, |pool| pool.waits),
    ),
    counter("outbox_consumer_pool_opened_total", &[], "Connections that were made.", |s, emit| {
        pool(s, emit, |pool| pool.opened);
    }),
    counter(
        "outbox_consumer_pool_lost_total",
        &[],
        "Connections that were thrown away: broken, or in doubt after a cancelled statement or an unanswered COMMIT.",
        |s, emit| pool(s, emit, |pool| pool.lost),
    ),
    gauge(
        "outbox_consumer_parked_keys",
        &["state", "rung"],
        "Keys in the park table: waiting for their next attempt, by rung from 0, or held until somebody releases them \
         (rung is empty). Of the consumer as a whole: each instance shows the same, so take the maximum.",
        |s, emit| {
            let Some(parked) = &s.parked else { return };
            emit(float(parked.held_keys), &[("state", "held"), ("rung", "")]);
            for (rung, keys) in parked.waiting_by_rung.iter().enumerate() {
                emit(float(*keys), &[("state", "waiting"), ("rung", &rung.to_string())]);
            }
        },
    ),
    gauge("outbox_consumer_parked_events", &[], "Events of those keys; take the maximum.", |s, emit| {
        parked(s, emit, |parked| float(parked.events));
    }),
    gauge("outbox_consumer_parked_bytes", &[], "Bytes of those events; take the maximum.", |s, emit| {
        parked(s, emit, |parked| float(parked.bytes));
    }),
    gauge(
        "outbox_consumer_parked_oldest_seconds",
        &[],
        "Time since the first failure of the oldest of them; take the maximum.",
        |s, emit| parked(s, emit, |parked| parked.oldest_seconds),
    ),
    gauge(
        "outbox_consumer_park_full",
        &[],
        "1 while the park has no room for an event of this instance, in the last half minute: the event and its key wait \
         where they are, and may hold up the frontier.",
        |s, emit| park(s, emit, |park| flag(park.full)),
    ),
    gauge(
        "outbox_consumer_park_most_events",
        &[],
        "Events that the park may hold in all: the bound of outbox_consumer_parked_events.",
        |s, emit| park(s, emit, |park| f64::from(park.most_events)),
    ),
    gauge(
        "outbox_consumer_park_most_bytes",
        &[],
        "Bytes that the park may hold in all: the bound of outbox_consumer_parked_bytes.",
        |s, emit| park(s, emit, |park| float(park.most_bytes)),
    ),
    gauge(
        "outbox_consumer_phase",
        &["phase"],
        "1 for the phase the consumer is in, 0 for the others: running, draining, halted.",
        |s, emit| {
            for phase in ["running", "draining", "halted"] {
                emit(flag(s.phase == phase), &[("phase", phase)]);
            }
        },
    ),
    gauge("outbox_consumer_uptime_seconds", &[], "Time since the consumer began.", |s, emit| {
        emit(float(s.consumer.uptime_seconds), &[]);
    }),
];

/// Every family that is read from a [`Status`].
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    EVENTS.iter().chain(PARTITIONS).chain(IN_HAND)
}

/// The distributions of one meter.
#[derive(Debug)]
pub(super) struct Histograms {
    pub(super) handler: Histogram<f64>,
    pub(super) record_to_commit: Histogram<f64>,
}

/// Makes the instruments of a meter; they live on in its provider, and show nothing any more once the consumer is gone.
pub(super) fn publish(meter: &Meter, source: &Source) -> Histograms {
    for family in all() {
        let source = source.clone();
        let observe = move |instrument: &dyn AsyncInstrument<f64>| {
            let Some(status) = source.status() else { return };
            let name = KeyValue::new("consumer", status.consumer.name.clone());
            (family.read)(&status, &mut |value, labels| {
                let mut all = Vec::with_capacity(labels.len() + 1);
                all.push(name.clone());
                all.extend(labels.iter().map(|(label, value)| KeyValue::new(*label, (*value).to_owned())));
                instrument.observe(value, &all);
            });
        };
        match family.kind {
            Kind::Counter => {
                let counter = meter.f64_observable_counter(family.name).with_description(family.help);
                let _ = counter.with_callback(observe).build();
            }
            Kind::Gauge => {
                let gauge = meter.f64_observable_gauge(family.name).with_description(family.help);
                let _ = gauge.with_callback(observe).build();
            }
        }
    }
    let histogram = |distribution: &Distribution| {
        let histogram = meter.f64_histogram(distribution.name).with_description(distribution.help);
        histogram.with_boundaries(distribution.buckets.to_vec()).build()
    };
    Histograms {
        handler: histogram(&HANDLER_SECONDS),
        record_to_commit: histogram(&RECORD_TO_COMMIT_SECONDS),
    }
}
