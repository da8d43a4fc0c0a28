//! Frames recorded from a real server; `corpus/pgoutput/README.md` has the statements behind them.

use std::collections::BTreeMap;

use super::{decode, naive};
use crate::damage::all_damages;
use crate::lsn::Lsn;
use crate::pgoutput::{Column, CopyMessage, Message, cut_insert, cut_message};

const TEXT: &[u8] = include_bytes!("../../../corpus/pgoutput/text.bin");
const BINARY: &[u8] = include_bytes!("../../../corpus/pgoutput/binary-and-messages.bin");

/// The payloads of a recording.
fn payloads(mut recording: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while let Some(([b'd', length @ ..], rest)) = recording.split_first_chunk::<5>() {
        let (payload, rest) = rest.split_at(u32::from_be_bytes(*length) as usize - 4);
        payloads.push(payload);
        recording = rest;
    }
    assert!(recording.is_empty(), "the recording is whole");
    payloads
}

/// The messages of a recording with the position each was sent under.
fn messages(recording: &[u8]) -> Vec<(Lsn, Message<'_>)> {
    let mut messages = Vec::new();
    for payload in payloads(recording) {
        if let CopyMessage::XLogData { wal_start, body, .. } = CopyMessage::parse(payload).unwrap() {
            let message = Message::parse(body).unwrap();
            assert_eq!(decode(body), naive::decode(body));
            messages.push((wal_start, message));
        }
    }
    messages
}

fn count(recording: &[u8]) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    let mut add = |name| *counts.entry(name).or_default() += 1;
    for payload in payloads(recording) {
        if let CopyMessage::Keepalive { .. } = CopyMessage::parse(payload).unwrap() {
            add("keepalive");
        }
    }
    let mut column = |value: Column<'_>| match value {
        Column::Null => add("null"),
        Column::Unchanged => add("unchanged"),
        Column::Text(_) => add("text"),
        Column::Binary(_) => add("binary"),
    };
    let messages = messages(recording);
    for (_, message) in &messages {
        match message {
            Message::Insert { tuple: row, .. } | Message::Delete { old: row, .. } => {
                row.iter().for_each(&mut column)
            }
            Message::Update { old, new, .. } => {
                old.iter().copied().flatten().chain(new.iter()).for_each(&mut column)
            }
            _ => {}
        }
    }
    for (_, message) in messages {
        add(match message {
            Message::Begin { .. } => "begin",
            Message::Commit { .. } => "commit",
            Message::Origin { .. } => "origin",
            Message::Relation(_) => "relation",
            Message::Type { .. } => "type",
            Message::Insert { .. } => "insert",
            Message::Update { .. } => "update",
            Message::Delete { .. } => "delete",
            Message::Truncate(_) => "truncate",
            Message::Logical(_) => "message",
        });
    }
    counts
}

#[test]
fn every_kind_of_message_is_found_as_often_as_it_was_sent() {
    let both = [
        ("delete", 3),
        ("insert", 74),
        ("null", 97),
        ("origin", 1),
        ("relation", 10),
        ("truncate", 2),
        ("type", 2),
        ("unchanged", 2),
        ("update", 5),
    ];
    let text = [("begin", 19), ("commit", 19), ("keepalive", 3), ("text", 251)];
    let binary = [("begin", 20), ("commit", 20), ("keepalive", 4), ("binary", 251), ("message", 3)];
    assert_eq!(count(TEXT), both.into_iter().chain(text).collect());
    assert_eq!(count(BINARY), both.into_iter().chain(binary).collect());
}

#[test]
fn a_commit_closes_what_its_begin_opened() {
    for recording in [TEXT, BINARY] {
        let mut open = None;
        let mut last_end = Lsn::ZERO;
        for (wal_start, message) in messages(recording) {
            match message {
                Message::Begin { final_lsn, commit_time, .. } => {
                    assert_eq!(open.replace((final_lsn, commit_time)), None);
                    assert!(last_end <= final_lsn, "transactions come in commit order");
                }
                Message::Commit { commit_lsn, end_lsn, commit_time, .. } => {
                    assert_eq!(open.take(), Some((commit_lsn, commit_time)));
                    assert!(commit_lsn < end_lsn);
                    assert_eq!(wal_start, end_lsn, "a Commit is sent under its end");
                    last_end = end_lsn;
                }
                Message::Logical(message) => assert_eq!(open.is_some(), message.transactional),
                _ => assert!(open.is_some(), "{message:?} outside a transaction"),
            }
        }
        assert_eq!(open, None);
    }
}

#[test]
fn values_are_the_servers_bytes() {
    let messages = messages(TEXT);
    let rows: Vec<Vec<Column<'_>>> = messages
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Insert { tuple, .. } => Some(tuple.iter().collect()),
            _ => None,
        })
        .collect();
    let unicode = "Grüße, 世界 🎉 'quoted' \"x\"".as_bytes();
    assert_eq!(rows[2][..2], [Column::Text(b"3"), Column::Text(unicode)]);
    assert_eq!(rows[1][1..], [Column::Null; 3]);
    assert!(rows.iter().flatten().any(|column| matches!(column, Column::Text(text) if text.len() == 19_200)));
    assert!(rows.iter().any(Vec::is_empty), "a row of a table without columns");
}

#[test]
fn tables_are_described_under_their_names() {
    let mut names = Vec::new();
    for (_, message) in messages(TEXT) {
        if let Message::Relation(relation) = message {
            let columns: Vec<_> = relation.columns().map(|column| column.name).collect();
            names.push(format!("{}.{}({})", relation.namespace, relation.name, columns.join(",")));
        }
    }
    names.dedup();
    assert!(names.contains(&"shop.Odd \"name\"(a \"b\")".to_owned()), "{names:?}");
    assert!(names.contains(&"shop.orders(id,payload,big,extra)".to_owned()), "{names:?}");
}

#[test]
fn logical_messages_carry_prefix_and_content() {
    let mut found = Vec::new();
    for (_, message) in messages(BINARY) {
        if let Message::Logical(message) = message {
            found.push((message.transactional, message.prefix, message.content));
        }
    }
    let transactional = "transactional é".as_bytes();
    assert_eq!(found, [(true, "outbox", transactional), (false, "outbox", b"at once"), (true, "", b"")]);
}

/// What the relay does with the payload of a frame, on two ways of reading its message that have to agree.
fn read_or_refused(payload: &[u8]) -> bool {
    match CopyMessage::parse(payload) {
        Ok(CopyMessage::XLogData { body, .. }) => {
            let message = decode(body);
            assert_eq!(message, naive::decode(body));
            // The beginning of a row that is too large; here it may be the beginning of anything.
            let _ = cut_insert(body);
            let _ = cut_message(body);
            message.is_some()
        }
        Ok(CopyMessage::Keepalive { .. }) => true,
        Err(_) => false,
    }
}

#[test]
fn a_damaged_recording_is_read_as_the_naive_decoder_reads_it_or_refused() {
    for recording in [TEXT, BINARY] {
        let payloads = payloads(recording);
        for (payload, seed) in payloads.iter().zip(0..) {
            let (mut seen, mut read) = (0, 0);
            all_damages(payload, &payloads, seed, |bytes| {
                seen += 1;
                read += usize::from(read_or_refused(bytes));
            });
            assert!(read > 0 && read < seen, "{read} of {seen} were read");
        }
    }
}
