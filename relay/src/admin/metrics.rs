//! The answer of `/metrics`: Prometheus text, made by OpenTelemetry.
//!
//! Nothing is measured here and the data path knows no instrument: it adds to the atomics of
//! [`crate::observe::Observed`]. One [`Status`] per scrape is published by observable instruments, so
//! that the values of a scrape belong together and are those of `/status`.
//!
//! Names and units are spelled out in [`FAMILIES`] as they appear on the wire, so that a name found in
//! an alert is found in the code. Every family carries the label `relay`, and where lanes are listed each of a lane's
//! the label `lane`. `docs/metrics.md` describes each; a test holds it to this table.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use outbox_admin_port::Exporter;
use outbox_admin_port::exporter::{OTelSdkError, TextError};
use parking_lot::{Mutex, RwLock};

use super::Identity;
use super::status::Status;
use crate::observe::{Kept, Phase, WalStatus};

/// One metric family with a single series.
pub struct Family {
    /// Name on the wire, unit included.
    pub name: &'static str,
    /// Whether it only grows while the process lives.
    pub kind: Kind,
    /// What it says, for people.
    pub help: &'static str,
    /// Whether it is the process's, whatever lanes run in it.
    of_process: bool,
    /// Its value; `None` is not known: nothing is observed then, and the family is left out of the scrape
    /// (an old lag would be worse than none).
    read: fn(&Status) -> Option<f64>,
}

/// Prometheus' type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
}

const fn counter(name: &'static str, help: &'static str, read: fn(&Status) -> Option<f64>) -> Family {
    Family { name, kind: Kind::Counter, help, of_process: false, read }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&Status) -> Option<f64>) -> Family {
    Family { name, kind: Kind::Gauge, help, of_process: false, read }
}

const fn gauge_of_process(
    name: &'static str,
    help: &'static str,
    read: fn(&Status) -> Option<f64>,
) -> Family {
    Family { name, kind: Kind::Gauge, help, of_process: true, read }
}

/// Exact up to 2^53: nine petabytes of log, or of anything else counted here.
fn float(value: u64) -> Option<f64> {
    Some(value as f64)
}

