//! The trace of a handled event: its producer's context from the record's headers, and the span around the handler.
//!
//! The span is the application's, made by `tracing`: what becomes of it is decided by the subscriber. Its fields are
//! named by OpenTelemetry's conventions for messaging, and never hold a key or a payload. It is *linked* to the
//! producer's context and no child of it: between the two an event may wait for days, and a replay runs one again.
//! With the feature `otel` the link is a link of OpenTelemetry; without it the context stands in two fields.

use std::fmt;

use outbox_schema::record::header;
use tracing::Span;
use tracing::field::Empty;
use uuid::Uuid;

use crate::record::Record;

/// Header of W3C's second part of a trace context; the producer's vendors write it.
pub(crate) const TRACESTATE: &str = "tracestate";
/// Bytes and members that a `tracestate` may have; a longer one is passed over.
const STATE_BYTES: usize = 512;
const STATE_MEMBERS: usize = 32;

/// A trace context as W3C's Trace Context writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    flags: u8,
    state: Option<String>,
}

impl TraceContext {
    /// Reads the headers `traceparent` and `tracestate`; `None` where the first is not as the standard has it. A
    /// `tracestate` that is not is passed over alone, as the standard says.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<TraceContext> {
        let bytes = traceparent.as_bytes();
        let [version] = hex(bytes.get(..2)?)?;
        // A later version may have more behind a further dash; version 00 has not, and ff is none.
        let ends = match version {
            0xff => false,
            0 => bytes.len() == 55,
            _ => bytes.len() == 55 || bytes.get(55) == Some(&b'-'),
        };
        if !ends || [2, 35, 52].iter().any(|at| bytes.get(*at) != Some(&b'-')) {
            return None;
        }
        let trace: [u8; 16] = hex(bytes.get(3..35)?)?;
        let span: [u8; 8] = hex(bytes.get(36..52)?)?;
        let [flags] = hex(bytes.get(53..55)?)?;
        // Zeros mean that there is none.
        if trace == [0; 16] || span == [0; 8] {
            return None;
        }
        let state = tracestate.map(str::trim).filter(|state| is_state(state)).map(str::to_owned);
        Some(TraceContext { trace, span, flags, state })
    }

    /// The trace's id.
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace
    }

    /// The id of the producer's span.
    pub fn span_id(&self) -> [u8; 8] {
        self.span
    }

    /// Whether the producer records its part of the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// What vendors keep beside it, as it was written.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The producer's context in a record's headers.
    pub(crate) fn of(record: &Record) -> Option<TraceContext> {
        TraceContext::parse(record.header(header::TRACEPARENT)?, record.header(TRACESTATE))
    }
}

/// As a `traceparent` of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (u128::from_be_bytes(self.trace), u64::from_be_bytes(self.span));
        // Of the flags version 00 knows the lowest two: sampled, and random.
        write!(f, "00-{trace:032x}-{span:016x}-{:02x}", self.flags & 3)
    }
}

/// Lower-case digits only.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Members `key=value`, comma-separated; the standard lets some be empty.
fn is_state(text: &str) -> bool {
    let of_key = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let of_value = |byte: u8| (0x20..=0x7e).contains(&byte) && byte != b'=';
    let is_member = |member: &str| {
        member.split_once('=').is_some_and(|(key, value)| {
            let begins = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
            begins && key.len() <= 256 && key.bytes().all(of_key) && value.bytes().all(of_value)
        })
    };
    let mut members =
        text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|m| !m.is_empty());
    let (mut count, mut legal) = (0, true);
    members.by_ref().for_each(|member| (count, legal) = (count + 1, legal && is_member(member)));
    legal && (1..=STATE_MEMBERS).contains(&count) && text.len() <= STATE_BYTES
}

/// The span of one attempt at an event, to be entered while its handler runs. `attempt` counts from 1.
///
/// Its target is this module's, so that `outbox_consumer::trace=off` in a filter is without it.
pub(crate) fn handling(consumer: &str, group: &str, record: &Record, id: Uuid, attempt: u32) -> Span {
    let topic: &str = &record.topic;
    let span = tracing::info_span!(
        "process",
        otel.name = format_args!("process {topic}"),
        otel.kind = "consumer",
        otel.status_code = Empty,
        otel.status_description = Empty,
        error.type = Empty,
        messaging.system = "kafka",
        messaging.operation.name = "process",
        messaging.operation.type = "process",
        messaging.destination.name = topic,
        messaging.destination.partition.id = %record.partition,
        messaging.kafka.offset = record.offset,
        messaging.consumer.group.name = group,
        messaging.message.id = %id,
        outbox.consumer = consumer,
        outbox.event_type = record.event_type(),
        outbox.attempt = attempt,
        outbox.producer.traceparent = Empty,
    );
    if span.is_disabled() {
        return span;
    }
    if let Some(producer) = TraceContext::of(record) {
        span.record("outbox.producer.traceparent", tracing::field::display(&producer));
        link(&span, &producer);
    }
    span
}

/// Marks a span: the attempt came to an error of this kind. The sentence is the one of the log.
pub(crate) fn failed(span: &Span, kind: &str, said: &str) {
    span.record("error.type", kind);
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", said);
}

#[cfg(feature = "otel")]
fn link(span: &Span, producer: &TraceContext) {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let state: TraceState = producer.state().and_then(|state| state.parse().ok()).unwrap_or_default();
    let (trace, id) = (TraceId::from_bytes(producer.trace_id()), SpanId::from_bytes(producer.span_id()));
    span.add_link(SpanContext::new(trace, id, TraceFlags::new(producer.flags), true, state));
}

#[cfg(not(feature = "otel"))]
fn link(_: &Span, _: &TraceContext) {}

#[cfg(test)]
mod tests;
