//! The consumer under every fault at once: its effects happen once and in order, and everything settles in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use outbox_tests::cluster::{Kafka, Postgres};
use outbox_tests::fault::commits::CommitCutter;
use outbox_tests::fault::process::Process;
use outbox_tests::history::Log;
use outbox_tests::history::log::Isolation;
use outbox_tests::orders::{Asked, Effects, Orders, PARTITIONS, Upstream, With};
use outbox_tests::outbox::proving;
use outbox_tests::wait::eventually_async;
use outbox_tests::workload;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;

use crate::consumer::{GOOD, end, failing, good_from, program};
use crate::letters::{Operator, says};

/// How long the effect of a fault, or the way out of it, may take to be seen: PostgreSQL ends what a frozen owner holds
/// after a minute, and a consumer in isolation runs nothing else before that.
const LIMIT: Duration = Duration::from_secs(180);
/// Keys of the traffic.
const KEYS: u32 = 60;
/// Pause between two orders: about a hundred a second.
const PACE: Duration = Duration::from_millis(9);
/// Orders that may wait for their effects: work in hand all the time, and no more than can be done.
const BEHIND: usize = 400;

/// What is given up at once, and what only when it runs from the park.
const POISON: &str = "permanent";
const PARKED_POISON: &str = "permanent parked";

/// What goes wrong. Beside all of them a tenth of the records comes twice, some of them late, and a hundredth fails at
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// SIGKILL in the middle of a transaction.
    Kill,
    /// SIGSTOP in the middle of a transaction, until the group has gone on without the instance.
    Freeze,
    /// An instance joins.
    Join,
    /// An instance leaves in order.
    Leave,
    /// SIGKILL to the broker, and a new start.
    Broker,
    /// A fast shutdown of PostgreSQL in the middle of transactions.
    PostgresFast,
    /// An immediate shutdown, a crash.
    PostgresImmediate,
    /// `pg_terminate_backend` in the middle of transactions.
    Terminate,
    /// COMMITs whose answers are lost.
    LostCommits,
    /// Copies of records from the beginning of the run.
    Late,
    /// Records whose handler fails, some of them until they are parked.
    Fails,
}

const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::Freeze,
    Fault::Join,
    Fault::Leave,
    Fault::Broker,
    Fault::PostgresFast,
    Fault::PostgresImmediate,
    Fault::Terminate,
    Fault::LostCommits,
    Fault::Late,
    Fault::Fails,
];

/// Every kind before one comes again, in an order drawn anew each time.
fn draw(count: usize, random: &mut StdRng) -> Vec<Fault> {
    let mut drawn = Vec::new();
    while drawn.len() < count {
        let mut all = FAULTS;
        all.shuffle(random);
        drawn.extend(all);
    }
    drawn.truncate(count);
    drawn
}

/// The consumer's instances, and what is done to them.
struct Ground<'s> {
    orders: &'s Orders<'s>,
    postgres: &'s Postgres,
    kafka: &'s Kafka,
    cutter: &'s CommitCutter,
    random: StdRng,
    instances: Vec<(usize, Process)>,
    started: usize,
    pace: Arc<Pace>,
    environment: Vec<(&'static str, String)>,
}

/// What the sender has to know.
#[derive(Default)]
struct Pace {
    /// Events with an effect, and those that were given up.
    settled: AtomicUsize,
    stop: AtomicBool,
    /// Of a hundred orders so many are never any good.
    poison: u32,
}

