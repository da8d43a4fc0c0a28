//! The rules one by one.

use super::*;

const LANE: Lane = Lane { topic: 1, partition: 0, epoch: 1 };
const OTHER: Lane = Lane { topic: 1, partition: 1, epoch: 2 };

fn record(lane: Lane, offset: i64) -> Record {
    Record { lane, offset, id: offset as u32 + 100 }
}

fn commit(journal: &mut Journal) {
    for lane in journal.to_commit().collect::<Vec<_>>() {
        let (_, sent) = journal.sending(lane).unwrap();
        journal.acknowledged(sent);
    }
    assert_eq!(journal.to_commit().count(), 0);
}

fn start(journal: &mut Journal, record: Record) -> Started {
    assert_eq!(journal.about_to_start(record), Permit::CommitFirst);
    commit(journal);
    match journal.about_to_start(record) {
        Permit::Start(started) => started,
        other => panic!("{other:?}"),
    }
}

fn written(journal: &mut Journal, lane: Lane) -> Entry {
    journal.sending(lane).unwrap().0.clone()
}

fn suspicious() -> Entry {
    Entry { starts: 1, named: Vec::new() }
}

#[test]
fn the_first_handler_waits_for_the_count() {
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, Entry::default());
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::CommitFirst);
    assert_eq!(written(&mut journal, LANE), suspicious());
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::CommitFirst, "sent is not acknowledged");
    commit(&mut journal);
    let (_, sent) = journal.sending(LANE).unwrap();
    journal.acknowledged(sent);
    let first = journal.about_to_start(record(LANE, 7));
    let second = journal.about_to_start(record(LANE, 8));
    assert!(matches!((first, second), (Permit::Start(_), Permit::Start(_))), "the rest costs nothing");
    journal.progressed(LANE, 8);
    assert_eq!(written(&mut journal, LANE), Entry::default(), "progress resets the count");
}

#[test]
fn an_answer_of_a_former_assignment_permits_nothing() {
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, Entry::default());
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::CommitFirst);
    let (_, sent) = journal.sending(LANE).unwrap();
    journal.lost(LANE);
    let again = Lane { epoch: 9, ..LANE };
    journal.assigned(again, 7, Entry::default());
    journal.acknowledged(sent);
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::Gone);
    assert_eq!(journal.about_to_start(record(again, 7)), Permit::CommitFirst);
}

#[test]
fn a_second_unclean_start_isolates_the_whole_process() {
    let mut journal = Journal::new(3);
    journal.assigned(OTHER, 0, Entry::default());
    let neighbour = start(&mut journal, record(OTHER, 0));
    journal.assigned(LANE, 7, suspicious());
    assert!(!journal.is_isolated(), "nothing of the partition has run");
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::Wait, "a neighbour runs");
    assert!(journal.is_isolated() && journal.in_doubt(LANE) && !journal.in_doubt(OTHER));
    journal.ended(neighbour, Ending::Settled);
    let started = start(&mut journal, record(LANE, 7));
    assert_eq!(written(&mut journal, LANE).named, [Named { offset: 7, id: 107, deaths: 1 }]);
    assert_eq!(journal.about_to_start(record(OTHER, 1)), Permit::Wait);
    journal.ended(started, Ending::Settled);
    assert_eq!(journal.about_to_start(record(OTHER, 1)), Permit::CommitFirst, "the name is still committed");
    let started = start(&mut journal, record(OTHER, 1));
    journal.ended(started, Ending::Survived);
    assert!(journal.is_isolated(), "nobody is named for the first death");
    journal.drained(LANE);
    assert!(!journal.is_isolated());
}

