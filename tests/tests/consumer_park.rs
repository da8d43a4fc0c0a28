//! What stands behind a parked event and has not failed itself: it follows in company, in order, once.

use std::time::Duration;

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::process::Process;
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Effects, Orders, With};
use outbox_tests::wait::eventually_async;

use crate::consumer::{GOOD, end, failing, good_from, program};

const LIMIT: Duration = Duration::from_secs(60);

/// The effects' numbers, in the order in which they came.
const NUMBERS: &str = "SELECT coalesce(array_agg(number ORDER BY at), '{}') FROM effects";

/// One key whose first event waits for the warehouse, and what is behind it; all of that is parked.
async fn parked(orders: &Orders<'_>, events: usize, special: &[(usize, &str)], exhausted: &str) -> Process {
    let upstream = orders.upstream();
    upstream.order("one", failing("closed"));
    for number in 1..events {
        let asked = special.iter().find(|(at, _)| *at == number).map(|(_, fails)| match *fails {
            "twice" => good_from(3),
            fails => failing(fails),
        });
        upstream.order("one", asked.unwrap_or(GOOD));
    }
    upstream.flush();
    let exhausted = vec![("ORDER_EXHAUSTED", exhausted.to_owned())];
    let process = orders.start_with(0, &With { environment: exhausted, ..With::default() });
    let all = i64::try_from(events).unwrap();
    eventually_async(LIMIT, "all to be parked", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_event").await == all).then_some(())
    })
    .await;
    process
}

async fn numbers(orders: &Orders<'_>) -> Vec<i64> {
    orders.query(NUMBERS, &[]).await[0].get(0)
}

/// Waits until the key is held or waits for a rung with these numbers behind it, and says what its first event said.
async fn stands_at(orders: &Orders<'_>, waiting: i64, said: &str) {
    let stands = format!(
        "SELECT count(*) FROM inbox.parked_key WHERE waiting = {waiting} AND last_error LIKE '%{said}%'"
    );
    eventually_async(LIMIT, &format!("{waiting} to wait with {said}"), async || {
        (orders.number(&stands).await == 1).then_some(())
    })
    .await;
}

/// A park that took a transaction or two for each event would grow as long as events come to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_failed_event_follows_in_few_transactions() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("park", &postgres, &kafka, program()).await;
    let process = parked(&orders, 500, &[], "hold").await;
    // Somebody has decided about one of them meanwhile: it is passed, and nothing else.
    let decided = orders.upstream().sent()[120].id;
    orders.query("UPDATE inbox.settlement SET state = 'rejected' WHERE id = $1", &[&decided]).await;
    orders.warehouse(true).await;
    assert_eq!(orders.happened(499, LIMIT, &[0]).await, Effects::once(499));
    assert!(!numbers(&orders).await.contains(&120));
    eventually_async(LIMIT, "the marker to go", async || {
        (orders.number("SELECT count(*) FROM inbox.parked_key").await == 0).then_some(())
    })
    .await;
    let transactions = orders.number("SELECT count(DISTINCT writer) FROM inbox.settlement").await;
    println!("proof: 499 events of a parked key in {transactions} transactions");
    assert!(transactions < 60, "{transactions} transactions\n{}", orders.log(0));
    assert_eq!(orders.effects().await, Effects::once(499));
    end(&process);
}

/// The event that fails in company undoes nothing before it and lets nothing pass; its attempts are counted as anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_in_company_stops_it_and_is_counted() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("stopped", &postgres, &kafka, program()).await;
    let special = [(10, "twice"), (20, "rejected"), (30, "twice"), (31, "twice"), (40, "permanent")];
    let process = parked(&orders, 60, &special, "hold").await;
    orders.warehouse(true).await;
    stands_at(&orders, 20, "warehouse is closed").await;
    let expected: Vec<i64> = (0..40).filter(|number| *number != 20).collect();
    assert_eq!(numbers(&orders).await, expected, "{}", orders.log(0));
    let thrice = "SELECT count(*) FROM effects WHERE attempt = 3 AND number IN (10, 30, 31)";
    assert_eq!(orders.number(thrice).await, 3, "{}", orders.log(0));
    assert_eq!(
        orders
            .number("SELECT count(*) FROM effects WHERE attempt <> 1 AND number NOT IN (0, 10, 30, 31)")
            .await,
        0
    );
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'rejected'").await, 1);
    let held = "SELECT count(*) FROM inbox.parked_key WHERE held_by = 'hold' AND attempts = 1";
    assert_eq!(orders.number(held).await, 1, "{}", orders.log(0));
    end(&process);
}

/// One that becomes a dead letter has one, although its first call was in company, and its key goes on behind it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_company_that_becomes_a_dead_letter_has_one() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("letters", &postgres, &kafka, program()).await;
    let special = [(10, "permanent"), (11, "permanent"), (30, "twice"), (40, "permanent")];
    let process = parked(&orders, 60, &special, "skip").await;
    orders.warehouse(true).await;
    assert_eq!(orders.happened(57, LIMIT, &[0]).await, Effects::once(57));
    let expected: Vec<i64> = (0..60).filter(|number| ![10, 11, 40].contains(number)).collect();
    assert_eq!(numbers(&orders).await, expected, "{}", orders.log(0));
    assert_eq!(orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'dead'").await, 3);
    let mut letters = Log::open(&kafka.brokers(), &["letters.letters.dlq"], Isolation::ReadUncommitted);
    letters.catch_up();
    let attempts: Vec<_> = letters.records().iter().map(|letter| letter.header("dlq.attempts")).collect();
    assert_eq!(attempts, [Some("1"); 3], "{}", orders.log(0));
    end(&process);
}

/// Of a company that is not committed nobody knows through whom: its events run one by one, up to the one that it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_company_that_comes_to_nothing_is_told_apart() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("apart", &postgres, &kafka, program()).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                      $$ BEGIN RAISE EXCEPTION 'refused behind the handler'; END $$";
    let late = "CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
                    FOR EACH ROW WHEN (new.number = 35) EXECUTE FUNCTION refuse()";
    for statement in [refuse, late] {
        orders.query(statement, &[]).await;
    }
    let process = parked(&orders, 60, &[(12, "slow")], "hold").await;
    orders.warehouse(true).await;
    stands_at(&orders, 48, "longer than").await;
    assert_eq!(numbers(&orders).await, (0..12).collect::<Vec<i64>>(), "{}", orders.log(0));
    // Mended, as far as the slow one goes.
    let quick = "UPDATE inbox.parked_event SET record_value = convert_to('{\"number\":12}', 'UTF8')
                  WHERE convert_from(record_value, 'UTF8') LIKE '%slow%'";
    orders.query(quick, &[]).await;
    stands_at(&orders, 25, "refused behind the handler").await;
    assert_eq!(numbers(&orders).await, (0..35).collect::<Vec<i64>>(), "{}", orders.log(0));
    orders.query("DROP TRIGGER late ON effects", &[]).await;
    assert_eq!(orders.happened(60, LIMIT, &[0]).await, Effects::once(60));
    end(&process);
}
