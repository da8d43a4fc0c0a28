//! One test per case of the comparison, and what holds for any facts.

use std::sync::LazyLock;

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::config::{Answer, Existing, Loss, RecoverySettings};
use crate::ledger::LastPublished;
use crate::state::PublishedSnapshot;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const LAST: LastPublished = LastPublished { end_lsn: Lsn(0x180), xid: 7, commit_time: 70 };

fn record() -> StateRecord {
    let mut record = StateRecord::first("orders", 0, "42", 2, Lsn(0x200));
    record.ceiling = Lsn(0x300);
    record.epoch = 5;
    record.last_published = Some(LAST);
    for lsn in [0x100, 0x150, 0x1F0] {
        let taken_at = jiff::Timestamp::UNIX_EPOCH;
        record.ring.push(PublishedSnapshot { lsn: Lsn(lsn), snapshot: format!("{lsn}:{lsn}:"), taken_at });
    }
    record
}

fn slot() -> SlotFacts {
    SlotFacts {
        confirmed_flush: Lsn(0x200),
        restart_lsn: Some(Lsn(0x90)),
        wal_status: Some("reserved".to_owned()),
        invalidation_reason: None,
        plugin: "pgoutput".to_owned(),
        database: "shop".to_owned(),
        temporary: false,
    }
}

fn slot_at(lsn: u64) -> SlotFacts {
    SlotFacts { confirmed_flush: Lsn(lsn), ..slot() }
}

fn server() -> ServerFacts {
    ServerFacts {
        system_id: "42".to_owned(),
        timeline: 2,
        history: vec![(1, Lsn(0x50))],
        wal_end: Lsn(0x400),
        database: "shop".to_owned(),
    }
}

/// The server on timeline 3, which left timeline 2 at `switch`.
fn promoted(switch: u64) -> ServerFacts {
    ServerFacts { timeline: 3, history: vec![(1, Lsn(0x50)), (2, Lsn(switch))], ..server() }
}

fn filling(base: Option<&str>, shared_lsn: u64) -> StateRecord {
    let base = base.map(str::to_owned);
    StateRecord { phase: RecordedPhase::Filling { base, shared_lsn: Lsn(shared_lsn) }, ..record() }
}

fn halting(existing: Existing, table_has_rows: bool) -> Wishes<'static> {
    static HALTING: LazyLock<RecoverySettings> = LazyLock::new(RecoverySettings::halting);
    Wishes { existing, table_has_rows, recovery: &HALTING, now: NOW, found: None }
}

fn decide(record: &StateRecord, slot: Option<&SlotFacts>, server: &ServerFacts) -> Decision {
    compare(Some(record), slot, server, &halting(Existing::Refuse, true))
}

/// As [`decide`], where every loss is answered with a fill.
fn recover(record: &StateRecord, slot: Option<&SlotFacts>, server: &ServerFacts) -> Decision {
    let recovery = filling_always();
    let wishes = Wishes { recovery: &recovery, ..halting(Existing::Refuse, true) };
    compare(Some(record), slot, server, &wishes)
}

fn filling_always() -> RecoverySettings {
    RecoverySettings {
        slot_gone: Answer::Fill,
        slot_invalidated: Answer::Fill,
        slot_ahead: Answer::Fill,
        failover: Answer::Fill,
        other_system: Answer::Fill,
        restored: Answer::Fill,
        ..RecoverySettings::halting()
    }
}

/// A fill from this base, with an epoch of its own, after this loss.
fn fills(decision: Decision, from: Option<&str>, shared: u64, after: Loss) {
    let Decision::Fill { epoch, base, shared_lsn, reason, .. } = decision else { panic!("{decision:?}") };
    assert_eq!((epoch, base.as_deref(), shared_lsn), (6, from, Lsn(shared)));
    assert_eq!(reason.and_then(|reason| reason.loss()), Some(after));
}

