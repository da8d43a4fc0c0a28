//! `outbox-relay backfill`: publishes events of the table again, by time, id or key.
//!
//! It tells the running relay by messages in the database's log (`Do::Republish`), so that each event has one place in
//! the stream, in the order of what follows, also if the relay is killed meanwhile. The ids stay what they are, and
//! consumers deduplicate by them.

mod choice;
#[cfg(test)]
mod fixture;
mod rows;
mod send;

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Exit, OneLane, outlook, output, runtime};
use crate::config::Settings;
use crate::lsn::Lsn;
use crate::router::Plan;
use choice::Choice;
use rows::{Extent, Rows};

const EXAMPLES: &str = "\
Examples:
  outbox-relay backfill --from 2026-11-22T10:00:00Z --to 2026-11-22T11:00:00Z --dry-run
  outbox-relay backfill --from 2026-11-22T10:00:00Z --to 2026-11-22T11:00:00Z --rate 200 --yes
  outbox-relay backfill --id 019aa3d1-2c5b-7000-8000-000000000001
  outbox-relay backfill --key o-1 --aggregatetype order

Each event that stands in the table is published once more, under the id that it has, by the routing of now, in the
order of its insertion; consumers that deduplicate by id have no second effect. The running relay does it, where its
stream has come to: what is committed later comes behind it. Events that were cleaned up are not in the table any more.
While it reads, the clean-up leaves the table alone. A consumer dead-letters what is older than its inbox remembers.

Exits with 0 when the relay has confirmed everything, with 1 if it has not, or if it was interrupted; what was told is
followed even then, and the last line says how to go on.";

/// More events than this are asked about first.
const MANY: u64 = 1_000;

/// What `backfill` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BackfillArgs {
    #[command(flatten)]
    place: OneLane,
    #[command(flatten)]
    choice: Choice,
    /// Count them, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Events a second at most
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Do not ask, however many they are
    #[arg(long)]
    yes: bool,
    /// End as soon as the relay is told, without waiting for it
    #[arg(long)]
    no_wait: bool,
    /// Seconds to wait for the relay at the end
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// How it ended.
#[derive(Debug, Clone, Default, Serialize)]
struct Report {
    relay: String,
    dry_run: bool,
    /// Events that were meant.
    events: u64,
    /// Those that the relay was told to publish.
    told: u64,
    /// `seq` of the first that was meant.
    first_seq: Option<i64>,
    /// `seq` of the last that was meant.
    last_seq: Option<i64>,
    /// When the earliest was made.
    earliest: Option<String>,
    /// When the latest was made.
    latest: Option<String>,
    /// `seq` of the last that the relay was told; what `--after` takes.
    told_up_to: Option<i64>,
    /// The log position up to which the relay has to come.
    lsn: Option<Lsn>,
    /// Whether it has.
    confirmed: bool,
    /// Why it ended before everything was done, in words.
    stopped: Option<String>,
}

