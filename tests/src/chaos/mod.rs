//! Chaos: the whole product on one machine, faults of every kind at it, and a judge.
//!
//! | module | what it owns |
//! |---|---|
//! | [`stage`] | the cast: servers, relays, consumers, and the proxies between them |
//! | [`actor`] | a process that is started again whenever it has ended |
//! | [`disk`] | a small file system that can be filled |
//! | [`load`] | the services: producers in several shapes |
//! | [`lot`] | which event fails in a handler, and how |
//! | [`nemesis`] | the faults: when, at whom, how their effect is seen |
//! | [`cluster`], [`database`] | questions to servers that may be away |
//! | [`watch`] | figures over time |
//! | [`settle`] | behind the last fault: waiting until nothing is left to be done |
//! | [`judge`] | every rule, and what broke it |
//! | [`record`] | what a run leaves behind: the data of its reports |
//! | [`report`] | the reports, as Markdown and as HTML |

pub mod actor;
pub mod cluster;
pub mod database;
pub mod disk;
pub mod judge;
pub mod load;
pub mod lot;
pub mod nemesis;
pub mod record;
pub mod report;
pub mod settle;
pub mod stage;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::bench::machine::Machine;
use crate::parts;
use crate::wait::watch as wait;
use load::Load;
use nemesis::Kind;
use record::{Fault, Run, Sample};
use stage::Stage;
use watch::Watch;

/// How long it may take until everybody has handled something.
const WARM: Duration = Duration::from_secs(120);
/// Effects of all scopes before the first fault.
const WARM_EFFECTS: u64 = 300;

/// What is asked of a run.
#[derive(Debug)]
pub struct Asked {
    /// The command that makes it again.
    pub command: String,
    /// Of the faults, their targets and their times, and of the events.
    pub seed: u64,
    /// How long faults are made.
    pub duration: Duration,
    /// Kinds of fault that are made.
    pub kinds: Vec<&'static Kind>,
    /// Events a second, about.
    pub rate: u32,
    /// How long everything may take to be settled behind the last fault.
    pub patience: Duration,
    /// Where logs go.
    pub logs: PathBuf,
}

/// Sets the stage, lets the nemesis rage, waits until everything is settled, and judges. `progress` is told of every
/// sample and of the faults so far; it answers whether the nemesis is to stop.
///
/// # Panics
/// When a part is missing, or a server does not start again.
pub fn run(asked: &Asked, handle: &Handle, progress: &(dyn Fn(&Sample, &[Fault]) -> bool + Sync)) -> Run {
    let began = jiff::Timestamp::now();
    let stage = handle.block_on(Stage::set(&asked.logs, asked.duration));
    let load = handle.block_on(Load::start(&stage, asked.seed, asked.rate));
    let (clock, faults) = (Watch::begin(), Mutex::new(Vec::new()));
    let mut run = Run {
        command: asked.command.clone(),
        seed: asked.seed,
        commit: commit(),
        began: began.to_string(),
        duration_s: 0.0,
        settled_s: 0.0,
        machine: Machine::here(),
        versions: versions(&stage),
        cast: stage.cast(),
        faults: Vec::new(),
        samples: Vec::new(),
        figures: BTreeMap::new(),
        rules: Vec::new(),
    };
    std::thread::scope(|threads| {
        let guard = StopOnDrop(&clock);
        threads.spawn(|| clock.brokers(&stage));
        threads.spawn(|| clock.figures(&stage, &load));
        threads.spawn(|| report(&clock, &faults, progress));
        let warm = wait(WARM, || (clock.newest().effects > WARM_EFFECTS).then_some(()));
        assert!(warm.is_some(), "nothing is handled; logs are in {}", asked.logs.display());
        let from = clock.at();
        let orders = nemesis::Orders { kinds: &asked.kinds, duration: asked.duration, seed: asked.seed };
        nemesis::rage(&orders, &stage, &clock, &faults);
        run.duration_s = clock.at() - from;
        let rolled_back = handle.block_on(load.stop());
        let settled = settle::settle(&stage, handle, &clock, asked.patience);
        run.settled_s = settled.seconds;
        let found = judge::Found::read(&stage, settled, rolled_back);
        clock.stop();
        judge::judge(&found, &mut run);
        drop(guard);
    });
    run.samples = clock.samples();
    run.faults = faults.into_inner();
    run.faults.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    run.figures.insert("faults".into(), count(run.faults.len()));
    run.figures
        .insert("faults seen".into(), count(run.faults.iter().filter(|fault| fault.seen.is_some()).count()));
    run
}

/// Threads that watch end also where the run panics.
struct StopOnDrop<'a>(&'a Watch);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.enough();
        self.0.stop();
    }
}

fn report(clock: &Watch, faults: &Mutex<Vec<Fault>>, progress: &(dyn Fn(&Sample, &[Fault]) -> bool + Sync)) {
    while !clock.is_stopped() {
        std::thread::sleep(Duration::from_secs(1));
        if progress(&clock.newest(), &faults.lock()) {
            clock.enough();
        }
    }
}

/// The commit that this was built of, as far as git says.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("git").arg("-C").arg(directory).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let dirty =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changed| !changed.is_empty());
    let name = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
    if dirty { format!("{name}-dirty") } else { name }
}

fn versions(stage: &Stage) -> BTreeMap<String, String> {
    let said = |program: &Path, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").to_owned()
    };
    let postgres = stage.outbox.ask("SHOW server_version", &[]).first().map(|row| row.get(0));
    let kafka = parts::kafka_libs().ok().and_then(|libs| Some(libs.file_name()?.to_str()?.to_owned()));
    let unknown = || "unknown".to_owned();
    BTreeMap::from([
        ("PostgreSQL".into(), postgres.unwrap_or_else(unknown)),
        ("Kafka".into(), kafka.map_or_else(unknown, |name| name.trim_start_matches("kafka-").to_owned())),
        ("Java".into(), parts::java().map_or_else(|_| unknown(), |java| said(&java, "-version"))),
        ("librdkafka".into(), rdkafka::util::get_rdkafka_version().1),
        ("relay".into(), parts::relay().map_or_else(|_| unknown(), |relay| said(&relay, "--version"))),
    ])
}