/// The decision is to halt, and its sentence contains each of the words.
fn halts(decision: Decision, words: &[&str]) {
    let Decision::Halt(reason) = decision else { panic!("{decision:?}") };
    let sentence = reason.to_string();
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in: {sentence}");
    }
}

#[test]
fn without_record_and_slot_it_asks() {
    let ask = |existing, rows| compare(None, None, &server(), &halting(existing, rows));
    halts(ask(Existing::Refuse, true), &["holds rows", "--existing=publish", "--existing=skip", "init"]);
    halts(ask(Existing::Refuse, false), &["no replication slot", "outbox-relay init"]);
    for rows in [true, false] {
        assert_eq!(ask(Existing::Skip, rows), Decision::MakeSlot);
        let fill =
            Decision::Fill { epoch: 1, base: None, shared_lsn: Lsn::ZERO, drop_slot: false, reason: None };
        assert_eq!(ask(Existing::Publish, rows), fill);
    }
}

#[test]
fn without_record_it_begins_at_a_sound_slot() {
    for existing in [Existing::Refuse, Existing::Publish, Existing::Skip] {
        let decision = compare(None, Some(&slot()), &server(), &halting(existing, true));
        assert_eq!(decision, Decision::Begin { position: Lsn(0x200) });
    }
    let lost = SlotFacts { wal_status: Some("lost".to_owned()), ..slot() };
    halts(compare(None, Some(&lost), &server(), &halting(Existing::Publish, true)), &["lost", "0/200"]);
}

#[test]
fn it_continues_at_the_record() {
    let decision = decide(&record(), Some(&slot()), &server());
    assert_eq!(decision, Decision::Continue { position: Lsn(0x200), must_meet: None });
    let at_position = ServerFacts { wal_end: Lsn(0x200), ..server() };
    assert!(matches!(decide(&record(), Some(&slot()), &at_position), Decision::Continue { .. }));
}

#[test]
fn below_the_last_published_transaction_that_one_has_to_be_met() {
    for at in [0x17F, 0x180, 0x1FF] {
        let decision = decide(&record(), Some(&slot_at(at)), &server());
        let Decision::Continue { position: Lsn(0x200), must_meet: Some(must_meet) } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((must_meet.expected(), must_meet.is_met()), (Some(LAST), false));
    }
    // Nothing was published yet: then no rows may be skipped, unless a failover has cut the record.
    for (epoch, proof) in [(1, true), (2, false)] {
        let unknown = StateRecord { last_published: None, epoch, ..record() };
        let decision = decide(&unknown, Some(&slot_at(0x100)), &server());
        let Decision::Continue { position: Lsn(0x200), must_meet } = decision else { panic!("{decision:?}") };
        assert_eq!(must_meet.is_some(), proof, "epoch {epoch}");
    }
}

#[test]
fn slots_that_cannot_be_used_halt() {
    let with = |change: fn(&mut SlotFacts)| {
        let mut slot = slot();
        change(&mut slot);
        decide(&record(), Some(&slot), &server())
    };
    halts(decide(&record(), None, &server()), &["gone", "between 0/200 and 0/400", "No new slot"]);
    halts(
        with(|s| s.invalidation_reason = Some("idle_timeout".to_owned())),
        &["(idle_timeout)", "after 0/200"],
    );
    halts(with(|s| s.wal_status = Some("lost".to_owned())), &["wal_status is lost", "after 0/200"]);
    halts(with(|s| s.restart_lsn = None), &["restart_lsn is NULL", "after 0/200"]);
    halts(with(|s| s.confirmed_flush = Lsn::ZERO), &["still being created", "pg_prepared_xacts"]);
    halts(with(|s| s.plugin = "wal2json".to_owned()), &["`wal2json`", "another name"]);
    halts(with(|s| s.database = "other".to_owned()), &["`other`", "`shop`"]);
    halts(with(|s| s.temporary = true), &["temporary", "synchronized_standby_slots"]);
    let extended = SlotFacts { wal_status: Some("unreserved".to_owned()), ..slot() };
    assert!(matches!(decide(&record(), Some(&extended), &server()), Decision::Continue { .. }));
}