impl Ground<'_> {
    fn start(&mut self) -> usize {
        let environment = self.environment.clone();
        let with = With { database_port: Some(self.cutter.port()), environment, ..With::default() };
        let number = self.started;
        self.instances.push((number, self.orders.start_with(number, &with)));
        self.started += 1;
        number
    }

    fn numbers(&self) -> Vec<usize> {
        self.instances.iter().map(|(number, _)| *number).collect()
    }

    /// Causes a fault; returns when its effect was seen.
    async fn cause(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => {
                let caught = self.catch().await;
                let (_, process) = self.instances.swap_remove(caught);
                process.kill();
                self.start();
            }
            Fault::Freeze => self.freeze().await,
            Fault::Join => {
                let number = self.start();
                self.assigned_anew(&[(number, 0)]).await;
            }
            Fault::Leave => {
                if self.instances.len() < 3 {
                    self.start();
                }
                let leaves = self.random.random_range(0..self.instances.len());
                // It has to be there before it can leave.
                self.assigned_anew(&[(self.instances[leaves].0, 0)]).await;
                let (_, process) = self.instances.swap_remove(leaves);
                let before = self.assignments();
                end(&process);
                self.assigned_anew(&before).await;
            }
            Fault::Broker => {
                let before = self.said("Kafka: ");
                self.kafka.restart();
                assert!(self.said("Kafka: ") > before, "nobody noticed that the broker was gone");
            }
            Fault::PostgresFast | Fault::PostgresImmediate => self.restart_postgres(fault).await,
            Fault::Terminate => {
                let open = "application_name LIKE 'consumer-%' AND state = 'idle in transaction'";
                eventually_async(LIMIT, "transactions to end by force", async || {
                    (self.postgres.terminate_backends(open).await > 0).then_some(())
                })
                .await;
            }
            Fault::LostCommits => {
                let (answered, under_way) = self.cutter.lost();
                self.cutter.lose(4);
                let enough = answered + under_way + 4;
                eventually_async(LIMIT, "lost answers", async || {
                    let (answered, under_way) = self.cutter.lost();
                    (answered + under_way >= enough).then_some(())
                })
                .await;
            }
            Fault::Late => self.send_late().await,
            Fault::Fails => self.send_failing().await,
        }
        // Whatever it was, what is sent now happens.
        let number = self.orders.upstream().order("behind", GOOD);
        self.happens(number).await;
    }

    /// Stops an instance in the middle of a transaction.
    async fn catch(&mut self) -> usize {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            let victim = self.random.random_range(0..self.instances.len());
            let (number, process) = &self.instances[victim];
            process.pause();
            if self.orders.open_transactions(*number).await > 0 {
                return victim;
            }
            process.resume();
            self.count().await;
        }
        panic!("no instance has work in hand\n{}", self.logs());
    }

    /// Freezes an instance beyond its session; where it is proved, sometimes until PostgreSQL has ended its transactions.
    async fn freeze(&mut self) {
        let caught = self.catch().await;
        let frozen = self.instances[caught].0;
        // Of every partition, and of keys that it cannot hold: the group has gone on without it.
        let upstream = self.orders.upstream();
        let sent: Vec<usize> =
            (0..40).map(|key| upstream.order(&format!("beside-{frozen}-{key}"), GOOD)).collect();
        for number in sent {
            self.happens(number).await;
        }
        if proving() && self.random.random_range(0..3) == 0 {
            eventually_async(LIMIT, "the server to end a frozen transaction", async || {
                (self.orders.open_transactions(frozen).await == 0).then_some(())
            })
            .await;
        }
        self.instances[caught].1.resume();
    }

    async fn restart_postgres(&mut self, fault: Fault) {
        // It stands still in the middle of a transaction until the server is gone.
        let caught = self.catch().await;
        match fault {
            Fault::PostgresFast => self.postgres.stop_fast(),
            _ => self.postgres.stop_immediate(),
        };
        let before = self.said("waiting for the database");
        self.instances[caught].1.resume();
        eventually_async(LIMIT, "consumers to notice that PostgreSQL is gone", async || {
            (self.said("waiting for the database") > before).then_some(())
        })
        .await;
        self.postgres.start_again();
    }

    async fn send_late(&mut self) {
        let upstream = self.orders.upstream();
        eventually_async(LIMIT, "orders to copy", async || (upstream.count() >= 100).then_some(())).await;
        let oldest = upstream.count() / 4;
        let mut last = 0;
        for _ in 0..40 {
            // What comes behind a copy in its partition shows that the copy was dealt with.
            let key = upstream.again(self.random.random_range(0..oldest));
            last = upstream.order(&key, GOOD);
        }
        self.happens(last).await;
    }

    async fn send_failing(&mut self) {
        let upstream = self.orders.upstream();
        let failing: Vec<(usize, u32)> = (2..7)
            .map(|until| (upstream.order(&format!("failing-{until}"), good_from(until)), until))
            .collect();
        for (number, until) in failing {
            self.happens(number).await;
            let attempt = format!("SELECT attempt::bigint FROM effects WHERE number = {number}");
            let attempt = self.orders.number(&attempt).await;
            assert!(attempt >= i64::from(until), "the attempts before have failed");
        }
    }

    async fn happens(&self, number: usize) {
        let query = format!("SELECT count(*) FROM effects WHERE number = {number}");
        let seen = async {
            while self.orders.number(&query).await == 0 {
                self.count().await;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let seen = tokio::time::timeout(LIMIT, seen).await;
        assert!(seen.is_ok(), "order {number} has not happened\n{}", self.logs());
    }

    /// Tells the sender how far the effects are.
    async fn count(&self) {
        let settled = "SELECT (SELECT count(*) FROM effects)
                            + (SELECT count(*) FROM inbox.settlement WHERE state = 'dead')";
        let settled = self.orders.number(settled).await;
        self.pace.settled.store(usize::try_from(settled).unwrap_or(0), SeqCst);
    }

    /// How often each instance was given a partition.
    fn assignments(&self) -> Vec<(usize, usize)> {
        self.instances.iter().map(|(number, _)| (*number, self.orders.said(*number, " assigned "))).collect()
    }

    /// Waits until one of these instances was given another partition.
    async fn assigned_anew(&self, before: &[(usize, usize)]) {
        eventually_async(LIMIT, "partitions to move", async || {
            before
                .iter()
                .any(|(number, count)| self.orders.said(*number, " assigned ") > *count)
                .then_some(())
        })
        .await;
    }

    fn said(&self, what: &str) -> usize {
        self.instances.iter().map(|(number, _)| self.orders.said(*number, what)).sum()
    }

    fn logs(&self) -> String {
        let logs = self.instances.iter().map(|(number, _)| self.orders.log(*number));
        logs.collect::<Vec<_>>().join("\n---\n")
    }
}

/// Sends until it is told to stop.
fn traffic(upstream: &Upstream, pace: &Pace, mut random: StdRng) {
    while !pace.stop.load(SeqCst) {
        std::thread::sleep(PACE);
        if upstream.count() > pace.settled.load(SeqCst) + BEHIND {
            continue;
        }
        let key = format!("customer-{}", random.random_range(0..KEYS));
        let usual = Asked { millis: random.random_range(0..40), ..GOOD };
        let asked = match random.random_range(0..200) {
            0 => Asked { millis: usual.millis, ..good_from(5) },
            1 => Asked { millis: usual.millis, ..good_from(2) },
            _ => usual,
        };
        let asked = match random.random_range(0..200) {
            drawn if drawn < pace.poison => failing(POISON),
            drawn if drawn < pace.poison * 2 => failing(PARKED_POISON),
            _ => asked,
        };
        let number = upstream.order(&key, asked);
        match random.random_range(0..100) {
            0..9 => _ = upstream.again(number),
            9 => _ = upstream.again(random.random_range(0..=number)),
            _ => {}
        }
    }
    upstream.flush();
}

/// Traffic of a seed, and faults in the middle of it, until every event that is any good has its effect.
async fn through_faults<'s>(
    orders: &'s Orders<'s>,
    (postgres, kafka, cutter): (&'s Postgres, &'s Kafka, &'s CommitCutter),
    (poison, environment): (u32, Vec<(&'static str, String)>),
    seed: u64,
) -> Ground<'s> {
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let faults = draw(if proving() { 60 } else { 15 }, &mut random);
    let pace = Arc::new(Pace { poison, ..Pace::default() });
    let sender = {
        let (upstream, pace) = (orders.upstream().clone(), pace.clone());
        let random = StdRng::seed_from_u64(random.random());
        std::thread::spawn(move || traffic(&upstream, &pace, random))
    };
    let (instances, started) = (Vec::new(), 0);
    let mut ground =
        Ground { orders, postgres, kafka, cutter, random, instances, started, pace, environment };
    (0..3).for_each(|_| _ = ground.start());
    let began = Instant::now();
    for (number, fault) in faults.iter().enumerate() {
        println!("{:>5.1?} fault {number}: {fault:?}", began.elapsed());
        ground.cause(*fault).await;
    }
    ground.pace.stop.store(true, SeqCst);
    sender.join().expect("the sender");
    let sent = orders.upstream().count() - poisoned(orders).len();
    let effects = orders.happened(sent, LIMIT, &ground.numbers()).await;
    assert_eq!(effects, Effects::once(sent));
    eventually_async(LIMIT, "every marker to go", async || {
        let left =
            "SELECT (SELECT count(*) FROM inbox.parked_key) + (SELECT count(*) FROM inbox.parked_event)";
        (orders.number(left).await == 0).then_some(())
    })
    .await;
    orders.committed_to_the_end(orders.name(), LIMIT).await;
    ground.instances.iter().for_each(|(_, process)| end(process));
    // What came twice was known by its inbox row, not by luck.
    let done = orders.number("SELECT count(*) FROM inbox.settlement WHERE state = 'done'").await;
    assert_eq!(usize::try_from(done), Ok(sent));
    let (answered, under_way) = cutter.lost();
    println!(
        "proof: {} faults in {:.0?}: {sent} events, none missing, doubled or reordered; {answered} answers of COMMIT lost \
         and {under_way} cut off under way (seed {seed})",
        faults.len(),
        began.elapsed()
    );
    ground
}

/// The orders that were never any good: ids and payloads.
fn poisoned(orders: &Orders<'_>) -> BTreeMap<String, String> {
    let sent = orders.upstream().sent().into_iter();
    let poison = sent.filter(|sent| sent.payload.contains("\"fails\":\"permanent"));
    poison.map(|sent| (sent.id.to_string(), sent.payload)).collect()
}

/// C1, C9, C10, C21, C22, C27 to C32, C43: every kind of fault, in random order and into one another.
#[tokio::test(flavor = "multi_thread")]
async fn effects_happen_once_and_in_order_through_every_fault() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("faults", &postgres, &kafka, program()).await;
    let cutter = CommitCutter::start(postgres.port());
    through_faults(&orders, (&postgres, &kafka, &cutter), (0, Vec::new()), workload::seed()).await;
}

/// More than there are instances in a run.
const LOGS: usize = 200;

/// Partition and offset of a letter, as its consumer has logged them: `letter=topic[1]@45`.
fn letter_of(line: &str) -> Option<(i32, i64)> {
    let (partition, offset) = line.split_once(" letter=")?.1.split_once('[')?.1.trim().split_once("]@")?;
    Some((partition.parse().ok()?, offset.trim_matches('"').parse().ok()?))
}

/// C10, C11, C23: the same with events that are no good under `skip`, some of them parked first. Every event has an
/// effect or a dead letter and none has both; a letter may have copies, of a process that ended between the letter and
/// its settlement, and they are one letter to whoever decides.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_an_effect_or_a_dead_letter_through_every_fault() {
    const NAME: &str = "faults_skip";
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare(NAME, &postgres, &kafka, program()).await;
    let cutter = CommitCutter::start(postgres.port());
    let skip = vec![("ORDER_EXHAUSTED", "skip".to_owned())];
    through_faults(&orders, (&postgres, &kafka, &cutter), (4, skip), workload::seed()).await;

    let poisoned = poisoned(&orders);
    let kinds = [POISON, PARKED_POISON].map(|kind| {
        let fails = format!("\"fails\":\"{kind}\"");
        poisoned.values().filter(|payload| payload.contains(&fails)).count()
    });
    assert!(kinds.iter().all(|kind| *kind > 0), "{kinds:?}");
    let mut log = Log::open(&kafka.brokers(), &[&format!("{NAME}.{NAME}.dlq")], Isolation::ReadUncommitted);
    log.catch_up();
    let letters: BTreeMap<String, String> = log
        .records()
        .iter()
        .map(|letter| {
            let value = String::from_utf8_lossy(letter.value.as_deref().unwrap_or_default()).into_owned();
            (letter.header("dlq.id").unwrap_or_default().to_owned(), value)
        })
        .collect();
    // Nothing that a consumer calls written is missing.
    let places = log.places();
    let mut said: Vec<String> =
        (0..LOGS).flat_map(|instance| orders.lines(instance, ": a dead letter: ")).collect();
    assert!(!said.is_empty(), "consumers say what they write");
    said.retain(|line| !letter_of(line).is_some_and(|place| places.contains(&place)));
    assert!(said.is_empty(), "written, and not there among {places:?}: {said:#?}");
    assert_eq!(letters, poisoned, "by id, with the original payload");
    let dead = orders.query("SELECT id::text FROM inbox.settlement WHERE state = 'dead'", &[]).await;
    let dead: BTreeSet<String> = dead.iter().map(|row| row.get(0)).collect();
    assert!(dead.iter().eq(poisoned.keys()), "settled as dead: {dead:?}, and no good were {poisoned:?}");
    let both =
        "SELECT count(*) FROM effects e JOIN inbox.settlement s ON s.id = e.event WHERE s.state <> 'done'";
    assert_eq!(orders.number(both).await, 0);
    let operator = Operator::beside(NAME, &postgres, &kafka);
    let (copies, all) = (log.records().len(), poisoned.len());
    says(&operator.does(&["project", "--group", NAME]), &[&format!("read {copies}, {copies} new")]);
    let open = operator.json(&["list", "--state", "open", "--limit", "10000"]);
    assert_eq!(open["letters"].as_array().map(Vec::len), Some(all), "{open}");
    println!(
        "proof: {all} dead letters, {kinds:?} of either kind, {copies} records, none missing and none in vain"
    );
}

