use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

/// Evidence whose texts are short enough not to be cut.
fn evidence() -> impl Strategy<Value = Evidence> {
    let text = || "[a-zé ☃\\PC]{1,20}";
    let name = || "[a-zA-Z0-9._-]{1,60}";
    let time =
        || (0_i64..4_000_000_000_000_000).prop_map(|micros| Timestamp::from_microsecond(micros).unwrap());
    let source = (name(), 0..i32::MAX, 0..i64::MAX, of(any::<i64>()), name(), text());
    let event = (of(text()), of(any::<u128>().prop_map(Uuid::from_u128)), of(time()), of(text()));
    let error = (of(text()), text(), of(text()), text(), any::<u32>(), time(), time());
    let rest = (text(), text(), text(), time(), of(text()), any::<u32>(), any::<bool>());
    (source, event, error, rest).prop_map(|(source, event, error, rest)| Evidence {
        topic: source.0,
        partition: source.1,
        offset: source.2,
        timestamp: source.3,
        group: source.4,
        scope: source.5,
        handler: event.0,
        id: event.1,
        created: event.2,
        event_type: event.3,
        class: error.0,
        message: error.1,
        stack: error.2,
        cause: error.3,
        attempts: error.4,
        first_failed: error.5,
        last_failed: error.6,
        instance: rest.0,
        sdk: rest.1,
        owner: rest.2,
        deadline: rest.3,
        traceparent: rest.4,
        replay: rest.5,
        truncated: rest.6,
    })
}

/// Any header: of the record itself, of ours, of others; with any bytes.
fn header() -> impl Strategy<Value = Header> {
    let known = proptest::sample::select(vec![
        "dlq.topic",
        "dlq.partition",
        "dlq.offset",
        "dlq.timestamp",
        "dlq.group",
        "dlq.scope",
        "dlq.id",
        "dlq.cause",
        "dlq.owner",
        "dlq.deadline",
        "dlq.last_failed",
        "dlq.replay",
        "dlq.traceparent",
        "dlq.",
        "kafka_dlt-original-topic",
        "kafka_dlt-original-partition",
        "kafka_dlt-original-offset",
        "kafka_original-topic",
        "retry_topic-attempts",
        "__connect.errors.topic",
        "__connect.errors.offset",
    ]);
    let name = prop_oneof![known.prop_map(str::to_owned), "[a-z_.]{0,12}"];
    let value = prop_oneof![vec(any::<u8>(), 0..12), "-?[0-9]{0,20}".prop_map(String::into_bytes)];
    (name, of(value)).prop_map(|(name, value)| Header { name, value })
}

/// Headers of a record that was never a dead letter.
fn originals() -> impl Strategy<Value = Vec<Header>> {
    vec(("[a-c_]{0,4}", of(vec(any::<u8>(), 0..8))), 0..6)
        .prop_map(|list| list.into_iter().map(|(name, value)| Header { name, value }).collect())
}

fn own(headers: &[Header]) -> Evidence {
    match Evidence::read(headers) {
        Reading::Own(evidence) => *evidence,
        other => panic!("{other:?}"),
    }
}

fn size_of_ours(headers: &[Header]) -> usize {
    headers.iter().filter(|header| is_reserved(&header.name)).map(Header::size).sum()
}