#[test]
fn whoever_is_named_and_the_park_wait_for_each_other() {
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, suspicious());
    assert!(journal.parked_starts() && journal.parked_starts(), "nothing of the partition has run");
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::Wait, "the park runs");
    assert!(!journal.parked_starts(), "and no more of it begins");
    commit(&mut journal);
    journal.parked_ended();
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::Wait, "one is left");
    assert_eq!(written(&mut journal, LANE).named, [], "nobody is named meanwhile");
    journal.parked_ended();
    let started = start(&mut journal, record(LANE, 7));
    assert!(!journal.parked_starts(), "a suspect runs");
    journal.ended(started, Ending::Settled);
    journal.drained(LANE);
    assert!(!journal.is_isolated() && !journal.parked_starts(), "its name is still committed");
    commit(&mut journal);
    assert!(journal.parked_may_start() && journal.parked_starts());
    let beside = journal.about_to_start(record(LANE, 8));
    assert!(matches!(beside, Permit::Start(_)), "without a suspect nobody waits for anybody");
}

#[test]
fn a_suspect_is_counted_convicted_and_forgotten() {
    let mut entry = suspicious();
    for deaths in 0..3 {
        let mut journal = Journal::new(3);
        journal.assigned(LANE, 7, entry);
        let _dies = start(&mut journal, record(LANE, 9));
        entry = written(&mut journal, LANE);
        assert_eq!(entry.deaths(9, 109), deaths + 1);
    }
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, entry);
    let stranger = Record { id: 1, ..record(LANE, 9) };
    assert_eq!(journal.about_to_start(stranger), Permit::CommitFirst, "another event at the same offset");
    journal.abandoned(stranger);
    journal.assigned(LANE, 7, Entry { starts: 4, named: vec![Named { offset: 9, id: 109, deaths: 3 }] });
    assert_eq!(journal.about_to_start(record(LANE, 9)), Permit::Convict { deaths: 3 });
    journal.settled_unstarted(record(LANE, 9));
    assert!(!journal.is_isolated());
}

#[test]
fn what_a_living_process_hears_takes_the_count_back() {
    let named = |deaths| Entry { starts: 2, named: vec![Named { offset: 7, id: 107, deaths }] };
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, named(1));
    let started = start(&mut journal, record(LANE, 7));
    assert_eq!(written(&mut journal, LANE).deaths(7, 107), 2);
    journal.ended(started, Ending::Survived);
    assert_eq!(journal.to_commit().collect::<Vec<_>>(), [LANE], "an outside killer may come: say so now");
    assert_eq!(written(&mut journal, LANE).named, named(1).named);
    let _running = start(&mut journal, record(LANE, 7));
    assert_eq!(journal.revoked(LANE), Some(named(1)), "revoked in order: this start and this count go");
    assert_eq!(journal.about_to_start(record(LANE, 7)), Permit::Gone);
}

#[test]
fn a_loss_of_a_living_process_is_taken_back_when_it_returns() {
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, suspicious());
    let _running = start(&mut journal, record(LANE, 7));
    let left = written(&mut journal, LANE);
    journal.lost(LANE);
    let again = Lane { epoch: 9, ..LANE };
    journal.assigned(again, 7, left.clone());
    assert_eq!(written(&mut journal, again), suspicious());
    // Had another process died of it meanwhile, its count would stay.
    journal.lost(again);
    let more = Entry { starts: 3, named: vec![Named { offset: 7, id: 107, deaths: 2 }] };
    journal.assigned(LANE, 7, more.clone());
    assert_eq!(written(&mut journal, LANE), more);
}

#[test]
fn a_clean_stop_leaves_no_start_but_the_evidence() {
    let named = vec![Named { offset: 7, id: 107, deaths: 2 }];
    let mut journal = Journal::new(3);
    journal.assigned(LANE, 7, Entry { starts: 2, named: named.clone() });
    assert_eq!(journal.about_to_start(record(LANE, 8)), Permit::CommitFirst);
    assert_eq!(journal.stopped(LANE), Some(Entry { starts: 0, named }));
    assert!(!journal.is_isolated());
}

#[test]
fn a_full_entry_keeps_the_evidence() {
    let mut entry = Entry::default();
    entry.name(0, 0);
    for offset in 0..10 {
        entry.name(offset, 0);
    }
    assert_eq!(entry.named.len(), NAMED_LIMIT);
    assert_eq!(entry.deaths(0, 0), 2);
    assert_eq!(entry.deaths(9, 0), 1, "the newest is the one that is about to start");
}