#[test]
fn a_slot_ahead_of_the_record_is_a_gap() {
    halts(
        decide(&record(), Some(&slot_at(0x201)), &server()),
        &["between 0/200 and 0/201", "--existing=publish"],
    );
}

#[test]
fn another_system_halts_before_anything_else() {
    let other = ServerFacts { system_id: "43".to_owned(), ..server() };
    for slot in [None, Some(&slot())] {
        halts(decide(&record(), slot, &other), &["system 43", "system 42", "0/200"]);
        halts(decide(&filling(None, 0), slot, &other), &["system 43", "system 42"]);
    }
}

#[test]
fn a_server_below_the_position_was_restored() {
    let short = ServerFacts { wal_end: Lsn(0x1FF), ..server() };
    halts(decide(&record(), Some(&slot_at(0x100)), &short), &["ends at 0/1FF", "below 0/200", "restored"]);
}

#[test]
fn timelines_that_cannot_be_followed_halt() {
    let on = |timeline, history: &[(u32, Lsn)]| {
        let server = ServerFacts { timeline, history: history.to_vec(), ..server() };
        decide(&record(), Some(&slot_at(0x100)), &server)
    };
    halts(on(1, &[]), &["on timeline 1", "on timeline 2", "former primary"]);
    halts(on(3, &[]), &["timeline 3", "timeline 2", "00000003.history"]);
    halts(on(3, &[(1, Lsn(0x50))]), &["timeline 3", "does not contain timeline 2"]);
}

#[test]
fn a_switch_beyond_all_that_was_sent_loses_nothing() {
    for switch in [0x300, 0x350] {
        let decision = decide(&record(), Some(&slot_at(0x100)), &promoted(switch));
        let Decision::NewTimeline { record: cut, switch_point, possibly_lost, must_meet } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((switch_point, possibly_lost), (Lsn(switch), None));
        assert_eq!(*cut, StateRecord { timeline: 3, epoch: 6, ..record() });
        assert!(!must_meet.unwrap().is_met());
    }
}

#[test]
fn a_switch_below_the_ceiling_names_what_was_sent_beyond() {
    let decision = decide(&record(), Some(&slot()), &promoted(0x250));
    let Decision::NewTimeline { record: cut, possibly_lost, must_meet, .. } = decision else { panic!() };
    assert_eq!(possibly_lost, Some((Lsn(0x250), Lsn(0x300))));
    assert_eq!((cut.position, cut.ceiling, cut.last_published), (Lsn(0x200), Lsn(0x250), Some(LAST)));
    assert_eq!(must_meet, None, "nothing is skipped");
}

#[test]
fn a_switch_below_the_position_cuts_the_record() {
    let handed = StateRecord { highest_handed: Some(Lsn(0x280)), ..record() };
    let decision = decide(&handed, Some(&slot_at(0x100)), &promoted(0x160));
    let Decision::NewTimeline { record: cut, possibly_lost, must_meet, switch_point } = decision else {
        panic!()
    };
    assert_eq!((switch_point, possibly_lost), (Lsn(0x160), Some((Lsn(0x160), Lsn(0x300)))));
    assert_eq!((cut.timeline, cut.epoch, cut.position, cut.ceiling), (3, 6, Lsn(0x160), Lsn(0x160)));
    assert_eq!((cut.last_published, cut.highest_handed), (None, Some(Lsn(0x160))));
    assert_eq!(cut.ring.newest().unwrap().lsn, Lsn(0x150));
    assert_eq!(must_meet, None);

    // The position may be beyond a ceiling below which nothing was sent.
    let idle = StateRecord { ceiling: Lsn(0x100), last_published: None, ..record() };
    let decision = decide(&idle, Some(&slot_at(0x100)), &promoted(0x160));
    let Decision::NewTimeline { possibly_lost, .. } = decision else { panic!() };
    assert_eq!(possibly_lost, Some((Lsn(0x160), Lsn(0x200))));
}

