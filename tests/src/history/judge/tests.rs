//! Hand-made histories: good ones pass, and each kind of fault is found as what it is.

use super::*;

/// Event `n` of a key.
fn row(key: &str, n: u64) -> Committed {
    Committed {
        id: format!("{key}-{n}"),
        topic: "t".into(),
        key: key.into(),
        value: Some(format!("{key} {n}").into_bytes()),
        headers: vec![("id".into(), format!("{key}-{n}").into()), ("type".into(), "made".into())],
        order: Some(n),
    }
}

/// The record of a row, by the rules, at a position.
fn record(row: &Committed, epoch: u64, lsn: u64, ordinal: u64) -> Published {
    let mut headers = row.headers.clone();
    headers.push(("position".into(), Position { epoch, commit_lsn: lsn, ordinal }.to_string().into()));
    Published {
        topic: row.topic.clone(),
        partition: 0,
        offset: 0,
        key: Some(row.key.clone()),
        value: row.value.clone(),
        headers,
    }
}

/// Three events of one key, each in a transaction of its own, and their records.
fn good() -> (Vec<Committed>, Vec<Published>) {
    let rows: Vec<_> = (1..=3).map(|n| row("k", n)).collect();
    let records = rows.iter().zip([100, 200, 300]).map(|(row, lsn)| record(row, 1, lsn, 0)).collect();
    (rows, records)
}

/// `lost reordered phantoms altered misplaced`.
fn faults(verdict: &Verdict) -> [u64; 5] {
    [verdict.lost, verdict.reordered, verdict.phantoms, verdict.altered, verdict.misplaced]
}

#[track_caller]
fn expect(rows: &[Committed], records: &[Published], expected: [u64; 5]) -> Verdict {
    let verdict = judge(rows, records);
    assert_eq!(faults(&verdict), expected, "{verdict}\n{:#?}", verdict.examples);
    assert_eq!(verdict.passes(), expected == [0; 5]);
    verdict
}

#[test]
fn a_good_history_passes() {
    let (rows, records) = good();
    let verdict = expect(&rows, &records, [0; 5]);
    assert_eq!((verdict.committed, verdict.published, verdict.repeated), (3, 3, 0));
    expect(&[], &[], [0; 5]);
}

#[test]
fn a_repeated_suffix_passes() {
    let (rows, mut records) = good();
    records.extend_from_within(1..);
    let verdict = expect(&rows, &records, [0; 5]);
    assert_eq!((verdict.published, verdict.repeated, verdict.ragged), (3, 2, 0));
}

#[test]
fn a_repetition_with_a_hole_is_ragged() {
    let (rows, mut records) = good();
    records.extend([records[0].clone(), records[2].clone()]);
    let verdict = expect(&rows, &records, [0; 5]);
    assert_eq!((verdict.repeated, verdict.ragged), (2, 1));
}

#[test]
fn a_missing_event_is_lost() {
    let (rows, mut records) = good();
    records.remove(1);
    expect(&rows, &records, [1, 0, 0, 0, 0]);
}

#[test]
fn an_event_nobody_committed_is_a_phantom_once() {
    let (rows, mut records) = good();
    let rolled_back = record(&row("other", 1), 1, 400, 0);
    records.extend([rolled_back.clone(), rolled_back]);
    let verdict = expect(&rows, &records, [0, 0, 1, 0, 0]);
    assert_eq!((verdict.published, verdict.repeated), (4, 1));
}

#[test]
fn first_occurrences_out_of_order_are_found_by_the_data_and_by_positions() {
    let (rows, mut records) = good();
    records.swap(1, 2);
    expect(&rows, &records, [0, 1, 0, 0, 1]);
    // The relay believed in that order: positions rise, only the data tells.
    let (rows, _) = good();
    let records = [(0, 100), (2, 200), (1, 300)].map(|(n, lsn)| record(&rows[n], 1, lsn, 0));
    expect(&rows, &records, [0, 1, 0, 0, 0]);
}

#[test]
fn keys_have_no_order_among_each_other() {
    let rows = [row("a", 1), row("a", 2), row("b", 1)];
    let records = [record(&rows[2], 1, 300, 0), record(&rows[0], 1, 100, 0), record(&rows[1], 1, 200, 0)];
    expect(&rows, &records, [0; 5]);
}

