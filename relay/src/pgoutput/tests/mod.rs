//! The decoder against an independent one, on valid, damaged and arbitrary bytes, and on frames recorded
//! from a server.

mod corpus;
mod model;
mod naive;

use proptest::prelude::*;

use self::model::{Model, any_model};
use super::{CopyMessage, DecodeError, Message, PgTime};
use crate::lsn::Lsn;

/// Decodes as the relay does, into what can be compared.
fn decode(body: &[u8]) -> Option<Model> {
    Message::parse(body).ok().map(Model::from)
}

/// One way of damaging a message.
#[derive(Debug, Clone)]
enum Damage {
    Replace(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Append(u8),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    let damage = prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
        any::<u8>().prop_map(Damage::Append),
    ];
    prop::collection::vec(damage, 1..4)
}

fn damage(mut body: Vec<u8>, damages: Vec<Damage>) -> Vec<u8> {
    for damage in damages {
        match damage {
            Damage::Replace(at, byte) if !body.is_empty() => {
                let at = at.index(body.len());
                body[at] = byte;
            }
            Damage::Cut(at) if !body.is_empty() => body.truncate(at.index(body.len())),
            Damage::Append(byte) => body.push(byte),
            Damage::Replace(..) | Damage::Cut(_) => {}
        }
    }
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_message_is_decoded_as_it_was_encoded(model in any_model()) {
        let body = model.encode();
        prop_assert_eq!(naive::decode(&body), Some(model.clone()));
        prop_assert_eq!(decode(&body), Some(model));
    }

    #[test]
    fn damaged_messages_are_judged_like_the_naive_decoder_judges_them(
        model in any_model(),
        damages in damages(),
    ) {
        let body = damage(model.encode(), damages);
        prop_assert_eq!(decode(&body), naive::decode(&body));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in prop::sample::select(b"BCORYIUDTMX".to_vec()),
        mut body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        body.insert(0, kind);
        prop_assert_eq!(decode(&body), naive::decode(&body));
        let _ = CopyMessage::parse(&body);
        let _ = CopyMessage::parse(&body[1..]);
    }

    #[test]
    fn every_prefix_is_an_error(model in any_model(), at in any::<prop::sample::Index>()) {
        let body = model.encode();
        prop_assert!(Message::parse(&body[..at.index(body.len())]).is_err());
    }
}

#[test]
fn the_envelope_is_taken_off() {
    let mut payload = vec![b'w'];
    payload.extend(1u64.to_be_bytes());
    payload.extend(2u64.to_be_bytes());
    payload.extend((-3i64).to_be_bytes());
    payload.extend(b"body");
    let expected =
        CopyMessage::XLogData { wal_start: Lsn(1), wal_end: Lsn(2), send_time: PgTime(-3), body: b"body" };
    assert_eq!(CopyMessage::parse(&payload), Ok(expected));

    let mut payload = vec![b'k'];
    payload.extend(7u64.to_be_bytes());
    payload.extend(8i64.to_be_bytes());
    payload.push(1);
    let expected = CopyMessage::Keepalive { wal_end: Lsn(7), send_time: PgTime(8), reply_requested: true };
    assert_eq!(CopyMessage::parse(&payload), Ok(expected));

    payload.push(0);
    let leftover = DecodeError::Leftover { expected: "the keepalive", offset: 18, left: 1 };
    assert_eq!(CopyMessage::parse(&payload), Err(leftover));
}

#[test]
fn an_unknown_message_names_its_byte() {
    let error = Message::parse(b"S").unwrap_err();
    assert_eq!(error.to_string(), "expected a known message at offset 0, but found byte 0x53 (`S`)");
    let error = CopyMessage::parse(&[0xFF]).unwrap_err();
    assert!(error.to_string().ends_with(r"found byte 0xFF (`\xff`)"), "{error}");
}

#[test]
fn an_error_says_what_was_expected_and_where() {
    let error = Message::parse(b"I\0\0\0\x01N\0\x01t\0\0\0\x09abc").unwrap_err();
    let text = "expected a column's text (9 bytes) at offset 13, but only 3 bytes are left";
    assert_eq!(error.to_string(), text);
}
