//! What is written comes back, fits, and nothing else is believed.

use proptest::prelude::*;

use super::*;

fn entry() -> impl Strategy<Value = (u16, Vec<(u64, u32, u16)>)> {
    let distance = prop_oneof![0..1_000_u64, 0..(i64::MAX as u64 / 2)];
    (any::<u16>(), prop::collection::vec((distance, any::<u32>(), any::<u16>()), 0..=NAMED_LIMIT))
}

fn journal(offset: i64, (starts, named): (u16, Vec<(u64, u32, u16)>)) -> Entry {
    let named = named.into_iter().map(|(d, id, deaths)| Named { offset: offset + d as i64, id, deaths });
    Entry { starts, named: named.collect() }
}

fn completed(offset: i64, gaps: Vec<(i64, i64)>) -> Completed {
    let (mut completed, mut end) = (Completed::NONE, offset);
    for (gap, length) in gaps {
        completed.push(end + gap..end + gap + length);
        end += gap + length;
    }
    completed
}

fn gaps(most: usize) -> impl Strategy<Value = Vec<(i64, i64)>> {
    let number = || prop_oneof![4 => 1..40_i64, 1 => 1..100_000_i64, 1 => 1..(1_i64 << 40)];
    prop::collection::vec((number(), number()), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_fits_comes_back(offset in 0..i64::MAX / 4, entry in entry(), gaps in gaps(100)) {
        let (journal, completed) = (journal(offset, entry), completed(offset, gaps));
        let text = write(offset, &journal, &completed, DEFAULT_LIMIT);
        prop_assert!(text.is_ascii() && text.len() <= DEFAULT_LIMIT);
        prop_assert_eq!(parse(offset, text.as_bytes()), Ok(Metadata { journal, completed }));
    }

    #[test]
    fn the_journal_and_the_lowest_ranges_fit_any_limit(
        offset in 0..i64::MAX / 4, entry in entry(), gaps in gaps(400), limit in 0..600_usize,
    ) {
        let (journal, completed) = (journal(offset, entry), completed(offset, gaps));
        let text = write(offset, &journal, &completed, limit);
        prop_assert!(text.len() <= limit.max(JOURNAL_LIMIT), "{} bytes", text.len());
        let read = parse(offset, text.as_bytes()).unwrap();
        prop_assert_eq!(&read.journal, &journal);
        let kept = read.completed.ranges().len();
        prop_assert_eq!(read.completed.ranges(), &completed.ranges()[..kept]);
        if let Some(next) = completed.ranges().get(kept) {
            // No range was left out that would have fitted.
            let mut more = read.completed.clone();
            more.push(next.clone());
            prop_assert_ne!(parse(offset, write(offset, &journal, &more, limit).as_bytes()).unwrap().completed, more);
        }
    }

    #[test]
    fn damage_is_noticed(
        offset in 0..1_000_000_i64, entry in entry(), gaps in gaps(40),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>(), cuts in any::<bool>(),
    ) {
        let text = write(offset, &journal(offset, entry), &completed(offset, gaps), DEFAULT_LIMIT);
        prop_assume!(!text.is_empty());
        let mut bytes = text.clone().into_bytes();
        if cuts {
            bytes.truncate(1 + cut % bytes.len());
        }
        for (place, byte) in damage {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        prop_assume!(bytes != text.as_bytes());
        prop_assert!(parse(offset, &bytes).is_err(), "{:?}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_bytes_are_survived(offset in any::<i64>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(offset, &bytes);
        // With a right checksum the numbers are read: they may say anything.
        let body: Vec<u8> = bytes.iter().map(|b| b"ABCghi012-_"[usize::from(*b) % 11]).collect();
        let mut text = [HEAD.as_bytes(), &body].concat();
        text.extend(digits::checksum(offset, &text).bytes());
        if let Ok(read) = parse(offset, &text) {
            prop_assert!(read.completed.ranges().iter().all(|r| r.start > offset));
            prop_assert!(read.journal.named.iter().all(|n| n.offset >= offset));
        }
    }
}

#[test]
fn the_text_is_fixed() {
    // Deployed groups hold such texts: a change of the form needs a new version.
    let journal = Entry { starts: 2, named: vec![Named { offset: 45, id: 0xdead_beef, deaths: 1 }] };
    let mut completed = Completed::NONE;
    completed.push(44..45);
    completed.push(50..90);
    let text = write(42, &journal, &completed, DEFAULT_LIMIT);
    assert!(text.starts_with("ob1.CBD"), "{text}");
    assert_eq!(parse(42, text.as_bytes()), Ok(Metadata { journal, completed }));
    assert_eq!(parse(43, text.as_bytes()), Err(Foreign::Damaged), "the text of another offset");
}

#[test]
fn more_names_than_are_written_are_not_read() {
    // Otherwise the text that a process writes next could not hold what it read.
    let mut text = String::from(HEAD);
    digits::put(&mut text, 1);
    digits::put(&mut text, NAMED_LIMIT as u64 + 1);
    (0..3 * (NAMED_LIMIT as u64 + 1)).for_each(|number| digits::put(&mut text, number));
    text += &digits::checksum(0, text.as_bytes());
    assert_eq!(parse(0, text.as_bytes()), Err(Foreign::Damaged));
}

#[test]
fn what_others_wrote_is_named() {
    assert_eq!(parse(0, b""), Ok(Metadata::default()));
    assert_eq!(parse(0, b"0@host-1"), Err(Foreign::NotOurs));
    assert_eq!(parse(0, b"ob2.whatever"), Err(Foreign::OtherVersion));
    assert_eq!(parse(0, b"ob1."), Err(Foreign::Damaged));
    assert_eq!(parse(0, b"object"), Err(Foreign::NotOurs));
    assert_eq!(parse(0, &[0xff, 0xfe]), Err(Foreign::NotOurs));
}
