//! PostgreSQL goes, crashes, cuts and falls silent: the relay comes back, nothing is lost, and a server that
//! shuts down does not wait for it.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres, usual_version};
use outbox_tests::fault::proxy::{Direction, Flow, Proxy};
use outbox_tests::outbox::{Outbox, proving};
use outbox_tests::relay::Relay;
use outbox_tests::workload::{self, Workload};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// How much longer a fast shutdown may take with a relay.
const GRACE: Duration = Duration::from_secs(3);

/// The longest that a connection on which nothing comes may go unnoticed: pings every 2 s, 5 s for an answer,
/// and a second of a busy machine.
const NOTICED: Duration = Duration::from_secs(8);

/// The Kafka of the tests that do it no harm.
fn kafka() -> &'static Kafka {
    static KAFKA: OnceLock<Kafka> = OnceLock::new();
    KAFKA.get_or_init(Kafka::start)
}

fn number(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {status}"))
}

fn traffic(outbox: &Outbox<'_>) -> workload::Settings {
    workload::Settings { rows_per_second: Some(2_000), ..outbox.traffic() }
}

/// Waits until the relay streams in a session later than that of `before` and publishes.
#[track_caller]
fn wait_back(relay: &Relay, before: &Value) {
    relay.wait_status(LIMIT, "a new session that publishes", |status| {
        let back = number(status, "/totals/reconnects") > number(before, "/totals/reconnects")
            && status["phase"] == "streaming"
            && number(status, "/totals/records") > number(before, "/totals/records");
        back.then_some(())
    });
}