#[test]
fn a_slot_ahead_after_a_switch_is_a_gap() {
    let words = ["timeline 3", "at 0/160", "between 0/160 and 0/161"];
    halts(decide(&record(), Some(&slot_at(0x161)), &promoted(0x160)), &words);
    halts(decide(&record(), Some(&slot_at(0x201)), &promoted(0x300)), &["between 0/200 and 0/201"]);
}

#[test]
fn of_several_switches_the_lowest_counts() {
    let twice = ServerFacts {
        timeline: 4,
        history: vec![(1, Lsn(0x50)), (2, Lsn(0x190)), (3, Lsn(0x260))],
        ..server()
    };
    let decision = decide(&record(), Some(&slot_at(0x100)), &twice);
    assert!(matches!(decision, Decision::NewTimeline { switch_point: Lsn(0x190), .. }), "{decision:?}");
}

#[test]
fn an_unfinished_fill_begins_again_with_its_own_base() {
    let lost = SlotFacts { restart_lsn: None, ..slot_at(0x390) };
    for (slot, drop_slot) in [(None, false), (Some(&slot_at(0x390)), true), (Some(&lost), true)] {
        let base = Some("5:6:".to_owned());
        let expected = Decision::Fill { epoch: 5, base, shared_lsn: Lsn(0x155), drop_slot, reason: None };
        assert_eq!(decide(&filling(Some("5:6:"), 0x155), slot, &server()), expected);
    }
    let foreign = SlotFacts { plugin: "wal2json".to_owned(), ..slot() };
    halts(decide(&filling(None, 0), Some(&foreign), &server()), &["`wal2json`"]);
    let short = ServerFacts { wal_end: Lsn(0x154), ..server() };
    halts(decide(&filling(Some("5:6:"), 0x155), None, &short), &["0/154", "0/155"]);
}

#[test]
fn an_unfinished_fill_on_a_new_timeline_keeps_only_a_shared_base() {
    let fill = |switch| decide(&filling(Some("5:6:"), 0x155), None, &promoted(switch));
    let expected = |base: &str, shared| Decision::Fill {
        epoch: 6,
        base: Some(base.to_owned()),
        shared_lsn: Lsn(shared),
        drop_slot: false,
        reason: None,
    };
    assert_eq!(fill(0x155), expected("5:6:", 0x155));
    assert_eq!(fill(0x154), expected("336:336:", 0x154));
    let none = Decision::Fill { epoch: 6, base: None, shared_lsn: Lsn(0x60), drop_slot: false, reason: None };
    assert_eq!(fill(0x60), none);
}

#[test]
fn a_lost_slot_is_filled_from_the_newest_published_snapshot() {
    fills(recover(&record(), None, &server()), Some("496:496:"), 0x200, Loss::SlotGone);
    let lost = SlotFacts { wal_status: Some("lost".to_owned()), ..slot() };
    fills(recover(&record(), Some(&lost), &server()), Some("496:496:"), 0x200, Loss::SlotInvalidated);
    fills(recover(&record(), Some(&slot_at(0x201)), &server()), Some("496:496:"), 0x200, Loss::SlotAhead);
    let empty = StateRecord { ring: crate::state::Ring::default(), ..record() };
    fills(recover(&empty, None, &server()), None, 0x200, Loss::SlotGone);
}