proptest! {
    /// What is written is read, beside original headers that stay as they came.
    #[test]
    fn evidence_comes_back_and_original_headers_stay(evidence in evidence(), originals in originals()) {
        let headers = evidence.headers(&originals, MOST);
        prop_assert_eq!(&own(&headers), &evidence);
        prop_assert_eq!(&headers[..originals.len()], &originals[..]);
        let replayed = replayable(&headers);
        prop_assert_eq!(&replayed[..originals.len()], &originals[..]);
        prop_assert_eq!(replayed.len() - originals.len(), usize::from(evidence.traceparent.is_some()));
    }

    /// The bound holds whatever the texts are, and the letter still locates its source record (C19, C39).
    #[test]
    fn it_is_bounded_and_still_locates_the_record(
        evidence in evidence(),
        long in "[aé☃\u{1F600}]{100,400}",
        times in 1_usize..200,
        most in 0_usize..20_000,
    ) {
        let huge = long.repeat(times);
        let evidence = Evidence {
            topic: "t".repeat(249),
            group: "g".repeat(255),
            scope: "s".repeat(255),
            message: huge.clone(),
            stack: Some(huge.clone()),
            handler: Some(huge.clone()),
            event_type: Some(huge.clone()),
            class: Some(huge.clone()),
            cause: huge.clone(),
            instance: huge.clone(),
            owner: huge.clone(),
            traceparent: Some(huge),
            truncated: false,
            ..evidence
        };
        let headers = evidence.headers(&[], most);
        prop_assert!(size_of_ours(&headers) <= most.max(LEAST), "{}", size_of_ours(&headers));
        let read = own(&headers);
        let as_written = Evidence { truncated: read.truncated, ..evidence.clone() };
        prop_assert_eq!(read.truncated, read != as_written, "whatever was cut is said, and nothing else");
        prop_assert_eq!(
            (&read.topic, read.partition, read.offset, &read.scope, &read.group, read.id),
            (&evidence.topic, evidence.partition, evidence.offset, &evidence.scope, &evidence.group, evidence.id)
        );
        prop_assert_eq!(read.letter(), evidence.letter());
        prop_assert!(!read.message.is_empty() && evidence.message.starts_with(&read.message));
        prop_assert!(read.message == evidence.message || read.stack.is_none(), "the stack is cut first");
    }

    /// A letter that fails again has one evidence, the new one, and no more headers than before (C37).
    #[test]
    fn evidence_is_replaced_and_not_accumulated(a in evidence(), b in evidence(), originals in originals()) {
        let once = b.headers(&originals, MOST);
        let twice = b.headers(&a.headers(&originals, MOST), MOST);
        prop_assert_eq!(&twice, &once);
        let replayed = b.headers(&replayable(&a.headers(&originals, MOST)), MOST);
        prop_assert_eq!(&replayed, &once);
    }

    /// No headers make the reader panic, and an answer always locates a record.
    #[test]
    fn damaged_headers_are_told_and_never_panic(headers in vec(header(), 0..20)) {
        match Evidence::read(&headers) {
            Reading::Own(evidence) => {
                prop_assert!(!evidence.topic.is_empty() && evidence.partition >= 0 && evidence.offset >= 0);
                prop_assert!(!evidence.scope.is_empty() && !evidence.cause.is_empty());
            }
            Reading::Foreign(_) | Reading::Damaged(_) | Reading::None => {}
        }
    }

    /// One damaged header among good ones: either it does not matter, or it is named.
    #[test]
    fn one_damaged_header_is_named(evidence in evidence(), at in any::<prop::sample::Index>(), bytes in vec(128_u8.., 1..9)) {
        let mut headers = evidence.headers(&[], MOST);
        let at = at.index(headers.len());
        headers[at].value = Some(bytes);
        match Evidence::read(&headers) {
            Reading::Own(read) => prop_assert_eq!(
                (&read.topic, read.partition, read.offset),
                (&evidence.topic, evidence.partition, evidence.offset)
            ),
            Reading::Damaged(damage) => prop_assert_eq!(damage.header, headers[at].name.as_str()),
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn a_cut_ends_between_two_characters() {
    let mut cut = false;
    assert_eq!(shortened("a☃b", 3, &mut cut), "a");
    assert!(cut);
    assert_eq!(shortened("☃", 2, &mut cut), "");
    assert_eq!(shortened("a☃", 4, &mut cut), "a☃");
}

#[test]
fn a_record_that_links_to_a_failed_run_is_no_dead_letter() {
    let headers = [Header::text(TRACEPARENT, "00-1-2-01"), Header::text("id", "x")];
    assert_eq!(Evidence::read(&headers), Reading::None);
    let marks = [Header::text("__replicator_id", "x"), Header::text("kafka_dlt-original-topic", "t")];
    assert_eq!(replayable(&marks), []);
}
