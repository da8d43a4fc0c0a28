//! The plan, for every state a server can be found in.

use std::collections::BTreeMap;

use super::plan::{Plan, Step};
use super::script;
use super::survey::{Contract, Publication, Role, Server, Slot, Survey, Table, published_columns};
use crate::config::{Existing, LaneId, Overrides, Settings, load};
use outbox_schema::sql;

fn settings(more: &[(&str, &str)]) -> Settings {
    let mut variables = BTreeMap::from([
        ("OUTBOX_RELAY_NAME", "orders"),
        ("OUTBOX_RELAY_SOURCE_URL", "postgres://relay:hunter2@localhost/shop"),
        ("OUTBOX_RELAY_KAFKA_BROKERS", "k1:9092"),
    ]);
    variables.extend(more.iter().copied());
    let env = || variables.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    load(None, &env, Overrides::default()).expect("settings").into_first()
}

fn with_existing(existing: Existing) -> Settings {
    Settings { existing, ..settings(&[]) }
}

fn other_table() -> Settings {
    settings(&[("OUTBOX_RELAY_OUTBOX_TABLE", "\"Sales\".outbox")])
}

/// A server on which nothing was made yet.
fn fresh(settings: &Settings) -> Survey {
    let server = Server {
        version: 150_018,
        wal_level: "logical".into(),
        in_recovery: false,
        database: settings.source.database.clone(),
    };
    Survey { server: Some(server), ..Survey::assumed(settings) }
}

fn quarantine() -> Vec<String> {
    sql::QUARANTINE_COLUMNS.iter().map(|column| column.to_string()).collect()
}

/// A server on which everything was.
fn complete(settings: &Settings) -> Survey {
    let published = published_columns(settings).iter().map(|c| c.to_string()).collect::<Vec<_>>();
    let mut columns = published.clone();
    columns.extend(["writer".to_string(), "seq".to_string()]);
    Survey {
        contract: Contract::Version(sql::CONTRACT_VERSION),
        quarantine: Some(quarantine()),
        table: Some(Table { columns, has_rows: Some(true), partitioned: true }),
        producers_let_in: true,
        role: Some(Role { may_replicate: true, in_group: true, reads_table: true, deletes: false }),
        publication: Some(Publication {
            inserts: true,
            via_root: true,
            columns: Some(published),
            filtered: false,
        }),
        slot: Some(Slot { plugin: Some("pgoutput".into()), database: Some("shop".into()), lost: false }),
        ..fresh(settings)
    }
}

/// The SQL of every step that does something, in order.
fn statements(plan: &Plan) -> Vec<&str> {
    let statement = |step| match step {
        &Step::Run { ref sql, .. } | &Step::MakeSlot { ref sql, .. } => Some(sql.as_str()),
        Step::Present(_) | Step::Note(_) => None,
    };
    plan.steps.iter().filter_map(statement).collect()
}

fn refused(settings: &Settings, survey: &Survey) -> String {
    Plan::new(settings, survey).map(|_| ()).expect_err("has to be refused").to_string()
}

