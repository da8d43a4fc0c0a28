//! A list of lanes: what each inherits, and what must not be said.

use super::*;
use crate::config::lanes::{OWN_KEYS, may_differ};

const TWO: &str =
    "[[lanes]]\nnumber = 0\n[[lanes]]\nname = \"billing\"\nnumber = 2\noutbox.table = \"billing.outbox\"\n";

fn lanes(text: &str) -> Trial {
    Trial::toml(&format!("{THREE_KEYS}{text}"))
}

fn refused(text: &str, parts: &[&str]) {
    let (told, keys) = lanes(text).refused();
    assert_eq!(keys.len(), parts.len(), "{told}");
    for part in parts {
        assert!(told.contains(part), "{part} is missing in {told}");
    }
}

#[test]
fn without_a_list_nothing_is_different() {
    let lanes = Trial::toml(THREE_KEYS).load_all().unwrap();
    assert!(!lanes.are_listed());
    let only = lanes.first();
    assert_eq!((only.lane.clone(), only.state.partitions, lanes.label(only)), (LaneId::only(), 1, None));
    assert_eq!(lanes.choose(None).unwrap().slot(), "outbox_orders");
}

#[test]
fn each_lane_has_what_the_relay_has_and_what_it_says_itself() {
    let text = "[quarantine]\npolicy = \"continue\"\n[outbox]\nrows_stay = true\n".to_owned()
        + TWO
        + "quarantine.policy = \"halt\"\nroute.topic = \"b.{aggregatetype}\"\nheaders.tenant = \"x\"\n\
           source.read_ahead_bytes = \"9MiB\"\n";
    let lanes = lanes(&text)
        .with("OUTBOX_RELAY_KAFKA_TOPIC_PREFIX", "shop.")
        .with("OUTBOX_RELAY_QUARANTINE_MAX_ENTRIES", "7")
        .load_all()
        .unwrap();
    let [first, billing]: [Settings; 2] = lanes.iter().cloned().collect::<Vec<_>>().try_into().unwrap();
    assert_eq!((first.slot().as_str(), first.lane.label().as_str()), ("outbox_orders", "0"));
    assert_eq!(
        (billing.slot(), billing.publication()),
        ("outbox_orders_billing".into(), "outbox_orders_billing".into())
    );
    assert_eq!((first.outbox.table.as_str(), billing.outbox.schema.as_str()), ("events", "billing"));
    assert_eq!((first.quarantine.policy, billing.quarantine.policy), (Policy::Continue, Policy::Halt));
    assert_eq!((first.quarantine.max_entries, billing.quarantine.max_entries), (7, 7), "the environment's");
    assert_eq!((first.recovery.rows_stay, billing.recovery.rows_stay), (Some(true), Some(true)));
    assert_eq!((first.source.read_ahead_bytes, billing.source.read_ahead_bytes), (16 << 20, 9 << 20));
    assert_eq!((first.outbox.rules.headers.len(), billing.outbox.rules.headers.len()), (0, 1));
    // A prefix that the environment gives is not given together with the lane's template.
    assert_eq!(
        (first.kafka.topic_prefix.as_str(), billing.kafka.topic_prefix.as_str()),
        ("shop.", "outbox.event.")
    );
    // A table of another shape is not cleaned up unless told.
    assert_eq!((first.cleanup.mode, billing.cleanup.mode), (CleanupMode::Buckets, CleanupMode::Off));
    assert_eq!((first.state.partitions, billing.state.partitions), (3, 3), "the largest number and one");
}

#[test]
fn the_order_of_the_list_and_its_form_mean_nothing() {
    let yaml = "name: orders\nsource: {url: postgres://relay@localhost/orders}\nkafka: {brokers: k1:9092}\n\
                lanes:\n  - {name: billing, number: 2, outbox: {table: billing.outbox}}\n  - number: 0\n";
    for lanes in [Trial::file("relay.yaml", yaml).load_all().unwrap(), lanes(TWO).load_all().unwrap()] {
        let slots: Vec<String> = lanes.iter().map(Settings::slot).collect();
        assert_eq!(slots, ["outbox_orders", "outbox_orders_billing"]);
    }
}