#[test]
fn the_same_key_of_another_topic_is_another_key() {
    let (rows, mut records) = good();
    let mut other = row("k", 1);
    other.id = "elsewhere".into();
    other.topic = "u".into();
    other.headers[0].1 = other.id.clone().into_bytes();
    records.push(Published { partition: 7, ..record(&other, 1, 50, 0) });
    expect(&[rows, vec![other]].concat(), &records, [0; 5]);
}

#[test]
fn altered_contents_are_found() {
    type Change = fn(&mut Published);
    let changes: [(&str, Change); 9] = [
        ("topic", |record| record.topic = "u".into()),
        ("key", |record| record.key = Some(b"other".to_vec())),
        ("no key", |record| record.key = None),
        ("value", |record| record.value = Some(b"k  2".to_vec())),
        ("tombstone", |record| record.value = None),
        ("header's value", |record| record.headers[1].1 = b"Made".to_vec()),
        ("header more", |record| record.headers.push(("tenant".into(), b"eu".to_vec()))),
        ("header less", |record| drop(record.headers.remove(1))),
        ("headers' order", |record| record.headers.swap(0, 1)),
    ];
    for (name, change) in changes {
        let (rows, mut records) = good();
        change(&mut records[1]);
        let verdict = judge(&rows, &records);
        assert_eq!(faults(&verdict), [0, 0, 0, 1, 0], "{name}: {:#?}", verdict.examples);
    }
}

#[test]
fn a_repetition_that_differs_is_altered() {
    let (rows, mut records) = good();
    let mut copy = records[2].clone();
    copy.value = Some(b"other".to_vec());
    records.push(copy);
    expect(&rows, &records, [0, 0, 0, 1, 0]);
}

#[test]
fn a_record_without_an_id_is_altered_and_its_event_lost() {
    let (rows, mut records) = good();
    records[1].headers.remove(0);
    expect(&rows, &records, [1, 0, 0, 1, 0]);
}

#[test]
fn two_rows_of_one_id_are_no_ground_truth() {
    let (mut rows, records) = good();
    rows.push(rows[0].clone());
    expect(&rows, &records, [0, 0, 0, 1, 0]);
}

#[test]
fn a_position_that_goes_back_is_found() {
    let (rows, mut records) = good();
    records[1] = record(&rows[1], 1, 90, 0);
    expect(&rows, &records, [0, 0, 0, 0, 1]);
    // Within one transaction the ordinal orders.
    let records = [(0, 1), (1, 0), (2, 2)].map(|(n, ordinal)| record(&rows[n], 1, 100, ordinal));
    expect(&rows, &records, [0, 0, 0, 0, 1]);
}

#[test]
fn a_new_epoch_is_above_any_position_of_the_old() {
    let (rows, mut records) = good();
    records[2] = record(&rows[2], 2, 0, 1);
    expect(&rows, &records, [0; 5]);
}

#[test]
fn a_missing_or_mangled_position_is_found() {
    let (rows, mut records) = good();
    records[0].headers.pop();
    records[1].headers[2].1 = b"1/c8/0".to_vec();
    expect(&rows, &records, [0, 0, 0, 0, 2]);
}

#[test]
fn copies_keep_their_position_within_an_epoch_only() {
    let (rows, mut records) = good();
    records.push(record(&rows[2], 1, 301, 0));
    expect(&rows, &records, [0, 0, 0, 0, 1]);
    *records.last_mut().unwrap() = record(&rows[2], 2, 50, 0);
    expect(&rows, &records, [0; 5]);
    // The second copy of the later epoch is held to the first one of that epoch.
    records.push(record(&rows[2], 2, 51, 0));
    expect(&rows, &records, [0, 0, 0, 0, 1]);
}

#[test]
fn a_position_belongs_to_one_event() {
    let rows = [row("a", 1), row("b", 1)];
    let records = [record(&rows[0], 1, 100, 0), record(&rows[1], 1, 100, 0)];
    expect(&rows, &records, [0, 0, 0, 0, 1]);
}

#[test]
fn a_key_that_moves_to_another_partition_is_found_once() {
    let (rows, mut records) = good();
    records[1].partition = 1;
    records[2].partition = 1;
    expect(&rows, &records, [0, 0, 0, 0, 1]);
}