/// C31, C55: an instance freezes with every handler in the middle of a transaction. Whoever takes its partitions waits
/// for the keys that it holds, and for no others.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_owner_delays_no_key_but_those_it_holds() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("frozen", &postgres, &kafka, program()).await;
    let upstream = orders.upstream();
    let frozen = orders.start(0);
    eventually_async(LIMIT, "the first instance's partitions", async || {
        (orders.said(0, " assigned ") == PARTITIONS).then_some(())
    })
    .await;
    // Progress first: without any the next owner would ask, record by record, which of them ends processes.
    (0..60).for_each(|key| _ = upstream.order(&format!("before-{key}"), GOOD));
    orders.happened(60, LIMIT, &[0]).await;
    orders.committed_to_the_end("frozen", LIMIT).await;
    for number in 0..16 {
        upstream.order(&format!("held-{number}"), Asked { millis: 1_500, ..GOOD });
    }
    upstream.flush();
    eventually_async(LIMIT, "sixteen open transactions", async || {
        (orders.open_transactions(0).await == 16).then_some(())
    })
    .await;
    frozen.pause();
    let other = orders.start(1);
    eventually_async(LIMIT, "the other's partitions", async || {
        (orders.said(1, " assigned ") == PARTITIONS).then_some(())
    })
    .await;
    let taken = Instant::now();
    (0..40).for_each(|key| _ = upstream.order(&format!("beside-{key}"), GOOD));
    upstream.flush();
    let beside = "SELECT count(*) FROM effects WHERE key LIKE 'beside-%'";
    eventually_async(LIMIT, "the keys that nobody holds", async || {
        (orders.number(beside).await == 40).then_some(())
    })
    .await;
    let (took, held) = (taken.elapsed(), orders.open_transactions(0).await);
    println!("proof: 40 keys beside 16 that a frozen owner holds took {took:.1?}");
    assert!(held >= 16, "the frozen owner holds what it held: {held} after {took:.1?}");
    assert!(took < Duration::from_secs(15), "{took:?}\n{}", orders.log(1));
    frozen.resume();
    let effects = orders.happened(upstream.count(), LIMIT, &[0, 1]).await;
    assert_eq!(effects, Effects::once(upstream.count()));
    end(&frozen);
    end(&other);
}

