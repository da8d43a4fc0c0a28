use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use tracing::field::{Field, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;
use crate::packed::Packed;
use crate::record::{Body, Tries};

const KNOWN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[test]
fn the_standards_example_is_read() {
    let context = TraceContext::parse(KNOWN, Some("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE")).unwrap();
    assert_eq!(context.trace_id()[..3], [0x0a, 0xf7, 0x65]);
    assert_eq!(context.span_id()[..3], [0xb7, 0xad, 0x6b]);
    assert!(context.is_sampled());
    assert_eq!(context.state(), Some("rojo=00f067aa0ba902b7, congo=t61rcWkgMzE"));
    assert_eq!(context.to_string(), KNOWN);
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let span = "b7ad6b7169203331";
    for wrong in [
        String::new(),
        "00".into(),
        format!("00-{trace}-{span}"),
        format!("00-{trace}-{span}-1"),
        format!("00-{trace}-{span}-011"),
        format!("00-{trace}-{span}-01-more"),
        format!("ff-{trace}-{span}-01"),
        format!("0g-{trace}-{span}-01"),
        format!("00-{}-{span}-01", trace.to_uppercase()),
        format!("00-{trace}-{}-01", span.to_uppercase()),
        format!("00-{}-{span}-01", "0".repeat(32)),
        format!("00-{trace}-{}-01", "0".repeat(16)),
        format!("00_{trace}-{span}-01"),
        format!(" 00-{trace}-{span}-01"),
        format!("01-{trace}-{span}-01.more"),
        format!("00-{trace}-{span}-\u{e9}"),
    ] {
        assert_eq!(TraceContext::parse(&wrong, None), None, "{wrong:?}");
    }
    let later = format!("01-{trace}-{span}-09-more");
    let context = TraceContext::parse(&later, None).expect("a later version");
    assert_eq!(context.to_string(), KNOWN, "only what this version knows is passed on");
}

#[test]
fn a_wrong_state_is_passed_over_alone() {
    let long = format!("a={}", "x".repeat(STATE_BYTES));
    let many = "a=1,".repeat(STATE_MEMBERS + 1);
    for wrong in ["", " ", ",", "a", "=1", "A=1", "a=1=2", "a=\u{e9}", "-a=1", &long, &many] {
        let context = TraceContext::parse(KNOWN, Some(wrong)).unwrap();
        assert_eq!(context.state(), None, "{wrong:?}");
    }
    for legal in ["a=1", "1t@v=x y", "a=1,,b=2", "a=1 ,\tb=2"] {
        let context = TraceContext::parse(KNOWN, Some(legal)).unwrap();
        assert_eq!(context.state(), Some(legal), "{legal:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(trace in any::<u128>(), span in any::<u64>(), flags in 0..4_u8) {
        let text = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
        match TraceContext::parse(&text, None) {
            Some(read) => {
                prop_assert_eq!(read.to_string(), text);
                prop_assert_eq!(read.is_sampled(), flags & 1 == 1);
            }
            None => prop_assert!(trace == 0 || span == 0),
        }
    }

    /// Whatever is read is what the text says: nothing is guessed, and no text makes it panic.
    #[test]
    fn one_changed_byte_is_seen(at in 0..55_usize, byte in any::<char>()) {
        let mut text: Vec<char> = KNOWN.chars().collect();
        text[at] = byte;
        let text: String = text.into_iter().collect();
        if let Some(read) = TraceContext::parse(&text, Some(&text)) {
            let version_and_flags = !(2..53).contains(&at);
            prop_assert!(version_and_flags || read.to_string() == text, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>(), state in any::<String>()) {
        if let Some(read) = TraceContext::parse(&text, Some(&state)) {
            prop_assert_eq!(&text[2..52], &read.to_string()[2..52]);
        }
    }
}

fn record(traceparent: Option<&str>) -> Record {
    let mut headers = vec![(header::TYPE, Some(&b"OrderPlaced"[..]))];
    headers.extend(traceparent.map(|text| (header::TRACEPARENT, Some(text.as_bytes()))));
    let packed = Packed::new(Some(b"secret-key"), Some(b"secret-value"), &headers);
    let topic = Arc::from("outbox.event.order");
    Record::new(
        Body { topic, scope: Arc::from("s"), partition: 3, offset: 41, timestamp: 0, id: None, packed },
        Tries::default(),
    )
}

/// Writes down what a span's fields come to.
#[derive(Default, Clone)]
struct Fields(Arc<Mutex<String>>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _written = writeln!(self.0.lock(), "{}={value:?}", field.name());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Fields {
    fn on_new_span(&self, attributes: &tracing::span::Attributes<'_>, _: &tracing::Id, _: Context<'_, S>) {
        attributes.record(&mut self.clone());
    }

    fn on_record(&self, _: &tracing::Id, values: &tracing::span::Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

#[test]
fn a_span_says_what_is_handled_and_nothing_of_its_content() {
    let fields = Fields::default();
    let id = Uuid::from_u128(7);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(fields.clone()), || {
        let span = handling("inventory", "inventory-group", &record(Some(KNOWN)), id, 2);
        failed(&span, "timed_out", "the handler took longer than 30s");
    });
    let said = fields.0.lock().clone();
    for line in [
        "otel.name=process outbox.event.order",
        "otel.kind=\"consumer\"",
        "messaging.system=\"kafka\"",
        "messaging.destination.name=\"outbox.event.order\"",
        "messaging.destination.partition.id=3",
        "messaging.kafka.offset=41",
        "messaging.consumer.group.name=\"inventory-group\"",
        "messaging.message.id=00000000-0000-0000-0000-000000000007",
        "outbox.event_type=\"OrderPlaced\"",
        "outbox.attempt=2",
        &format!("outbox.producer.traceparent={KNOWN}"),
        "error.type=\"timed_out\"",
        "otel.status_code=\"ERROR\"",
    ] {
        assert!(said.lines().any(|found| found == line), "{line}\nin\n{said}");
    }
    assert!(!said.contains("secret"), "{said}");
}

#[cfg(feature = "otel")]
mod otel {
    use std::time::Duration;

    use opentelemetry::trace::{SpanId, Status, TraceId, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};

    use super::*;

    #[derive(Debug, Default, Clone)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Kept {
        fn on_start(&self, _: &mut Span, _: &opentelemetry::Context) {}
        fn on_end(&self, span: SpanData) {
            self.0.lock().push(span);
        }
        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }
        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    #[test]
    fn a_span_is_linked_to_the_producers_and_no_child_of_it() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_span_processor(kept.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let linked = handling("inventory", "inventory", &record(Some(KNOWN)), Uuid::from_u128(7), 1);
            failed(&linked, "panicked", "the handler panicked");
            drop(linked);
            drop(handling("inventory", "inventory", &record(None), Uuid::from_u128(8), 1));
            drop(handling("inventory", "inventory", &record(Some("nonsense")), Uuid::from_u128(9), 1));
        });
        let spans = kept.0.lock();
        let [linked, alone, wrong] = &spans[..] else { panic!("three spans, not {}", spans.len()) };
        let [link] = &linked.links.links[..] else { panic!("one link") };
        let trace = TraceId::from_bytes(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
        assert_eq!(link.span_context.trace_id(), trace);
        assert_eq!(link.span_context.span_id(), SpanId::from_bytes(0xb7ad_6b71_6920_3331_u64.to_be_bytes()));
        assert!(link.span_context.is_remote() && link.span_context.is_sampled());
        assert_ne!(linked.span_context.trace_id(), trace);
        assert_eq!(linked.name, "process outbox.event.order");
        assert!(matches!(&linked.status, Status::Error { description } if description.contains("panicked")));
        assert!(alone.links.links.is_empty() && wrong.links.links.is_empty());
        assert_eq!(alone.status, Status::Unset);
    }
}