#[test]
fn one_is_chosen_by_name_or_number() {
    let choose = |lane| lanes(TWO).load_all().unwrap().choose(lane);
    for (lane, number) in [("billing", 2), ("2", 2), ("0", 0)] {
        assert_eq!(choose(Some(lane)).unwrap().lane.number, number);
    }
    assert_eq!(
        choose(None).unwrap_err(),
        "this relay has 2 lanes: name one of them with --lane (0, billing)"
    );
    assert_eq!(choose(Some("1")).unwrap_err(), "this relay has no lane 1; it has 0, billing");
}

#[test]
fn everything_that_is_wrong_in_any_lane_is_told_under_its_name() {
    refused(
        "[[lanes]]\nname = \"orders\"\nnumber = 1\noutbox.table = \"Bad\"\nquarantine.policy = \"perhaps\"\n\
         [[lanes]]\nname = \"billing\"\nnumber = 2\noutbox.table = \"b.outbox\"\ncleanup.mode = \"buckets\"\n\
         recovery.slot_gone = \"fill\"\noutbox.tabel = \"b.c\"\nadmin.listen = \"127.0.0.1:1\"\n",
        &[
            "lanes.orders.outbox.table = \"Bad\"",
            "lanes.orders.quarantine.policy = \"perhaps\"",
            "lanes.billing.cleanup.mode = \"buckets\"",
            "lanes.billing.recovery.slot_gone = \"fill\"",
            "lanes.billing.outbox.tabel (file",
            "lanes.billing.admin.listen (file",
        ],
    );
}

#[test]
fn what_is_wrong_with_the_relay_is_told_once() {
    refused(&format!("[state]\ninterval = \"soon\"\n{TWO}"), &["state.interval = \"soon\""]);
    refused(&format!("[quarantine]\npolicy = \"perhaps\"\n{TWO}"), &["quarantine.policy = \"perhaps\""]);
}

#[test]
fn a_relays_key_that_does_not_fit_a_lane_names_the_lane() {
    let text = format!("{TWO}source.read_ahead_bytes = \"1MiB\"\n");
    refused(&text, &["such a row would never fit (in lane billing)"]);
}

#[test]
fn names_and_numbers_have_to_be_given_and_to_differ() {
    let lane = |head: &str, table: &str| format!("[[lanes]]\n{head}\noutbox.table = \"x.{table}\"\n");
    for (text, parts) in [
        (lane("number = 1", "a"), &["lanes.#1.name (file"][..]),
        (lane("name = \"a\"", "a"), &["lanes.a.number (file"]),
        (lane("name = \"A\"\nnumber = 1", "a"), &["lanes.#1.name = \"A\""]),
        (lane("name = \"a\"\nnumber = 256", "a"), &["lanes.a.number = \"256\""]),
        (lane("name = \"a\"\nnumber = -1", "a"), &["lanes.a.number = \"-1\""]),
        (
            lane("name = \"a\"\nnumber = 1", "a") + &lane("name = \"b\"\nnumber = 1", "b"),
            &["is the number of lane a, too"],
        ),
        (
            lane("name = \"a\"\nnumber = 1", "a") + &lane("name = \"a\"\nnumber = 2", "b"),
            &["is the name of another lane, too"],
        ),
        (
            lane("name = \"a\"\nnumber = 1", "a") + &lane("name = \"b\"\nnumber = 2", "a"),
            &["lanes.b.outbox.table = \"x.a\""],
        ),
        (
            "[[lanes]]\nnumber = 0\n[[lanes]]\nname = \"b\"\nnumber = 2\n".to_owned(),
            &["is the table of lane 0, too"],
        ),
        (
            messages("name = \"a\"\nnumber = 1", "shop") + &messages("name = \"b\"\nnumber = 2", "shop"),
            &["lanes.b.outbox.message_prefix = \"shop\""],
        ),
    ] {
        refused(&text, parts);
    }
}

