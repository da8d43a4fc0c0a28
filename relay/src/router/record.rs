//! The record that a row makes by its plan.

use outbox_schema::record::header;

use super::column::{Bytes, Column};
use super::headers::{HeaderBuffer, Headers, ObjectFault};
use super::plan::{Key, Plan, Topic};
use super::row::Value;
use super::unpublishable::Unpublishable;
use super::{binary, created_at, rules, topic};
use crate::lsn::Lsn;
use crate::publisher::Charge;

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01 00:00 UTC.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Most that the record format (magic 2) adds to a record alone in its batch: 61 bytes of batch header,
/// then attributes and the variable-length numbers of length, timestamp, offset, key, value and headers.
const RECORD_OVERHEAD: usize = 61 + 36;

/// The two variable-length lengths of a header.
const HEADER_OVERHEAD: usize = 10;

/// Where a row stands in its source's order, and when it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPosition {
    /// How often the stream was started anew, from 1.
    pub epoch: u64,
    /// The commit LSN of the row's transaction; `0/0` in a fill.
    pub commit_lsn: Lsn,
    /// The row's place among the outbox inserts of its transaction; its `seq` in a fill.
    pub ordinal: u64,
    /// Commit time in Unix milliseconds; the record's timestamp.
    pub commit_unix_millis: i64,
}

impl RowPosition {
    /// Unix milliseconds of a time as the replication protocol carries it, in microseconds since
    /// 2000-01-01 00:00 UTC; rounded down.
    pub fn unix_millis(postgres_micros: i64) -> i64 {
        postgres_micros.saturating_add(POSTGRES_EPOCH_MICROS).div_euclid(1_000)
    }

    /// The header's text, for messages to people.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        self.append(&mut text).map_or_else(String::new, |()| String::from_utf8_lossy(&text).into_owned())
    }

    /// Appends the text of the position, which is a header's value.
    ///
    /// Digit by digit: formatting took a tenth of the router's time. A test holds it to
    /// [`Position`](outbox_schema::record::Position)'s own text.
    fn append(&self, out: &mut Vec<u8>) -> Option<()> {
        append_decimal(self.epoch, out);
        out.push(b'/');
        out.extend(
            (0..16).rev().map(|digit| b"0123456789ABCDEF"[(self.commit_lsn.0 >> (digit * 4)) as usize & 15]),
        );
        out.push(b'/');
        append_decimal(self.ordinal, out);
        Some(())
    }
}

fn append_decimal(mut number: u64, out: &mut Vec<u8>) {
    let start = out.len();
    loop {
        out.push(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out[start..].reverse();
}

/// One record, ready to be sent. It borrows from the row and the scratch.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The key; its bytes decide the partition. Every record of today's dialect has one.
    pub key: Option<&'a [u8]>,
    /// The payload's bytes untouched; `None` (a tombstone) for SQL NULL.
    pub value: Option<&'a [u8]>,
    /// The headers in order.
    pub headers: Headers<'a>,
    /// Commit time, Unix milliseconds.
    pub timestamp_ms: i64,
    /// The event's id, as its text.
    pub id: &'a [u8],
}

impl Record<'_> {
    /// What the record counts for in flight: key, value and headers as they are kept until it is acknowledged.
    pub fn charge(&self) -> Charge {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD);
        let bytes = self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len);
        Charge::of(bytes + headers.sum::<usize>())
    }

    /// Most that the record can take alone in a batch, uncompressed: what brokers and clients compare
    /// with their limits.
    pub fn size_bytes(&self) -> usize {
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + value.len() + HEADER_OVERHEAD).sum();
        RECORD_OVERHEAD + self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers
    }
}

/// Buffers that records are put together in; used again for every row, so that none allocates.
#[derive(Debug, Default)]
pub struct Scratch {
    topic: String,
    id: Vec<u8>,
    /// What is read once and copied elsewhere.
    text: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    headers: HeaderBuffer,
}

impl Plan {
    /// The record of a row.
    ///
    /// # Errors
    ///
    /// The row cannot be published, ever: the answer depends on row and plan alone.
    pub fn record<'a>(
        &self,
        row: &[Value<'a>],
        at: &RowPosition,
        scratch: &'a mut Scratch,
    ) -> Result<Record<'a>, Unpublishable> {
        if row.len() != self.width {
            return Err(Unpublishable::ColumnCount { expected: self.width, found: row.len() });
        }
        scratch.clear();
        let id = self.id.required(row, &mut scratch.id)?;
        self.route(row, &mut scratch.text, &mut scratch.topic)?;
        let key = self.key(row, &mut scratch.key)?;
        let value = self.payload.bytes(row, self.max_record_bytes, &mut scratch.value)?;
        self.fill_headers(row, at, id.within(&scratch.id), &mut scratch.text, &mut scratch.headers)?;

