//! The nemesis: what it can do, and the lanes in which it does it.
//!
//! | module | what it owns |
//! |---|---|
//! | [`plan`] | which kinds come when: seeded, every kind before one comes again |
//! | [`relays`] | faults of the relays and of their connections to PostgreSQL |
//! | [`brokers`] | faults of the brokers and of all clients' connections to them, one broker at a time |
//! | [`postgres`] | faults of the server, of COMMITs, of the disk |
//! | [`consumers`] | faults of the consumers' instances, their connections and clocks |
//! | [`poison`] | events that cannot be published, read or survived |
//!
//! A lane makes one fault at a time; lanes do not wait for each other, so that faults of different parts meet.

pub mod brokers;
pub mod consumers;
pub mod plan;
pub mod poison;
pub mod postgres;
pub mod relays;

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::Cluster;
use super::record::Fault;
use super::stage::Stage;
use super::watch::Watch;
use crate::fault::proxy::{Direction, Proxy};
use crate::wait::watch;
use plan::Plan;

/// How long the effect of a fault may take to be seen.
const SEEN: Duration = Duration::from_secs(45);
/// How long what has to be there for a fault may be away.
const READY: Duration = Duration::from_secs(60);
/// Share of the duration that the last faults may take beyond it.
const OVERTIME: f64 = 0.2;

/// Whom a fault is made at. Faults of one lane never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The relays.
    Relays,
    /// The brokers.
    Brokers,
    /// PostgreSQL.
    Postgres,
    /// The consumers.
    Consumers,
    /// The events themselves.
    Poison,
}

/// All lanes.
pub const LANES: [Lane; 5] = [Lane::Relays, Lane::Brokers, Lane::Postgres, Lane::Consumers, Lane::Poison];

/// A kind of fault: what it is called, and how it is made, seen and taken back.
#[derive(Debug)]
pub struct Kind {
    /// In words.
    pub name: &'static str,
    /// Whom it is made at.
    pub lane: Lane,
    strike: fn(&mut Ground<'_>) -> Struck,
}

impl Kind {
    /// The name as one word, for `--faults`.
    pub fn word(&self) -> String {
        self.name.replace(' ', "-").replace(['\'', ','], "")
    }
}

/// What came of a fault.
#[derive(Debug, Default)]
pub struct Struck {
    /// A name of the cast.
    pub target: String,
    /// How its effect was seen.
    pub seen: Option<String>,
}

impl Struck {
    fn at(target: &str, seen: Option<String>) -> Struck {
        Struck { target: target.to_owned(), seen }
    }

    /// There was nobody to be struck.
    fn nobody() -> Struck {
        Struck::at("nobody", None)
    }
}

macro_rules! kinds {
    ($($lane:ident: $($name:literal => $strike:path),+;)+) => {
        /// All kinds of fault.
        pub static KINDS: &[Kind] = &[$($(Kind { name: $name, lane: Lane::$lane, strike: $strike }),+),+];
    };
}

kinds! {
    Relays:
        "relay killed" => relays::killed,
        "relay frozen" => relays::frozen,
        "relay frozen until another took over" => relays::frozen_for_long,
        "relay told to end" => relays::told_to_end,
        "relay cut off from PostgreSQL" => relays::cut,
        "relay half-open to PostgreSQL" => relays::half_open,
        "relay in the dark towards PostgreSQL" => relays::black,
        "relay far from PostgreSQL" => relays::delayed,
        "walsender terminated" => relays::walsender,
        "slot dropped" => relays::slot_dropped;
    Brokers:
        "broker killed" => brokers::killed,
        "broker frozen" => brokers::frozen,
        "broker restarted" => brokers::restarted,
        "broker's connections cut" => brokers::cut,
        "broker's connections half-open" => brokers::half_open,
        "broker unreachable" => brokers::refused,
        "broker's answers delayed" => brokers::delayed,
        "acknowledgements eaten" => brokers::eaten,
        "leaders moved" => brokers::leaders_moved;
    Postgres:
        "PostgreSQL restarted" => postgres::restarted,
        "PostgreSQL crashed" => postgres::crashed,
        "PostgreSQL replaced by its standby" => postgres::replaced,
        "backends terminated" => postgres::terminated,
        "consumers' COMMIT answers eaten" => postgres::consumers_commits,
        "services' COMMIT answers eaten" => postgres::services_commits,
        "disk full" => postgres::disk_full;
    Consumers:
        "consumer killed" => consumers::killed,
        "consumer frozen" => consumers::frozen,
        "group rebalanced" => consumers::rebalanced,
        "consumer cut off from PostgreSQL" => consumers::cut,
        "consumer half-open to PostgreSQL" => consumers::half_open,
        "consumer in the dark towards PostgreSQL" => consumers::black,
        "consumer far from PostgreSQL" => consumers::delayed,
        "consumer's clock jumped" => consumers::clock;
    Poison:
        "poison for the relay" => poison::huge,
        "poison for the consumers" => poison::unreadable,
        "poison that ends the process" => poison::deadly;
}

/// What a lane stands on.
#[derive(Debug)]
pub struct Ground<'a> {
    /// The cast.
    pub stage: &'a Stage,
    /// The brokers, asked.
    pub cluster: Cluster,
    /// Decides targets, directions and lengths.
    pub random: StdRng,
    clock: &'a Watch,
    over: Option<f64>,
    count: usize,
}