#[test]
fn a_fresh_server_gets_everything_in_order() {
    let settings = settings(&[]);
    let plan = Plan::new(&settings, &fresh(&settings)).unwrap();
    let all = statements(&plan).join("\n");
    let order = [
        "CREATE TABLE outbox.events (",
        "GRANT INSERT (id",
        "REVOKE USAGE ON SCHEMA outbox FROM outbox_producer",
        "COMMIT;",
        "CREATE PUBLICATION \"outbox_orders\" FOR TABLE \"outbox\".\"events\"",
        "GRANT outbox_relay TO \"relay\"",
        "pg_create_logical_replication_slot('outbox_orders', 'pgoutput')",
        "GRANT USAGE ON SCHEMA outbox TO outbox_producer;",
    ];
    // Of the last one the roles' migration has a like, which the REVOKE takes back.
    let places: Vec<usize> =
        order.iter().map(|part| all.rfind(part).unwrap_or_else(|| panic!("{part}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn a_second_run_does_nothing() {
    for settings in [settings(&[]), other_table()] {
        let plan = Plan::new(&settings, &complete(&settings)).unwrap();
        assert!(statements(&plan).is_empty(), "{plan:?}");
    }
}

#[test]
fn what_is_missing_is_made_alone() {
    let settings = settings(&[]);
    let mut survey = complete(&settings);
    survey.producers_let_in = false;
    assert_eq!(
        statements(&Plan::new(&settings, &survey).unwrap()),
        ["GRANT USAGE ON SCHEMA outbox TO outbox_producer;"]
    );
    survey.producers_let_in = true;
    survey.role = Some(Role { may_replicate: false, in_group: false, reads_table: false, deletes: false });
    let plan = Plan::new(&settings, &survey).unwrap();
    assert_eq!(statements(&plan).len(), 1);
    let noted =
        plan.steps.iter().any(|step| matches!(step, Step::Note(note) if note.contains("LOGIN REPLICATION")));
    assert!(noted, "{plan:?}");
}

#[test]
fn an_older_contract_gets_what_is_missing_in_one_transaction() {
    let settings = settings(&[]);
    let survey = Survey { contract: Contract::Version(1), quarantine: None, ..complete(&settings) };
    let plan = Plan::new(&settings, &survey).unwrap();
    let [statement] = statements(&plan)[..] else { panic!("one step: {plan:?}") };
    assert!(statement.starts_with("BEGIN;") && statement.ends_with("COMMIT;"), "{statement}");
    assert!(statement.contains("CREATE TABLE IF NOT EXISTS outbox.quarantine"), "{statement}");
    assert!(statement.contains("FUNCTION outbox.clean_bucket("), "{statement}");
    assert!(
        !statement.contains("CREATE TABLE outbox.events") && !statement.contains("REVOKE USAGE"),
        "{statement}"
    );
    assert!(format!("{plan:?}").contains("from version 1 to 4"), "{plan:?}");
}

#[test]
fn rows_without_a_slot_are_asked_about() {
    let without_slot = |settings: &Settings| Survey { slot: None, ..complete(settings) };
    let refuse = with_existing(Existing::Refuse);
    let sentence = refused(&refuse, &without_slot(&refuse));
    assert!(sentence.contains("--existing=publish") && sentence.contains("--existing=skip"), "{sentence}");

    let skip = with_existing(Existing::Skip);
    let plan = Plan::new(&skip, &without_slot(&skip)).unwrap();
    assert!(
        plan.steps.iter().any(|step| matches!(step, Step::MakeSlot { only_if_empty: false, .. })),
        "{plan:?}"
    );

    let publish = with_existing(Existing::Publish);
    let survey = Survey { producers_let_in: false, ..without_slot(&publish) };
    let plan = Plan::new(&publish, &survey).unwrap();
    assert!(plan.slot_by_run && statements(&plan).is_empty(), "neither slot nor right to insert: {plan:?}");

    let mut survey = without_slot(&refuse);
    survey.table.as_mut().unwrap().has_rows = Some(false);
    let plan = Plan::new(&refuse, &survey).unwrap();
    assert!(
        plan.steps.iter().any(|step| matches!(step, Step::MakeSlot { only_if_empty: true, .. })),
        "{plan:?}"
    );
}

#[test]
fn another_table_gets_the_quarantine_and_no_more_of_the_contract() {
    let settings = other_table();
    let plan = Plan::new(&settings, &fresh(&settings)).unwrap();
    let all = statements(&plan).join("\n");
    assert!(!all.contains("CREATE TABLE outbox.events") && !all.contains("outbox_producer"), "{all}");
    assert!(all.contains("CREATE TABLE IF NOT EXISTS outbox.quarantine"), "{all}");
    assert!(all.contains("(\"id\", \"aggregatetype\", \"aggregateid\", \"type\", \"payload\")"), "{all}");
    assert!(all.contains("GRANT SELECT ON \"Sales\".\"outbox\" TO \"relay\""), "{all}");
    let group = all.find("CREATE ROLE outbox_relay").expect("the group");
    assert!(group < all.find("GRANT outbox_relay TO").expect("the member"));
}

#[test]
fn the_right_to_delete_is_granted_where_rows_are_deleted() {
    let mode = |mode| {
        settings(&[
            ("OUTBOX_RELAY_OUTBOX_TABLE", "\"Sales\".outbox"),
            ("OUTBOX_RELAY_OUTBOX_COLUMNS_WRITER", "writer"),
            ("OUTBOX_RELAY_OUTBOX_COLUMNS_CREATED_AT", "at"),
            ("OUTBOX_RELAY_CLEANUP_MODE", mode),
        ])
    };
    let granted = |settings: &Settings| {
        let plan = Plan::new(settings, &complete(settings)).unwrap();
        statements(&plan).join("\n").contains("GRANT DELETE ON \"Sales\".\"outbox\" TO \"relay\"")
    };
    assert!(granted(&mode("delete")) && !granted(&mode("off")));
    let mut survey = complete(&mode("delete"));
    survey.role.as_mut().unwrap().deletes = true;
    assert!(statements(&Plan::new(&mode("delete"), &survey).unwrap()).is_empty());
}

#[test]
fn each_obstacle_has_its_sentence() {
    type Change = fn(&mut Survey);
    let cases: &[(Change, &str)] = &[
        (|s| s.server.as_mut().unwrap().version = 140_010, "PostgreSQL 14"),
        (|s| s.server.as_mut().unwrap().in_recovery = true, "standby"),
        (|s| s.server.as_mut().unwrap().database = "postgres".into(), "database \"postgres\""),
        (|s| s.server.as_mut().unwrap().wal_level = "replica".into(), "wal_level is replica"),
        (|s| s.contract = Contract::Version(5), "version 5"),
        (|s| s.contract = Contract::Version(0), "version 0"),
        (|s| s.quarantine = Some(vec!["id".into()]), "outbox.quarantine"),
        (|s| s.contract = Contract::Foreign, "not the contract's"),
        (|s| s.table = None, "there is no table outbox.events"),
        (|s| s.table.as_mut().unwrap().columns.retain(|c| c != "writer"), "no column writer"),
        (|s| s.publication.as_mut().unwrap().columns = None, "does not hold the outbox table"),
        (|s| s.publication.as_mut().unwrap().inserts = false, "does not publish inserts"),
        (|s| s.publication.as_mut().unwrap().filtered = true, "row filter"),
        (
            |s| s.publication.as_mut().unwrap().columns = Some(vec!["id".into()]),
            "leaves out column aggregatetype",
        ),
        (|s| s.publication = None, "without publication outbox_orders"),
        (|s| s.slot.as_mut().unwrap().plugin = None, "physical"),
        (|s| s.slot.as_mut().unwrap().database = Some("other".into()), "database \"other\""),
        (|s| s.slot.as_mut().unwrap().lost = true, "max_slot_wal_keep_size"),
    ];
    let settings = settings(&[]);
    for (change, part) in cases {
        let mut survey = complete(&settings);
        change(&mut survey);
        let sentence = refused(&settings, &survey);
        assert!(sentence.contains(part), "{part}: {sentence}");
    }
}

#[test]
fn neither_script_nor_plan_holds_the_password() {
    let settings = settings(&[]);
    let plan = Plan::new(&settings, &Survey::assumed(&settings)).unwrap();
    let script = script::render(&settings, &plan);
    assert!(script.contains("\\password \"relay\""), "{script}");
    for text in [script, format!("{plan:?}")] {
        assert!(!text.contains("hunter2") && !text.contains("SCRAM-SHA-256$"), "{text}");
    }
}

#[test]
fn the_script_guards_against_rows_nobody_looked_for() {
    let settings = other_table();
    let plan = Plan::new(&settings, &Survey::assumed(&settings)).unwrap();
    let script = script::render(&settings, &plan);
    let guard = script.find("IF EXISTS (SELECT FROM \"Sales\".\"outbox\")").expect("the guard");
    assert!(guard < script.find("pg_create_logical_replication_slot").expect("the slot"));
}

#[test]
fn a_relay_of_messages_gets_a_publication_without_a_table() {
    let settings = settings(&[("OUTBOX_RELAY_OUTBOX_FROM", "messages")]);
    let plan = Plan::new(&settings, &fresh(&settings)).unwrap();
    let all = statements(&plan).join("\n");
    assert!(all.contains("CREATE PUBLICATION \"outbox_orders\" WITH (publish = 'insert')"), "{all}");
    assert!(all.contains("FUNCTION outbox.emit(") && !all.contains("FOR TABLE"), "{all}");

    // Rows that stand in the table are nobody's question.
    let mut survey = complete(&settings);
    survey.publication = None;
    survey.slot = None;
    let plan = Plan::new(&settings, &survey).unwrap();
    let asks = |step: &Step| matches!(step, Step::MakeSlot { only_if_empty: true, .. });
    assert!(!plan.steps.iter().any(asks), "{plan:?}");
    assert_eq!(statements(&plan).len(), 2, "{plan:?}");

    let refused = refused(&settings, &complete(&settings));
    assert!(refused.contains("holds a table") && refused.contains("choose another name"), "{refused}");
    let mut survey = complete(&settings);
    survey.publication.as_mut().unwrap().columns = None;
    assert!(statements(&Plan::new(&settings, &survey).unwrap()).is_empty());
}

#[test]
fn what_one_lane_brings_the_next_ones_find() {
    let orders = settings(&[]);
    let lane = |number, name: &str| LaneId { number, name: Some(name.to_owned()) };
    let billing = Settings { lane: lane(1, "billing"), ..other_table() };
    let letters =
        Settings { lane: lane(2, "letters"), ..settings(&[("OUTBOX_RELAY_OUTBOX_TABLE", "x.letters")]) };
    let lanes = [&billing, &letters, &orders];
    let plans = super::plans(lanes.map(|lane| (lane, Survey::assumed(lane))).into()).unwrap();
    let slots: Vec<String> = plans.iter().map(|(settings, _)| settings.slot()).collect();
    assert_eq!(
        slots,
        ["outbox_orders", "outbox_orders_billing", "outbox_orders_letters"],
        "the contract first"
    );
    for (_, plan) in &plans[1..] {
        let says = |what: &str| {
            plan.steps.iter().any(|step| matches!(step, Step::Present(present) if present.contains(what)))
        };
        assert!(says("table outbox.quarantine") && says("role relay, member of"), "{plan:?}");
        assert!(plan.steps.iter().any(|step| matches!(step, Step::MakeSlot { .. })), "{plan:?}");
    }

    // Without the contract the first of them makes the quarantine.
    let plans = super::plans([&billing, &letters].map(|lane| (lane, Survey::assumed(lane))).into()).unwrap();
    let makes = |plan: &Plan| {
        plan.steps
            .iter()
            .any(|step| matches!(step, Step::Run { says, .. } if says.contains("table outbox.quarantine")))
    };
    assert!(makes(&plans[0].1) && !makes(&plans[1].1), "{plans:?}");
}

#[test]
fn a_lane_that_cannot_go_on_is_named_before_anything_is_done() {
    let orders = settings(&[]);
    let billing = Settings { lane: LaneId { number: 1, name: Some("billing".into()) }, ..other_table() };
    let missing = Survey { table: None, ..Survey::assumed(&billing) };
    let error = super::plans(vec![(&orders, Survey::assumed(&orders)), (&billing, missing)]).unwrap_err();
    assert!(error.to_string().starts_with("lane billing: there is no table"), "{error}");
}
