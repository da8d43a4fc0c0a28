//! Values as PostgreSQL's send functions write them, made into the text that its output functions write: a
//! record is the same whichever form the stream has.
//!
//! The text is that of the replication session's settings: `DateStyle` ISO, `TimeZone` UTC,
//! `extra_float_digits` 3. Types whose text depends on more (`money`), or that have types inside (arrays,
//! composites, ranges), are not here; a plan that needs one refuses the binary form by name.
//!
//! Format: the `*send` and `*out` functions in PostgreSQL's `src/backend/utils/adt`.

mod clock;
mod float;
mod numeric;

use std::io::Write;

pub(super) use clock::append_rfc3339;

/// How the binary form of one type becomes its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// The binary form is the text.
    Text,
    /// A version byte, then the text.
    Jsonb,
    /// The bytes themselves; their text is hex.
    Bytea,
    /// 16 bytes.
    Uuid,
    /// One byte.
    Bool,
    /// 16 bits.
    Int2,
    /// 32 bits.
    Int4,
    /// 64 bits.
    Int8,
    /// 32 bits without sign.
    Oid,
    /// 64 bits without sign.
    Xid8,
    /// IEEE 754, single.
    Float4,
    /// IEEE 754, double.
    Float8,
    /// Groups of four decimal digits.
    Numeric,
    /// Days since 2000-01-01.
    Date,
    /// Microseconds since midnight.
    Time,
    /// Microseconds since 2000-01-01 00:00.
    Timestamp,
    /// The same in UTC.
    TimestampTz,
}

/// The built-in types that have a text here: OID, name, form. OIDs below 16384 never change.
const TYPES: [(u32, &str, Binary); 21] = [
    (16, "bool", Binary::Bool),
    (17, "bytea", Binary::Bytea),
    (19, "name", Binary::Text),
    (20, "int8", Binary::Int8),
    (21, "int2", Binary::Int2),
    (23, "int4", Binary::Int4),
    (25, "text", Binary::Text),
    (26, "oid", Binary::Oid),
    (114, "json", Binary::Text),
    (700, "float4", Binary::Float4),
    (701, "float8", Binary::Float8),
    (1042, "bpchar", Binary::Text),
    (1043, "varchar", Binary::Text),
    (1082, "date", Binary::Date),
    (1083, "time", Binary::Time),
    (1114, "timestamp", Binary::Timestamp),
    (1184, "timestamptz", Binary::TimestampTz),
    (1700, "numeric", Binary::Numeric),
    (2950, "uuid", Binary::Uuid),
    (3802, "jsonb", Binary::Jsonb),
    (5069, "xid8", Binary::Xid8),
];

/// OID of a built-in type by its name in `pg_catalog`, as far as it matters to routing. A domain is
/// announced in the stream under an OID of its own and the name of the type that it is made from.
pub fn built_in(name: &str) -> Option<u32> {
    TYPES.iter().find(|(_, known, _)| *known == name).map(|(oid, ..)| *oid)
}

/// A value's text: as it lies in the row, or written to the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Written<'a> {
    /// Bytes of the value itself.
    Same(&'a [u8]),
    /// Appended to the buffer.
    Appended,
}

impl Binary {
    /// The form of a type; `None` for a type without one here.
    pub fn of(type_oid: u32) -> Option<Binary> {
        TYPES.iter().find(|(oid, ..)| *oid == type_oid).map(|(.., binary)| *binary)
    }