        let scratch: &'a Scratch = scratch;
        let record = Record {
            topic: &scratch.topic,
            key: Some(key.within(&scratch.key)),
            value: value.map(|value| value.within(&scratch.value)),
            headers: scratch.headers.headers(),
            timestamp_ms: at.commit_unix_millis,
            id: id.within(&scratch.id),
        };
        let bytes = record.size_bytes();
        if bytes > self.max_record_bytes {
            return Err(Unpublishable::RecordTooLarge { bytes, limit: self.max_record_bytes });
        }
        Ok(record)
    }

    pub(super) fn route(
        &self,
        row: &[Value<'_>],
        text: &mut Vec<u8>,
        topic: &mut String,
    ) -> Result<(), Unpublishable> {
        match &self.topic {
            Topic::ByRule(rule) => rule.route(row, self.max_record_bytes, text, topic),
            Topic::Prefixed { prefix, aggregatetype } => {
                let suffix = aggregatetype.required(row, text)?;
                topic::route(prefix, suffix.within(text), topic)
                    .map_err(|fault| Unpublishable::Topic { column: aggregatetype.name.clone(), fault })
            }
        }
    }

    pub(super) fn key<'a>(
        &self,
        row: &[Value<'a>],
        buffer: &mut Vec<u8>,
    ) -> Result<Bytes<'a>, Unpublishable> {
        let limit = self.max_record_bytes;
        match &self.key {
            Key::ByRule(template) => template.bytes(row, limit, buffer),
            Key::OfTheRow { partition_key, aggregateid } => {
                if let Some(column) = partition_key
                    && let Some(key) = column.bytes(row, limit, buffer)?
                {
                    return Ok(key);
                }
                aggregateid.bytes(row, limit, buffer)?.ok_or_else(|| aggregateid.null())
            }
        }
    }

    fn fill_headers(
        &self,
        row: &[Value<'_>],
        at: &RowPosition,
        id: &[u8],
        buffer: &mut Vec<u8>,
        out: &mut HeaderBuffer,
    ) -> Result<(), Unpublishable> {
        out.push(header::ID, id);
        out.push(header::TYPE, self.r#type.required(row, empty(buffer))?.within(buffer));
        out.push_with(header::POSITION, |value| at.append(value));
        if let Some((text, _)) = integer(self.version.as_ref(), row, buffer)? {
            out.push(header::VERSION, text);
        }
        if let Some((text, 2..)) = integer(self.schema_version.as_ref(), row, buffer)? {
            out.push(header::SCHEMA_VERSION, text);
        }
        if let Some((_, text)) = mapped(self.traceparent.as_ref(), row, buffer)? {
            out.push(header::TRACEPARENT, text);
        }
        self.created_at(row, id, buffer, out)?;
        rules::push_headers(&self.header_rules, row, self.max_record_bytes, out)?;
        if let Some((column, json)) = mapped(self.headers.as_ref(), row, buffer)? {
            out.push_object(json).map_err(|fault| match fault {
                ObjectFault::NotAnObject => column.undecodable("a JSON object"),
                ObjectFault::Header(name, fault) => {
                    Unpublishable::Header { column: column.name.clone(), name, fault }
                }
            })?;
        }
        Ok(())
    }

    /// A version-7 id says when the event was made; a header would say it twice.
    fn created_at(
        &self,
        row: &[Value<'_>],
        id: &[u8],
        buffer: &mut Vec<u8>,
        out: &mut HeaderBuffer,
    ) -> Result<(), Unpublishable> {
        let Some((column, text)) = mapped(self.created_at.as_ref(), row, buffer)? else { return Ok(()) };
        if is_version_7(id) {
            return Ok(());
        }
        out.push_with(header::CREATED_AT, |value| match column.instant(row) {
            Some(micros) => binary::append_rfc3339(micros, value),
            None => created_at::append_rfc3339(text, value),
        })
        .ok_or_else(|| column.undecodable("a finite time such as `2026-11-21 02:35:50.123456+00` up to 9999"))
    }
}

impl Scratch {
    fn clear(&mut self) {
        self.id.clear();
        self.text.clear();
        self.key.clear();
        self.value.clear();
        self.headers.clear();
    }
}

fn empty(buffer: &mut Vec<u8>) -> &mut Vec<u8> {
    buffer.clear();
    buffer
}

/// A mapped column that is not NULL, with its text.
fn mapped<'p, 'a>(
    column: Option<&'p Column>,
    row: &[Value<'a>],
    buffer: &'a mut Vec<u8>,
) -> Result<Option<(&'p Column, &'a [u8])>, Unpublishable> {
    let Some(column) = column else { return Ok(None) };
    let text = column.text(row, empty(buffer))?;
    Ok(text.map(|text| (column, text.within(buffer))))
}

/// A mapped column that is not NULL and must be an integer: its text and what it says.
fn integer<'a>(
    column: Option<&Column>,
    row: &[Value<'a>],
    buffer: &'a mut Vec<u8>,
) -> Result<Option<(&'a [u8], i64)>, Unpublishable> {
    let Some((column, text)) = mapped(column, row, buffer)? else { return Ok(None) };
    let number = str::from_utf8(text)
        .ok()
        .filter(|text| !text.starts_with('+'))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| column.undecodable("an integer of 64 bits"))?;
    Ok(Some((text, number)))
}

/// Whether the id is a version-7 UUID in the form that PostgreSQL prints. Other forms may be UUIDs too,
/// but a consumer need not see that, and `created_at` costs little.
fn is_version_7(id: &[u8]) -> bool {
    const HYPHENATED: usize = 36;
    id.len() == HYPHENATED
        && uuid::Uuid::try_parse_ascii(id).is_ok_and(|id| {
            id.get_version() == Some(uuid::Version::SortRand) && id.get_variant() == uuid::Variant::RFC4122
        })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{self, native_row};
    use super::super::plan::Part;
    use super::super::topic::TopicFault;
    use super::super::unpublishable::HeaderFault;
    use super::*;
    use Value::{Null, Text, Unchanged};
    use proptest::prelude::*;

    const AT: RowPosition = RowPosition {
        epoch: 3,
        commit_lsn: Lsn(0x16_B374_D848),
        ordinal: 7,
        commit_unix_millis: 1_795_228_550_123,
    };

    /// The record as text, headers as `name=value`.
    fn headers(record: &Record<'_>) -> Vec<String> {
        let text = |(name, value): (&str, &[u8])| format!("{name}={}", String::from_utf8_lossy(value));
        record.headers.iter().map(text).collect()
    }

    fn refusal(changes: &[(&str, Value<'_>)]) -> Unpublishable {
        fixture::plan().record(&native_row(changes), &AT, &mut Scratch::default()).unwrap_err()
    }

    #[test]
    fn a_position_reads_as_the_contract_writes_it() {
        use outbox_schema::record::Position;
        for (epoch, lsn, ordinal) in
            [(1, 0, 0), (u64::MAX, u64::MAX, u64::MAX), (10, 0x16B_3748, 909), (7, 1 << 63, 100)]
        {
            let at = RowPosition { epoch, commit_lsn: Lsn(lsn), ordinal, commit_unix_millis: 0 };
            assert_eq!(at.text(), Position { epoch, commit_lsn: lsn, ordinal }.to_string());
        }
    }

    #[test]
    fn a_plain_row_has_three_headers_and_its_bytes_untouched() {
        let mut scratch = Scratch::default();
        let row = native_row(&[("payload", Text(b"{ \"n\": 1.50 }"))]);
        let record = fixture::plan().record(&row, &AT, &mut scratch).unwrap();
        assert_eq!(record.topic, "outbox.event.order");
        assert_eq!(record.key, Some(b"o-1".as_slice()));
        assert_eq!(record.value, Some(b"{ \"n\": 1.50 }".as_slice()));
        assert_eq!(record.timestamp_ms, 1_795_228_550_123);
        assert_eq!(record.id, fixture::V7.as_bytes());
        let id = format!("id={}", fixture::V7);
        assert_eq!(headers(&record), [&id, "type=OrderPlaced", "position=3/00000016B374D848/7"]);
    }

    #[test]
    fn every_header_has_its_place() {
        let mut scratch = Scratch::default();
        let row = native_row(&[
            ("id", Text(fixture::V4.as_bytes())),
            ("headers", Text(b"{\"z\": \"1\", \"a\": 1.50}")),
            ("created_at", Text(b"2026-11-21 02:35:50.1+00")),
            ("traceparent", Text(b"00-abc-def-01")),
            ("schema_version", Text(b"2")),
            ("version", Text(b"41")),
        ]);
        let record = fixture::plan().record(&row, &AT, &mut scratch).unwrap();
        assert_eq!(
            headers(&record)[3..],
            [
                "version=41",
                "schema_version=2",
                "traceparent=00-abc-def-01",
                "created_at=2026-11-21T02:35:50.100000Z",
                "z=1",
                "a=1.50",
            ]
        );
    }

    #[test]
    fn created_at_is_sent_unless_a_version_7_id_says_it() {
        let sent = |id: &str| {
            let mut scratch = Scratch::default();
            let row = native_row(&[("id", Text(id.as_bytes()))]);
            let record = fixture::plan().record(&row, &AT, &mut scratch).unwrap();
            record.headers.iter().any(|(name, _)| name == header::CREATED_AT)
        };
        assert!(!sent(fixture::V7));
        assert!(sent(fixture::V4));
        assert!(sent("42"));
        assert!(sent(&fixture::V7.replace('-', "")));
        // Version 7, but Microsoft's variant.
        assert!(sent("019aa3d1-2c5b-7000-c000-000000000001"));
    }

    #[test]
    fn a_partition_key_takes_the_place_of_the_aggregate() {
        let mut scratch = Scratch::default();
        let row = native_row(&[("partition_key", Text(b"tenant-9")), ("aggregateid", Null)]);
        assert_eq!(
            fixture::plan().record(&row, &AT, &mut scratch).unwrap().key,
            Some(b"tenant-9".as_slice())
        );
    }

    #[test]
    fn a_null_payload_is_a_tombstone_and_an_empty_one_is_not() {
        let mut scratch = Scratch::default();
        let plan = fixture::plan();
        assert_eq!(plan.record(&native_row(&[("payload", Null)]), &AT, &mut scratch).unwrap().value, None);
        let empty = native_row(&[("payload", Text(b""))]);
        assert_eq!(plan.record(&empty, &AT, &mut scratch).unwrap().value, Some(b"".as_slice()));
    }

    #[test]
    fn bytea_is_decoded_and_nothing_of_the_row_before_is_left() {
        let plan = fixture::plan_with_type("payload", 17);
        let mut scratch = Scratch::default();
        for (text, expected) in
            [(b"\\x00ff10".as_slice(), b"\x00\xFF\x10".as_slice()), (b"\\x61", b"a"), (b"\\x", b"")]
        {
            let row = native_row(&[("payload", Text(text)), ("aggregateid", Text(b"\\x00"))]);
            let record = plan.record(&row, &AT, &mut scratch).unwrap();
            assert_eq!(record.value, Some(expected));
            assert_eq!(record.key, Some(b"\\x00".as_slice()), "a text key stays as it is");
        }
        let plan = fixture::plan_with_type("aggregateid", 17);
        let row = native_row(&[("aggregateid", Text(b"\\x00ff"))]);
        assert_eq!(plan.record(&row, &AT, &mut scratch).unwrap().key, Some(b"\x00\xFF".as_slice()));
        let row = native_row(&[("aggregateid", Text(b"00ff"))]);
        let refused = plan.record(&row, &AT, &mut scratch).unwrap_err();
        assert!(matches!(refused, Unpublishable::Undecodable { part: Part::AggregateId, .. }));
    }

    #[test]
    fn a_null_that_no_record_can_do_without_is_named() {
        for (column, part) in [
            ("id", Part::Id),
            ("aggregatetype", Part::AggregateType),
            ("aggregateid", Part::AggregateId),
            ("type", Part::Type),
        ] {
            assert_eq!(refusal(&[(column, Null)]), Unpublishable::Null { column: column.to_owned(), part });
        }
    }

    #[test]
    fn what_is_not_of_its_kind_is_named_without_its_value() {
        let v4 = ("id", Text(fixture::V4.as_bytes()));
        for (column, text) in [
            ("version", "secret"),
            ("version", "+5"),
            ("version", "5.0"),
            ("schema_version", ""),
            ("schema_version", "9223372036854775808"),
            ("created_at", "infinity"),
            ("headers", "[\"secret\"]"),
            ("headers", "\"secret\""),
        ] {
            let refused = refusal(&[v4, (column, Text(text.as_bytes()))]);
            let Unpublishable::Undecodable { column: named, .. } = &refused else { panic!("{refused:?}") };
            assert_eq!(named, column);
            assert!(!refused.to_string().contains("secret"), "{refused}");
        }
    }

    #[test]
    fn other_refusals_say_what_is_wrong() {
        let reserved = refusal(&[("headers", Text(b"{\"type\":\"x\"}"))]);
        assert!(matches!(reserved, Unpublishable::Header { fault: HeaderFault::Reserved, .. }));
        let blank = refusal(&[("aggregatetype", Text(b"a b"))]);
        let fault = TopicFault::Illegal { byte: b' ', at: 14 };
        assert_eq!(blank, Unpublishable::Topic { column: "aggregatetype".to_owned(), fault });
        assert_eq!(
            refusal(&[("payload", Unchanged)]),
            Unpublishable::Unchanged { column: "payload".to_owned() }
        );
        let plan = fixture::plan();
        let narrow = plan.record(&[Null; 3], &AT, &mut Scratch::default()).unwrap_err();
        assert_eq!(narrow, Unpublishable::ColumnCount { expected: 11, found: 3 });
    }

    #[test]
    fn the_size_limit_counts_the_whole_record() {
        let mut plan = fixture::plan();
        let row = native_row(&[("payload", Text(&[b'x'; 10_000]))]);
        let size = plan.record(&row, &AT, &mut Scratch::default()).unwrap().size_bytes();
        assert!((10_100..10_400).contains(&size), "{size}");
        plan.max_record_bytes = size;
        plan.record(&row, &AT, &mut Scratch::default()).unwrap();
        plan.max_record_bytes = size - 1;
        let refused = plan.record(&row, &AT, &mut Scratch::default()).unwrap_err();
        assert_eq!(refused, Unpublishable::RecordTooLarge { bytes: size, limit: size - 1 });
    }

    #[test]
    fn times_of_the_protocol_are_milliseconds_rounded_down() {
        assert_eq!(RowPosition::unix_millis(0), 946_684_800_000);
        assert_eq!(RowPosition::unix_millis(1_999), 946_684_800_001);
        assert_eq!(RowPosition::unix_millis(-1), 946_684_799_999);
        RowPosition::unix_millis(i64::MAX);
        RowPosition::unix_millis(i64::MIN);
    }

    fn value() -> impl Strategy<Value = Option<Vec<u8>>> {
        prop_oneof![
            2 => Just(None),
            2 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Some),
            1 => "(\\\\x)?[0-9a-f]{0,6}".prop_map(|text| Some(text.into_bytes())),
            1 => "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:.+]{0,12}".prop_map(|text| Some(text.into_bytes())),
            1 => "\\{(\"[a-c]\":[0-9\"{]{0,3},?){0,2}\\}".prop_map(|text| Some(text.into_bytes())),
        ]
    }

    proptest! {
        #[test]
        fn the_position_can_be_read_back(epoch: u64, lsn: u64, ordinal: u64) {
            let at = RowPosition { epoch, commit_lsn: Lsn(lsn), ordinal, ..AT };
            let mut text = Vec::new();
            at.append(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            let position = outbox_schema::record::Position { epoch, commit_lsn: lsn, ordinal };
            prop_assert_eq!(text.parse(), Ok(position));
        }

        #[test]
        fn arbitrary_rows_never_panic(values in prop::collection::vec(value(), 0..14), bytea: bool) {
            let row: Vec<Value<'_>> =
                values.iter().map(|value| value.as_deref().map_or(Null, Text)).collect();
            let plan = fixture::plan_with_type("payload", if bytea { 17 } else { 25 });
            let _ = plan.record(&row, &AT, &mut Scratch::default());
        }

        #[test]
        fn one_arbitrary_column_never_panics_and_a_record_keeps_its_limits(
            column in 0usize..11, bytes in value(), bytea: bool,
        ) {
            let mut row = native_row(&[("id", Text(fixture::V4.as_bytes()))]);
            row[column] = bytes.as_deref().map_or(Unchanged, Text);
            let plan = fixture::plan_with_type("aggregateid", if bytea { 17 } else { 25 });
            let mut scratch = Scratch::default();
            if let Ok(record) = plan.record(&row, &AT, &mut scratch) {
                prop_assert!((1..=249).contains(&record.topic.len()));
                prop_assert!(record.size_bytes() <= plan.max_record_bytes);
                prop_assert_eq!(record.headers.iter().next(), Some((header::ID, record.id)));
            }
        }
    }
}