impl Ground<'_> {
    /// The fault was taken back, or is over by itself; what follows only waits.
    fn over(&mut self) {
        self.over = Some(self.clock.at());
    }

    /// A length of time, drawn.
    fn draw(&mut self, millis: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(millis))
    }

    /// Lets a fault last.
    fn last(&mut self, millis: std::ops::Range<u64>) {
        let length = self.draw(millis);
        std::thread::sleep(length);
    }

    fn direction(&mut self) -> Direction {
        if self.random.random_range(0..2) == 0 { Direction::ToServer } else { Direction::ToClient }
    }

    /// A number that no fault of this lane had before.
    fn number(&mut self) -> usize {
        self.count += 1;
        self.count
    }
}

/// Waits with other intervals than tests do: what is asked here costs something.
fn until<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    watch(limit, || {
        let seen = probe();
        if seen.is_none() {
            std::thread::sleep(Duration::from_millis(90));
        }
        seen
    })
}

/// Lets everything pass again on connections that may have lost bytes.
fn mend(proxy: &Proxy) {
    proxy.cut();
    proxy.resume();
}

/// What is asked of a nemesis.
#[derive(Debug)]
pub struct Orders<'a> {
    /// Kinds that it may use.
    pub kinds: &'a [&'static Kind],
    /// How long.
    pub duration: Duration,
    /// Of plans, targets and lengths.
    pub seed: u64,
}

/// Makes faults until the time is over; returns them in the order in which they began.
pub fn rage(orders: &Orders<'_>, stage: &Stage, clock: &Watch, faults: &Mutex<Vec<Fault>>) {
    std::thread::scope(|threads| {
        for (number, lane) in LANES.into_iter().enumerate() {
            let kinds: Vec<&'static Kind> =
                orders.kinds.iter().copied().filter(|kind| kind.lane == lane).collect();
            if kinds.is_empty() {
                continue;
            }
            let random = StdRng::seed_from_u64(orders.seed.wrapping_add(1_000 + number as u64));
            let ground =
                Ground { stage, cluster: Cluster::of(&stage.kafka), random, clock, over: None, count: 0 };
            threads.spawn(move || go(ground, &kinds, orders.duration, faults));
        }
    });
}

fn go(mut ground: Ground<'_>, kinds: &[&'static Kind], duration: Duration, faults: &Mutex<Vec<Fault>>) {
    let mut plan = Plan::draw(kinds.len(), duration, &mut ground.random);
    let began = Instant::now();
    while let Some((at, which)) = plan.next_due() {
        let overtime = duration.mul_f64(if plan.is_owed() { 1.0 + OVERTIME } else { 1.0 });
        while began.elapsed() < at && !ground.clock.has_enough() {
            std::thread::sleep(at.saturating_sub(began.elapsed()).min(Duration::from_millis(200)));
        }
        if ground.clock.has_enough() || (began.elapsed() > overtime && !plan.is_first_round()) {
            return;
        }
        let kind = kinds[which];
        let from_s = ground.clock.at();
        ground.over = None;
        let struck = (kind.strike)(&mut ground);
        let until_s = ground.over.unwrap_or_else(|| ground.clock.at());
        plan.struck(which, struck.seen.is_some());
        let fault =
            Fault { kind: kind.name.to_owned(), target: struck.target, from_s, until_s, seen: struck.seen };
        faults.lock().push(fault);
    }
}