/// Looks, asks, tells, waits.
pub fn execute(args: BackfillArgs) -> Exit {
    let settings = match args.place.load() {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    match on_runtime(settings, &args) {
        Ok(Some(report)) => {
            let page = if args.json { output::json(&report) } else { report.text() };
            match output::print(&page) {
                Exit::Success if report.stopped.is_some() => Exit::Failure,
                exit => exit,
            }
        }
        Ok(None) => Exit::Failure,
        Err(error) => {
            eprintln!("outbox-relay backfill: {error:#}");
            Exit::Failure
        }
    }
}

fn on_runtime(settings: Settings, args: &BackfillArgs) -> anyhow::Result<Option<Report>> {
    let runtime = runtime(1)?;
    let report = runtime.block_on(backfill(Arc::new(settings), args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    report
}

/// `None` where a person said no.
async fn backfill(settings: Arc<Settings>, args: &BackfillArgs) -> anyhow::Result<Option<Report>> {
    if settings.outbox.message_prefix.is_some() {
        anyhow::bail!(
            "with outbox.from = \"messages\" events stand in no table: there is nothing to publish from"
        );
    }
    let settings = Arc::new(outlook::at_primary(&settings).await);
    let rows = Rows::open(&settings, &args.choice).await?;
    // The running relay compiles the same, and can only pass over what it cannot.
    Plan::compile(rows.shape(), &settings.outbox, &settings.kafka)?;
    let extent = rows.extent(&settings).await?;
    let mut report = Report::of(&settings, &extent, args.dry_run);
    if args.dry_run || extent.count == 0 {
        return Ok(Some(report));
    }
    anyhow::ensure!(
        settings.outbox.backfill,
        "outbox.backfill is false, so that the relay would not follow: take the right to write messages from everybody \
         (`outbox-relay check` says how), set outbox.backfill = true and start the relay again"
    );
    if extent.count > MANY && !args.yes && !agreed(&extent, args.rate)? {
        return Ok(None);
    }
    send::send(&settings, &rows, args, &mut report).await?;
    Ok(Some(report))
}

/// Asks; where nobody can answer, nothing is done.
fn agreed(extent: &Extent, rate: u32) -> anyhow::Result<bool> {
    let asked = format!(
        "{} events are to be published again, for about {}",
        extent.count,
        output::duration(extent.count as f64 / f64::from(rate))
    );
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        anyhow::bail!("{asked}; that is more than {MANY}: say --yes if they are meant");
    }
    eprint!("{asked}. Go on? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    let agreed = matches!(answer.trim(), "y" | "Y" | "yes");
    if !agreed {
        eprintln!("nothing was done");
    }
    Ok(agreed)
}

impl Report {
    fn of(settings: &Settings, extent: &Extent, dry_run: bool) -> Report {
        Report {
            relay: settings.name.clone(),
            dry_run,
            events: extent.count,
            first_seq: extent.seq.map(|seq| seq.0),
            last_seq: extent.seq.map(|seq| seq.1),
            earliest: extent.made.map(|made| made.0.to_string()),
            latest: extent.made.map(|made| made.1.to_string()),
            ..Report::default()
        }
    }

    fn text(&self) -> String {
        let Some((first, last)) = self.first_seq.zip(self.last_seq) else {
            return "no event of the table is meant by that\n".into();
        };
        let made = match (&self.earliest, &self.latest) {
            (Some(earliest), Some(latest)) => format!(", made from {earliest} to {latest}"),
            (_, _) => String::new(),
        };
        let meant = format!("{} events, seq {first} to {last}{made}", self.events);
        if self.dry_run {
            return format!("{meant}\nnothing was done; without --dry-run they are published again\n");
        }
        let relay = &self.relay;
        let mut page = format!("{meant}\n");
        page += &match &self.lsn {
            Some(lsn) if self.confirmed => {
                format!(
                    "relay {relay} has read the order for {} of them, and is confirmed up to {lsn}: they are published again, but for \
                     what its log and its quarantine name\n",
                    self.told
                )
            }
            Some(lsn) => format!(
                "relay {relay} was told to publish {} of them again, by messages up to {lsn}\n",
                self.told
            ),
            None => format!("relay {relay} was told nothing\n"),
        };
        if let Some(stopped) = &self.stopped {
            page += &format!("{stopped}\n");
            if self.told < self.events {
                page += &match self.told_up_to {
                    Some(seq) => format!("go on with the same command and --after {seq}\n"),
                    None => "go on with the same command\n".to_owned(),
                };
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            relay: "orders".into(),
            events: 3,
            told: 2,
            first_seq: Some(5),
            last_seq: Some(9),
            told_up_to: Some(7),
            lsn: Some(Lsn(0x100)),
            stopped: Some("interrupted".into()),
            ..Report::default()
        }
    }

    #[test]
    fn an_interrupted_one_says_how_to_go_on() {
        let text = report().text();
        assert!(text.contains("was told to publish 2 of them") && text.ends_with("--after 7\n"), "{text}");
        let nothing = Report { told: 0, told_up_to: None, lsn: None, ..report() }.text();
        assert!(nothing.contains("was told nothing") && nothing.ends_with("the same command\n"), "{nothing}");
    }

    #[test]
    fn a_whole_one_says_what_is_known() {
        let whole = Report { told: 3, confirmed: true, stopped: None, ..report() }.text();
        assert!(whole.contains("has read the order for 3") && !whole.contains("go on"), "{whole}");
        let silent = Report { told: 3, stopped: Some("no relay is streaming".into()), ..report() }.text();
        assert!(!silent.contains("go on with"), "{silent}");
        assert!(Report { dry_run: true, ..report() }.text().contains("nothing was done"));
        assert!(Report::default().text().contains("no event"));
    }
}