/// Every family with a single series.
pub const FAMILIES: &[Family] = &[
    counter(
        "outbox_relay_published_records_total",
        "Records acknowledged by the broker, repetitions included.",
        |s| float(s.totals.records),
    ),
    counter("outbox_relay_published_bytes_total", "Value and key bytes of the records acknowledged.", |s| {
        float(s.totals.bytes)
    }),
    counter(
        "outbox_relay_published_transactions_total",
        "Transactions whose every record was acknowledged.",
        |s| float(s.totals.transactions),
    ),
    counter(
        "outbox_relay_skipped_rows_total",
        "Rows passed over because the state record says they are published.",
        |s| float(s.totals.skipped_rows),
    ),
    counter(
        "outbox_relay_filled_rows_total",
        "Rows published from the table and not from the stream.",
        |s| float(s.totals.filled_rows),
    ),
    counter(
        "outbox_relay_foreign_changes_total",
        "Changes in the stream that are not an insert into the outbox.",
        |s| float(s.totals.foreign_changes),
    ),
    counter(
        "outbox_relay_refused_messages_total",
        "Messages of the outbox's prefix that were passed over, since they are not transactional.",
        |s| float(s.totals.refused_messages),
    ),
    counter("outbox_relay_quarantined_rows_total", "Rows put into the quarantine.", |s| {
        float(s.totals.quarantined_rows)
    }),
    counter(
        "outbox_relay_quarantine_settled_total",
        "Entries of the quarantine that were published or discarded.",
        |s| float(s.totals.quarantine_settled),
    ),
    gauge(
        "outbox_relay_quarantine_open_entries",
        "Entries of the quarantine that are neither published nor discarded.",
        |s| float(s.quarantine.open),
    ),
    gauge("outbox_relay_held_keys", "Keys whose events queue up behind one that cannot be published.", |s| {
        float(s.quarantine.held_keys)
    }),
    counter("outbox_relay_cleaned_rows_total", "Rows removed from the table once published.", |s| {
        float(s.totals.cleaned_rows)
    }),
    counter("outbox_relay_cleaned_buckets_total", "Past buckets of the table that were emptied.", |s| {
        float(s.totals.cleaned_buckets)
    }),
    gauge(
        "outbox_relay_cleanup_held_up",
        "Buckets that are due and were left at the last look; with cleanup.mode delete 1 where rows were.",
        |s| float(s.cleanup.looked_at.map(|_| s.cleanup.held_up)?),
    ),
    gauge("outbox_relay_cleanup_looked_timestamp_seconds", "When the clean-up looked last.", |s| {
        s.cleanup.looked_at.map(|at| at.as_millisecond() as f64 / 1000.0)
    }),
    gauge("outbox_relay_cleaned_timestamp_seconds", "When rows were removed last.", |s| {
        s.cleanup.cleaned_at.map(|at| at.as_millisecond() as f64 / 1000.0)
    }),
    gauge("outbox_relay_table_bytes", "The outbox table with its indexes.", |s| {
        float(s.cleanup.table_bytes?)
    }),
    gauge("outbox_relay_table_oldest_row_seconds", "Age of about the oldest row of outbox.events.", |s| {
        float(s.cleanup.oldest_row_seconds?)
    }),
    counter("outbox_relay_state_records_total", "State records acknowledged.", |s| {
        float(s.totals.state_records)
    }),
    counter(
        "outbox_relay_kafka_transactions_committed_total",
        "Kafka transactions committed, with exactly one delivery.",
        |s| float(s.delivery.transactions_committed),
    ),
    counter(
        "outbox_relay_kafka_transactions_aborted_total",
        "Kafka transactions with events that were aborted.",
        |s| float(s.delivery.transactions_aborted),
    ),
    counter("outbox_relay_kafka_transaction_records_total", "Events in committed Kafka transactions.", |s| {
        float(s.delivery.committed_records)
    }),
    counter(
        "outbox_relay_kafka_commit_seconds_total",
        "Time from the last acknowledgement in a Kafka transaction to its commit.",
        |s| Some(s.delivery.commit_seconds),
    ),
    counter(
        "outbox_relay_split_transactions_total",
        "PostgreSQL transactions that were published in several Kafka transactions.",
        |s| float(s.delivery.split_transactions),
    ),
    counter("outbox_relay_reconnects_total", "Sessions begun after the first.", |s| {
        float(s.totals.reconnects)
    }),
    counter(
        "outbox_relay_replication_segments_total",
        "TCP segments with data received on the replication connection.",
        |s| float(Some(s.totals.replication_segments).filter(|&count| count > 0)?),
    ),
    gauge(
        "outbox_relay_replication_segments_per_transaction",
        "TCP segments with data per published transaction, average of the last ten seconds.",
        |s| s.rates.segments_per_transaction,
    ),
    gauge("outbox_relay_ready", "1 when events move or everything is recorded, as /ready.", |s| {
        float(s.ready.into())
    }),
    gauge("outbox_relay_phase_seconds", "Time in the present phase.", |s| float(s.phase_seconds)),
    gauge("outbox_relay_epoch", "How often the stream was started anew; begins at 1.", |s| float(s.epoch)),
    gauge(
        "outbox_relay_received_position_bytes",
        "Newest log position seen on the replication connection.",
        |s| float(s.positions.received.0),
    ),
    gauge(
        "outbox_relay_confirmed_position_bytes",
        "Log position up to which every transaction is published.",
        |s| float(s.positions.confirmed.0),
    ),
    gauge("outbox_relay_recorded_position_bytes", "Log position in the acknowledged state record.", |s| {
        float(s.positions.recorded.0)
    }),
    gauge("outbox_relay_slot_position_bytes", "confirmed_flush_lsn of the slot at the last look.", |s| {
        float(s.positions.slot_confirmed_flush.0)
    }),
    gauge("outbox_relay_server_position_bytes", "The server's flush position at the last look.", |s| {
        float(s.positions.server_wal.0)
    }),
    gauge("outbox_relay_slot_lag_bytes", "Log between the slot's position and the server's.", |s| {
        float(s.lag.slot_bytes?)
    }),
    gauge(
        "outbox_relay_slot_safe_wal_bytes",
        "Log that may still be written before the server may give the slot up; negative once it may.",
        |s| Some(s.slot.safe_wal_bytes? as f64),
    ),
    gauge("outbox_relay_slot_keep_limit_bytes", "max_slot_wal_keep_size of the server.", |s| {
        Some(s.slot.keep_limit_bytes? as f64)
    }),
    gauge("outbox_relay_recorded_lag_bytes", "Log between the recorded position and the server's.", |s| {
        float(s.lag.bytes?)
    }),
    gauge(
        "outbox_relay_recorded_lag_seconds",
        "Time since the server's log passed the recorded position; 0 when everything is recorded.",
        |s| s.lag.seconds,
    ),
    gauge("outbox_relay_topics_grown", "Topics with more partitions than their keys are spread over.", |s| {
        Some(s.topics.grown.len() as f64)
    }),
    gauge("outbox_relay_in_flight_records", "Records handed over and not yet acknowledged.", |s| {
        float(s.in_flight.records)
    }),
    gauge("outbox_relay_in_flight_bytes", "Bytes handed over and not yet acknowledged.", |s| {
        float(s.in_flight.bytes)
    }),
    gauge_of_process("outbox_relay_uptime_seconds", "Time since the process began.", |s| {
        float(s.relay.uptime_seconds)
    }),
    gauge_of_process("process_resident_memory_bytes", "Memory of the process in RAM.", |s| {
        float(s.process.resident_memory_bytes?)
    }),
];