    /// The text of a value. `None` where the bytes are not a value of the type; what was appended to `out`
    /// is of no use then.
    pub fn text<'a>(self, value: &'a [u8], out: &mut Vec<u8>) -> Option<Written<'a>> {
        match self {
            Binary::Text => return Some(Written::Same(value)),
            Binary::Jsonb => {
                const VERSION: u8 = 1;
                return value.strip_prefix(&[VERSION]).map(Written::Same);
            }
            Binary::Bytea => {
                out.extend_from_slice(b"\\x");
                value.iter().for_each(|byte| hex(*byte, out));
            }
            Binary::Uuid => uuid(value, out)?,
            Binary::Bool => out.push(if value == [0] { b'f' } else { b't' }),
            Binary::Int2 => write!(out, "{}", i16::from_be_bytes(exact(value)?)).ok()?,
            Binary::Int4 => write!(out, "{}", i32::from_be_bytes(exact(value)?)).ok()?,
            Binary::Int8 => write!(out, "{}", i64::from_be_bytes(exact(value)?)).ok()?,
            Binary::Oid => write!(out, "{}", u32::from_be_bytes(exact(value)?)).ok()?,
            Binary::Xid8 => write!(out, "{}", u64::from_be_bytes(exact(value)?)).ok()?,
            Binary::Float4 => float::append_f32(f32::from_be_bytes(exact(value)?), out),
            Binary::Float8 => float::append_f64(f64::from_be_bytes(exact(value)?), out),
            Binary::Numeric => numeric::append(value, out)?,
            Binary::Date => clock::append_date(i32::from_be_bytes(exact(value)?), out)?,
            Binary::Time => clock::append_time(i64::from_be_bytes(exact(value)?), out)?,
            Binary::Timestamp => clock::append_timestamp(i64::from_be_bytes(exact(value)?), "", out)?,
            Binary::TimestampTz => clock::append_timestamp(i64::from_be_bytes(exact(value)?), "+00", out)?,
        }
        Some(Written::Appended)
    }

    /// The microseconds since 2000-01-01 00:00 UTC that a timestamp says; `None` for every other type.
    pub fn instant(self, value: &[u8]) -> Option<i64> {
        matches!(self, Binary::Timestamp | Binary::TimestampTz)
            .then(|| exact(value).map(i64::from_be_bytes))
            .flatten()
    }
}

fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

fn hex(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

fn uuid(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let bytes: [u8; 16] = exact(value)?;
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    out.extend_from_slice(uuid::Uuid::from_bytes(bytes).hyphenated().encode_lower(&mut text).as_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(binary: Binary, value: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        let text = match binary.text(value, &mut out)? {
            Written::Same(text) => text.to_vec(),
            Written::Appended => out,
        };
        Some(String::from_utf8(text).unwrap())
    }

    #[test]
    fn plain_types_have_their_usual_text() {
        for (binary, value, expected) in [
            (Binary::Text, b"a b".as_slice(), "a b"),
            (Binary::Jsonb, b"\x01{\"a\": 1}", "{\"a\": 1}"),
            (Binary::Bytea, b"\x00\xFF", "\\x00ff"),
            (Binary::Bytea, b"", "\\x"),
            (Binary::Bool, b"\x01", "t"),
            (Binary::Bool, b"\x00", "f"),
            (Binary::Int2, b"\x80\x00", "-32768"),
            (Binary::Int4, b"\xFF\xFF\xFF\xFF", "-1"),
            (Binary::Int8, b"\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "9223372036854775807"),
            (Binary::Oid, b"\xFF\xFF\xFF\xFF", "4294967295"),
            (Binary::Xid8, b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", "18446744073709551615"),
            (
                Binary::Uuid,
                b"\x01\x9A\xA3\xD1\x2C\x5B\x70\0\x80\0\0\0\0\0\0\x01",
                "019aa3d1-2c5b-7000-8000-000000000001",
            ),
        ] {
            assert_eq!(text(binary, value).as_deref(), Some(expected), "{binary:?}");
        }
    }

    #[test]
    fn values_of_another_length_or_version_are_refused() {
        for (_, name, binary) in TYPES {
            if !matches!(binary, Binary::Text | Binary::Bytea | Binary::Bool) {
                assert_eq!(text(binary, b""), None, "{name}");
                assert_eq!(text(binary, b"\x02\x03\x04"), None, "{name}");
            }
        }
    }

    #[test]
    fn types_are_those_of_the_catalog() {
        for (oid, name, binary) in TYPES {
            let known = tokio_postgres::types::Type::from_oid(oid).unwrap();
            assert_eq!(known.name(), name);
            assert_eq!((built_in(name), Binary::of(oid)), (Some(oid), Some(binary)));
        }
        // An array, an interval, and money, whose text depends on the server's locale.
        assert!([1009, 1186, 790].into_iter().all(|oid| Binary::of(oid).is_none()));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            at in 0..TYPES.len(), value in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let _ = TYPES[at].2.text(&value, &mut Vec::new());
        }
    }
}