/// Waits until records are in flight, so that the fault hits something.
#[track_caller]
fn wait_busy(relay: &Relay) -> Value {
    relay.wait_status(LIMIT, "records in flight", |status| {
        let busy = status["phase"] == "streaming" && number(status, "/in_flight/records") > 0;
        busy.then(|| status.clone())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_postgres_restarts_or_terminates_backends() {
    let postgres = Postgres::start(usual_version());
    let outbox = Outbox::make("restarts", &postgres, kafka()).await;
    let mut log = outbox.log(kafka());
    let relay = Relay::start(&outbox.config);
    let workload = Workload::start(&outbox.url(), traffic(&outbox)).await;
    let rounds = if proving() { 5 } else { 1 };
    let mut faults = 0;
    for _ in 0..rounds {
        for fault in ["fast", "immediate", "walsender", "sql", "both"] {
            let before = wait_busy(&relay);
            let began = Instant::now();
            let ours = "application_name LIKE 'outbox-relay%'";
            match fault {
                "fast" => postgres.restart(),
                "immediate" => {
                    postgres.stop_immediate();
                    postgres.start_again();
                }
                "walsender" => {
                    let condition = format!("{ours} AND backend_type = 'walsender'");
                    assert_eq!(postgres.terminate_backends(&condition).await, 1);
                }
                "sql" => {
                    let condition = format!("{ours} AND backend_type <> 'walsender'");
                    assert_eq!(postgres.terminate_backends(&condition).await, 1);
                }
                _ => assert_eq!(postgres.terminate_backends(ours).await, 2),
            }
            wait_back(&relay, &before);
            println!("{fault}: publishing again after {:.1?}", began.elapsed());
            faults += 1;
        }
    }
    let counts = workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    let reconnects = number(&relay.status(), "/totals/reconnects");
    println!("proof: postgres_faults={faults} reconnects={reconnects} {verdict} {counts:?}");
    verdict.assert_pass();
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_shutdown_of_postgres_does_not_wait_for_the_relay() {
    // Killed in the test, so it is its own.
    let kafka = Kafka::start();
    let postgres = Postgres::start(usual_version());
    let outbox = Outbox::make("shutdown", &postgres, &kafka).await;
    let mut log = outbox.log(&kafka);

    let workload = Workload::start(&outbox.url(), traffic(&outbox)).await;
    while workload.rows() < 1_000 {
        tokio::task::yield_now().await;
    }
    let without = postgres.stop_fast();
    postgres.start_again();

    let relay = Relay::start(&outbox.config);
    let before = wait_busy(&relay);
    let with = postgres.stop_fast();
    postgres.start_again();
    wait_back(&relay, &before);

    // Every topic is known to this session, or it would wait for the first that is not.
    let records = number(&wait_busy(&relay), "/totals/records");
    relay.wait_status(LIMIT, "some thousand records", |status| {
        (number(status, "/totals/records") > records + 2_000).then_some(())
    });
    wait_busy(&relay);
    kafka.kill();
    let rows = workload.rows();
    let before = relay.wait_status(LIMIT, "records that cannot be sent", |status| {
        // Few where the router waits for the state record, too.
        let stuck = number(status, "/in_flight/records") > 0 && workload.rows() > rows + 2_000;
        stuck.then(|| status.clone())
    });
    let in_flight = number(&before, "/in_flight/records");
    let broker_down = postgres.stop_fast();
    postgres.start_again();

    // The relay that comes back now finds no broker and waits for its record: also then.
    relay.wait_status(LIMIT, "the relay to own the slot again", |status| {
        (status["phase"] == "recovering"
            && status["waiting_for"].as_str().is_some_and(|what| what.contains("state")))
        .then_some(())
    });
    let recovering = postgres.stop_fast();
    postgres.start_again();
    kafka.start_again();
    wait_back(&relay, &before);

    workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!(
        "proof: stop_fast without={without:.2?} with={with:.2?} broker_down={broker_down:.2?} (in flight {in_flight}) recovering={recovering:.2?} {verdict}"
    );
    verdict.assert_pass();
    for (what, took) in [("streaming", with), ("broker down", broker_down), ("recovering", recovering)] {
        assert!(took <= without + GRACE, "{what}: {took:?}, without a relay {without:?}");
    }
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_half_closed_or_black_is_noticed_and_made_anew() {
    let postgres = Postgres::start(usual_version());
    let outbox = Outbox::make("proxied", &postgres, kafka()).await;
    let proxy = Proxy::start(postgres.port());
    let url = format!("postgres://proxied_relay@127.0.0.1:{}/proxied", proxy.port());
    let config = outbox.config.clone().text("source.url", &url).text("source.connect_timeout", "2s");
    let mut log = outbox.log(kafka());
    let relay = Relay::start(&config);
    let workload = Workload::start(&outbox.url(), traffic(&outbox)).await;
    type Fault = (&'static str, fn(&Proxy));
    let faults: [Fault; 6] = [
        ("cut", Proxy::cut),
        ("refused", Proxy::refuse),
        ("half-closed to the relay", |proxy| proxy.set(Direction::ToClient, Flow::HalfClosed)),
        ("half-closed to the server", |proxy| proxy.set(Direction::ToServer, Flow::HalfClosed)),
        ("black", Proxy::black_hole),
        ("answers held", |proxy| proxy.set(Direction::ToClient, Flow::Hold)),
    ];
    let mut noticed = Vec::new();
    for (name, fault) in faults {
        let before = wait_busy(&relay);
        let began = Instant::now();
        fault(&proxy);
        relay.wait_status(LIMIT, "the relay to notice", |status| {
            (number(status, "/totals/reconnects") > number(&before, "/totals/reconnects")).then_some(())
        });
        let after = began.elapsed();
        let status = relay.status();
        println!("{name}: noticed after {after:.1?}: {}", status["last_error"]["message"]);
        noticed.push(after);
        // What was eaten is lost to the connections of that time.
        proxy.cut();
        proxy.resume();
        wait_back(&relay, &before);
        println!("{name}: publishing again {:.1?} after the fault", began.elapsed());
    }
    workload.stop().await;
    let verdict = outbox.verdict(&mut log, LIMIT).await;
    println!("proof: network_faults={} noticed={noticed:.1?} {verdict}", faults.len());
    verdict.assert_pass();
    for (after, (name, _)) in noticed.iter().zip(faults) {
        assert!(*after <= NOTICED, "{name} was noticed after {after:?}");
    }
    assert_eq!(relay.terminate().code(), Some(0), "{}", relay.log());
}