/// C43: the answers to COMMITs never come, and no connection ends. What stands between holds a worker and its key for as
/// long as the database is waited for, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_never_answered_is_found_out_about() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("silent", &postgres, &kafka, program()).await;
    let cutter = CommitCutter::start(postgres.port());
    let consumer = orders.start_with(0, &With { database_port: Some(cutter.port()), ..With::default() });
    let upstream = orders.upstream();
    (0..20).for_each(|key| _ = upstream.order(&format!("key-{key}"), GOOD));
    orders.happened(20, LIMIT, &[0]).await;
    cutter.silence(3);
    (0..60).for_each(|number| _ = upstream.order(&format!("key-{}", number % 20), GOOD));
    upstream.flush();
    eventually_async(LIMIT, "silence", async || (cutter.unsilenced() == 0).then_some(())).await;
    let since = Instant::now();
    let effects = orders.happened(80, LIMIT, &[0]).await;
    assert_eq!(effects, Effects::once(80));
    orders.committed_to_the_end("silent", LIMIT).await;
    assert!(orders.said(0, "the answer to a COMMIT is missing") > 0, "{}", orders.log(0));
    println!("proof: after COMMITs without an answer all was settled within {:.1?}", since.elapsed());
    end(&consumer);
}

/// A claim is sent right behind its BEGIN. Where that is refused the claim is, too: by itself it would settle the event
/// without its effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_is_refused_settles_nothing() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("begun", &postgres, &kafka, program()).await;
    let cutter = CommitCutter::start(postgres.port());
    let consumer = orders.start_with(0, &With { database_port: Some(cutter.port()), ..With::default() });
    let upstream = orders.upstream();
    (0..20).for_each(|key| _ = upstream.order(&format!("key-{key}"), GOOD));
    orders.happened(20, LIMIT, &[0]).await;
    cutter.refuse_begins(12);
    (0..60).for_each(|number| _ = upstream.order(&format!("key-{}", number % 20), GOOD));
    upstream.flush();
    assert_eq!(orders.happened(80, LIMIT, &[0]).await, Effects::once(80));
    assert_eq!(cutter.unrefused(), 0);
    orders.committed_to_the_end("begun", LIMIT).await;
    end(&consumer);
}