/// One metric family with a series for each of a closed set of words.
pub struct Labelled {
    /// Name on the wire.
    pub name: &'static str,
    /// Whether it only grows while the process lives.
    pub kind: Kind,
    /// What it says, for people.
    pub help: &'static str,
    /// The label that carries the word.
    pub label: &'static str,
    /// The words with the values of their series; those that are not known are left out.
    read: fn(&Status) -> Vec<(&'static str, f64)>,
}

/// Every family with a series for each of a closed set of words.
pub const LABELLED: &[Labelled] = &[
    Labelled {
        name: "outbox_relay_phase",
        kind: Kind::Gauge,
        help: "1 for the phase the relay is in, 0 for the others.",
        label: "phase",
        read: |s| one_of(Phase::ALL.map(Phase::name), Some(s.phase)),
    },
    Labelled {
        name: "outbox_relay_slot_wal_status",
        kind: Kind::Gauge,
        help: "1 for the slot's wal_status, 0 for the others.",
        label: "status",
        read: |s| one_of(WalStatus::ALL.map(WalStatus::name), s.slot.wal_status),
    },
    Labelled {
        name: "outbox_relay_cleanup_kept_total",
        kind: Kind::Counter,
        help: "Looks of the clean-up that left rows which are old enough, by reason.",
        label: "reason",
        read: |s| Kept::ALL.map(|why| (why.name(), s.cleanup.kept_for(why) as f64)).into(),
    },
    Labelled {
        name: "outbox_relay_fills_total",
        kind: Kind::Counter,
        help: "Gaps that were filled from the table, by what had been lost.",
        label: "loss",
        read: |s| s.totals.fills.iter().map(|(loss, count)| (*loss, *count as f64)).collect(),
    },
];

/// 1 for the word that holds, 0 for the others; nothing where none is known.
fn one_of<const N: usize>(words: [&'static str; N], now: Option<&str>) -> Vec<(&'static str, f64)> {
    let Some(now) = now else { return Vec::new() };
    words.map(|word| (word, f64::from(u8::from(word == now)))).into()
}

/// Why metrics cannot be set up or written.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The exporter could not be built.
    #[error("the metrics exporter could not be built")]
    Exporter(#[from] OTelSdkError),
    /// The text could not be written.
    #[error("the metrics could not be written")]
    Text(#[from] TextError),
}

/// Each lane's status at a scrape, and the labels of its series.
struct Seen {
    lanes: RwLock<Vec<Status>>,
    /// In the order of the lanes.
    labels: Vec<Vec<KeyValue>>,
    /// Of what is the process's.
    of_process: [KeyValue; 1],
}

impl Seen {
    /// Calls back for each lane with its labels.
    fn each(&self, mut observe: impl FnMut(&Status, &[KeyValue])) {
        let lanes = self.lanes.read();
        lanes.iter().zip(&self.labels).for_each(|(status, labels)| observe(status, labels));
    }
}

/// The instruments of one relay and where their values come from.
pub struct Metrics {
    exporter: Exporter,
    /// What the instruments read; set at the begin of each scrape.
    seen: Arc<Seen>,
    /// One scrape at a time, so that none reads the status of another.
    scraping: Mutex<()>,
}

impl Metrics {
    /// Makes the instruments; every series carries the relay's name, and its lane's where lanes are listed.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Exporter`] when OpenTelemetry refuses.
    pub fn new<'i>(lanes: impl Iterator<Item = &'i Identity> + Clone) -> Result<Self, MetricsError> {
        let exporter = Exporter::new()?;
        let meter = exporter.meter("outbox_relay");
        let relay = |identity: &Identity| KeyValue::new("relay", identity.relay.clone());
        let labels = |identity: &Identity| {
            let lane = identity.lane.clone().map(|lane| KeyValue::new("lane", lane));
            [relay(identity)].into_iter().chain(lane).collect()
        };
        let of_process = [lanes.clone().next().map_or_else(|| KeyValue::new("relay", ""), relay)];
        let labels = lanes.map(labels).collect();
        let seen = Arc::new(Seen { lanes: RwLock::default(), labels, of_process });
        FAMILIES.iter().for_each(|family| instrument(&meter, family, &seen));
        LABELLED.iter().for_each(|family| labelled(&meter, family, &seen));
        Ok(Metrics { exporter, seen, scraping: Mutex::new(()) })
    }

    /// Prometheus text of these lanes, in the order in which they were named at first.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Text`] when the encoder refuses.
    pub fn scrape(&self, lanes: Vec<Status>) -> Result<String, MetricsError> {
        let _one = self.scraping.lock();
        *self.seen.lanes.write() = lanes;
        Ok(self.exporter.text()?)
    }
}

fn instrument(meter: &Meter, family: &'static Family, seen: &Arc<Seen>) {
    let seen = seen.clone();
    let observe = move |instrument: &dyn AsyncInstrument<f64>| {
        if family.of_process {
            let value = seen.lanes.read().first().and_then(family.read);
            value.into_iter().for_each(|value| instrument.observe(value, &seen.of_process));
            return;
        }
        seen.each(|status, labels| {
            if let Some(value) = (family.read)(status) {
                instrument.observe(value, labels);
            }
        });
    };
    // The instruments live on in the exporter.
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

fn labelled(meter: &Meter, family: &'static Labelled, seen: &Arc<Seen>) {
    let seen = seen.clone();
    let observe = move |instrument: &dyn AsyncInstrument<f64>| {
        seen.each(|status, labels| {
            for (word, value) in (family.read)(status) {
                let word = KeyValue::new(family.label, word);
                instrument.observe(value, &[labels, &[word]].concat());
            }
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