#[test]
fn after_a_failover_the_base_is_shared_by_both_histories() {
    for slot in [None, Some(&slot_at(0x161))] {
        fills(recover(&record(), slot, &promoted(0x160)), Some("336:336:"), 0x160, Loss::Failover);
    }
    fills(recover(&record(), None, &promoted(0x300)), Some("496:496:"), 0x200, Loss::Failover);
    fills(recover(&record(), None, &promoted(0x60)), None, 0x60, Loss::Failover);
    let said = decide(&record(), None, &promoted(0x160));
    halts(said, &["timeline 3 at 0/160", "after 0/160", "between 0/160 and 0/300"]);
}

#[test]
fn of_another_history_every_row_is_published_again() {
    let other = ServerFacts { system_id: "43".to_owned(), ..server() };
    let short = ServerFacts { wal_end: Lsn(0x1FF), ..server() };
    let sibling = ServerFacts { timeline: 3, history: vec![(1, Lsn(0x50))], ..server() };
    let former = ServerFacts { timeline: 1, history: Vec::new(), ..server() };
    for slot in [None, Some(&slot())] {
        fills(recover(&record(), slot, &other), None, 0, Loss::OtherSystem);
        for server in [&short, &sibling] {
            fills(recover(&record(), slot, server), None, 0, Loss::Restored);
        }
        halts(recover(&record(), slot, &former), &["former primary"]);
        // What the stream showed counts, though slot, server and record agree.
        let found = HaltReason::OtherHistory { expected: Some(LAST), seen: Lsn(0x400) };
        let recovery = filling_always();
        let wishes = Wishes { recovery: &recovery, found: Some(&found), ..halting(Existing::Refuse, true) };
        fills(compare(Some(&record()), slot, &server(), &wishes), None, 0, Loss::Restored);
    }
}

#[test]
fn each_loss_has_an_answer_of_its_own() {
    type Field = fn(&mut RecoverySettings) -> &mut Answer;
    let lost = SlotFacts { restart_lsn: None, ..slot() };
    let other = ServerFacts { system_id: "43".to_owned(), ..server() };
    let short = ServerFacts { wal_end: Lsn(0x1FF), ..server() };
    let (ahead, fine) = (slot_at(0x201), server());
    let promoted = promoted(0x160);
    let cases: [(Loss, Field, Option<&SlotFacts>, &ServerFacts); 6] = [
        (Loss::SlotGone, |r| &mut r.slot_gone, None, &fine),
        (Loss::SlotInvalidated, |r| &mut r.slot_invalidated, Some(&lost), &fine),
        (Loss::SlotAhead, |r| &mut r.slot_ahead, Some(&ahead), &fine),
        (Loss::Failover, |r| &mut r.failover, None, &promoted),
        (Loss::OtherSystem, |r| &mut r.other_system, None, &other),
        (Loss::Restored, |r| &mut r.restored, None, &short),
    ];
    assert_eq!(cases.map(|(loss, ..)| loss), Loss::ALL);
    for (loss, field, slot, server) in cases {
        let ask = |recovery: &RecoverySettings| {
            let wishes = Wishes { recovery, ..halting(Existing::Refuse, true) };
            compare(Some(&record()), slot, server, &wishes)
        };
        let mut only = RecoverySettings::halting();
        *field(&mut only) = Answer::Fill;
        assert!(matches!(ask(&only), Decision::Fill { .. }), "{loss:?}");
        let mut all_but = filling_always();
        *field(&mut all_but) = Answer::Halt;
        assert!(matches!(ask(&all_but), Decision::Halt(_)), "{loss:?}");
    }
}