/// librdkafka waits by the wall clock. One that is set back by an hour while a consumer starts, or ends, holds up neither,
/// nor does it keep it from hearing that it shall end.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_back_holds_up_neither_start_nor_end() {
    let (postgres, kafka) = (Postgres::start(15), Kafka::start());
    let orders = Orders::prepare("set_back", &postgres, &kafka, program()).await;
    let directory = tempfile::tempdir().unwrap();
    let (clock, new) = (directory.path().join("clock"), directory.path().join("new"));
    let set = |by: &str| {
        std::fs::write(&new, format!("{by}\n")).unwrap();
        std::fs::rename(&new, &clock).unwrap();
    };
    let with = With {
        environment: vec![
            ("LD_PRELOAD", outbox_tests::parts::faketime().unwrap().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ],
        ..With::default()
    };
    for round in 0..3 {
        set("+3600");
        let process = orders.start_with(round, &with);
        // From before the first line of the program until it has read something.
        tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
        set("+0");
        orders.upstream().order("key", GOOD);
        orders.upstream().flush();
        orders.happened(round + 1, Duration::from_secs(30), &[round]).await;
        if round % 3 == 2 {
            set("+3600");
            // All its threads have begun a wait by that clock meanwhile.
            tokio::time::sleep(Duration::from_millis(200)).await;
            process.signal(Signal::TERM);
            set("+0");
        }
        end(&process);
    }
    assert_eq!(orders.effects().await, Effects::once(3));
}