fn messages(identity: &str, prefix: &str) -> String {
    format!("[[lanes]]\n{identity}\noutbox.from = \"messages\"\noutbox.message_prefix = \"{prefix}\"\n")
}

#[test]
fn lanes_of_messages_are_told_apart_by_their_prefix_and_stand_beside_a_table() {
    let text = messages("name = \"a\"\nnumber = 1", "shop")
        + &messages("name = \"b\"\nnumber = 2", "bills")
        + "[[lanes]]\nnumber = 0\n";
    let lanes = lanes(&text).load_all().unwrap();
    let prefixes: Vec<Option<&str>> =
        lanes.iter().map(|settings| settings.outbox.message_prefix.as_deref()).collect();
    assert_eq!(prefixes, [None, Some("shop"), Some("bills")]);

    // What becomes of rows that stand in a table is no question to lanes without one.
    let lanes =
        Trial::toml(&format!("{THREE_KEYS}[start]\nexisting = \"publish\"\n{text}")).load_all().unwrap();
    let existing: Vec<Existing> = lanes.iter().map(|settings| settings.existing).collect();
    assert_eq!(existing, [Existing::Publish, Existing::Refuse, Existing::Refuse]);
}

#[test]
fn a_slot_has_a_name_that_postgresql_takes() {
    let long = "x".repeat(41);
    let text = THREE_KEYS.replace("\"orders\"", &format!("\"{long}\""));
    let of = |lane: usize| {
        let name = "l".repeat(lane);
        Trial::toml(&format!("{text}[[lanes]]\nname = \"{name}\"\nnumber = 1\n"))
    };
    assert_eq!(of(14).load_all().unwrap().first().slot().len(), 63);
    let (told, _) = of(15).refused();
    assert!(told.contains("64 letters; PostgreSQL allows 63"), "{told}");
}

#[test]
fn a_list_that_is_none_is_refused() {
    refused("[lanes]\nbilling = 1\n", &["lanes (file"]);
    let (told, _) = Trial::toml(&format!("lanes = []\n{THREE_KEYS}")).refused();
    assert!(told.contains("has no lane"), "{told}");
    let (told, _) = Trial::toml(&format!("lanes = [1]\n{THREE_KEYS}")).refused();
    assert!(told.contains("lane #1 is no table"), "{told}");
    let (told, keys) = lanes(TWO).with("OUTBOX_RELAY_LANES_BILLING_OUTBOX_TABLE", "a.b").refused();
    assert!(told.contains("lanes are given in the file") && keys.len() == 1, "{told}");
}

#[test]
fn what_is_in_force_is_shown_for_the_relay_and_for_what_a_lane_has_of_its_own() {
    let trial = lanes(TWO);
    let page = show(Some(&trial.file), &Vec::new).unwrap();
    assert!(page.contains("# lane 0: its own keys"), "{page}");
    assert!(page.contains("lanes.billing.outbox.table = \"billing.outbox\"  # file "), "{page}");
    assert!(page.contains("lanes.billing.number = \"2\"  # file "), "{page}");
    assert_eq!(page.matches("quarantine.policy").count(), 1, "inherited: {page}");
}

/// Whoever adds a key decides by its section.
#[test]
fn what_may_differ_is_known_by_the_key() {
    for key in keys::TABLE {
        let own = may_differ(key.path());
        let of_relay = ["name", "drain_timeout"].contains(&key.path())
            || ["source.", "kafka.", "delivery.", "start.", "state.", "admin.", "log."]
                .iter()
                .any(|s| key.path().starts_with(s));
        let listed = OWN_KEYS.iter().any(|listed| listed.path() == key.path());
        assert_eq!(own, !of_relay || listed, "{}", key.path());
        assert!(!own || !key.is_secret(), "{} is shown with the lane", key.path());
    }
}