#[test]
fn fills_are_bounded_within_a_window_and_foreign_slots_are_never_dropped() {
    let ago = |hours: i64| NOW - jiff::SignedDuration::from_hours(hours);
    let twice = StateRecord { fills: vec![ago(30), ago(25), ago(23), ago(1)], ..record() };
    fills(recover(&twice, None, &server()), Some("496:496:"), 0x200, Loss::SlotGone);
    let thrice = StateRecord { fills: vec![ago(23), ago(2), ago(1)], ..record() };
    halts(recover(&thrice, None, &server()), &["is gone", "3 times within 24 h", "recovery.max_fills"]);
    // One that was cut short begins again all the same.
    let cut = StateRecord { fills: thrice.fills, ..filling(Some("5:6:"), 0x155) };
    assert!(matches!(recover(&cut, None, &server()), Decision::Fill { reason: None, .. }));

    let other = ServerFacts { system_id: "43".to_owned(), ..server() };
    for foreign in
        [SlotFacts { plugin: "wal2json".into(), ..slot() }, SlotFacts { database: "other".into(), ..slot() }]
    {
        assert!(matches!(recover(&record(), Some(&foreign), &other), Decision::Halt(_)));
    }
    let temporary = SlotFacts { temporary: true, ..slot() };
    assert!(matches!(recover(&record(), Some(&temporary), &promoted(0x160)), Decision::Halt(_)));
    let missing = ServerFacts { timeline: 3, history: Vec::new(), ..server() };
    halts(recover(&record(), None, &missing), &["00000003.history"]);
}

fn any_slot() -> impl Strategy<Value = SlotFacts> {
    let status = prop::sample::select(vec![None, Some("reserved"), Some("unreserved"), Some("lost")]);
    let reason = prop::option::weighted(0.1, Just("wal_removed".to_owned()));
    let mostly = |usual: &'static str| prop_oneof![9 => Just(usual.to_owned()), 1 => Just("x".to_owned())];
    let marks = (prop::option::weighted(0.9, Just(Lsn(1))), status, reason);
    (0..20u64, marks, mostly("pgoutput"), mostly("shop"), prop::bool::weighted(0.1)).prop_map(
        |(at, (restart_lsn, status, invalidation_reason), plugin, database, temporary)| SlotFacts {
            confirmed_flush: Lsn(at),
            restart_lsn,
            wal_status: status.map(str::to_owned),
            invalidation_reason,
            plugin,
            database,
            temporary,
        },
    )
}

fn any_record() -> impl Strategy<Value = StateRecord> {
    let phase = prop_oneof![
        3 => Just(RecordedPhase::Streaming),
        1 => (0..20u64).prop_map(|lsn| RecordedPhase::Filling { base: Some("1:1:".into()), shared_lsn: Lsn(lsn) }),
    ];
    let numbers = (1..4u32, prop_oneof![Just(1), Just(u64::MAX)], 0..20u64, 0..25u64);
    (phase, numbers, prop::option::of(0..20u64), prop::collection::vec(0..20u64, 0..5)).prop_map(
        |(phase, (timeline, epoch, position, ceiling), last, ring)| {
            let mut record = StateRecord::first("orders", 0, "42", timeline, Lsn(position));
            (record.phase, record.epoch, record.ceiling) = (phase, epoch, Lsn(ceiling));
            record.last_published = last.map(|end| LastPublished { end_lsn: Lsn(end.min(position)), ..LAST });
            for lsn in ring {
                let taken_at = jiff::Timestamp::UNIX_EPOCH;
                record.ring.push(PublishedSnapshot { lsn: Lsn(lsn), snapshot: String::new(), taken_at });
            }
            record
        },
    )
}

fn any_server() -> impl Strategy<Value = ServerFacts> {
    let history = prop::collection::vec((1..4u32, (0..20u64).prop_map(Lsn)), 0..4);
    (prop::bool::weighted(0.9), 1..4u32, history, 0..25u64).prop_map(|(same, timeline, history, end)| {
        ServerFacts {
            system_id: if same { "42" } else { "43" }.to_owned(),
            timeline,
            history,
            wal_end: Lsn(end),
            database: "shop".to_owned(),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    /// Whatever the facts: nothing is streamed past a gap, from a slot that is not sound, from another
    /// system or another history, and no slot is made unless that was asked for.
    #[test]
    fn no_facts_lead_past_a_gap(
        record in prop::option::of(any_record()),
        slot in prop::option::of(any_slot()),
        server in any_server(),
        existing in prop::sample::select(vec![Existing::Refuse, Existing::Publish, Existing::Skip]),
        rows: bool,
        may_fill: bool,
    ) {
        let recovery = if may_fill { filling_always() } else { RecoverySettings::halting() };
        let wishes = Wishes { recovery: &recovery, ..halting(existing, rows) };
        let sound = slot.as_ref().filter(|s| {
            s.plugin == "pgoutput" && s.database == "shop" && !s.temporary && s.invalidation_reason.is_none()
                && s.wal_status.as_deref() != Some("lost") && s.restart_lsn.is_some() && !s.confirmed_flush.is_zero()
        });
        match (compare(record.as_ref(), slot.as_ref(), &server, &wishes), &record) {
            (Decision::Begin { position }, None) => prop_assert_eq!(position, sound.unwrap().confirmed_flush),
            (Decision::MakeSlot, None) => prop_assert!(slot.is_none() && existing == Existing::Skip),
            (Decision::Continue { position, must_meet }, Some(record)) => {
                let slot = sound.unwrap().confirmed_flush;
                prop_assert!(slot <= position && position == record.position && position <= server.wal_end);
                prop_assert_eq!((&record.phase, record.timeline), (&RecordedPhase::Streaming, server.timeline));
                prop_assert_eq!(&record.system_id, &server.system_id);
                let unproven = slot < position && record.last_published.is_some();
                prop_assert!(!unproven || must_meet.is_some_and(|m| !m.is_met()));
            }
            (Decision::NewTimeline { record: cut, switch_point, possibly_lost, .. }, Some(record)) => {
                prop_assert!(sound.unwrap().confirmed_flush <= cut.position && cut.position <= server.wal_end);
                prop_assert!(cut.position <= switch_point && cut.position <= record.position);
                prop_assert!(cut.ceiling <= switch_point && cut.epoch >= record.epoch);
                prop_assert!(record.timeline < cut.timeline && cut.timeline == server.timeline);
                prop_assert!(cut.ring.newest().is_none_or(|entry| entry.lsn <= cut.position));
                prop_assert!(cut.last_published.is_none_or(|last| last.end_lsn <= cut.position));
                let furthest = record.position.max(record.ceiling);
                prop_assert_eq!(possibly_lost, (furthest > switch_point).then_some((switch_point, furthest)));
                prop_assert_eq!(&record.system_id, &server.system_id);
            }
            (Decision::Fill { base, drop_slot, .. }, None) => {
                prop_assert!(existing == Existing::Publish && slot.is_none() && base.is_none() && !drop_slot);
            }
            (Decision::Fill { drop_slot, base, shared_lsn, reason: Some(reason), epoch }, Some(record)) => {
                prop_assert!(may_fill && reason.loss().is_some() && epoch >= record.epoch);
                prop_assert_eq!(drop_slot, slot.is_some());
                prop_assert!(slot.is_none_or(|slot| slot.plugin == "pgoutput" && slot.database == "shop"));
                // Only what both histories share says what is published.
                let shared = record.position.min(server.wal_end);
                prop_assert!(shared_lsn <= shared && (shared_lsn.is_zero() || record.system_id == server.system_id));
                prop_assert!(base.is_none() || record.ring.newest_at_or_below(shared_lsn).is_some());
            }
            (Decision::Fill { drop_slot, shared_lsn, .. }, Some(record)) => {
                prop_assert_ne!(&record.phase, &RecordedPhase::Streaming);
                prop_assert_eq!(drop_slot, slot.is_some());
                prop_assert!(shared_lsn <= server.wal_end);
            }
            (Decision::Halt(reason), _) => prop_assert!(reason.to_string().len() > 40),
            (decision, record) => prop_assert!(false, "{decision:?} with {record:?}"),
        }
    }
}
