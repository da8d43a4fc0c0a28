//! `quarantine release` and `quarantine discard`.

use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::choice::{Choice, pick};
use super::entry::{Entry, Key, State, clean};
use super::fetch::{Filter, PAUSE, Source};
use super::{Place, QuarantineError};
use crate::commands::{Exit, output};
use crate::config::kinds::{Kind, Span};

/// Which entries, and what to do beside deciding.
#[derive(Debug, Args)]
pub struct Which {
    #[command(flatten)]
    pub place: Place,
    /// Events by position, such as 3/00000016B374D848/7, or by id
    #[arg(
        value_name = "POSITION|ID",
        required_unless_present_any = ["topic", "all"],
        conflicts_with_all = ["topic", "all"]
    )]
    events: Vec<Choice>,
    /// Every event that waits for a decision and is of this topic, or of an order of this name
    #[arg(long, conflicts_with = "all")]
    topic: Option<String>,
    /// With --topic: of this key only, text or \x and hex digits
    #[arg(long, requires = "topic", conflicts_with_all = ["all", "events"])]
    key: Option<Key>,
    /// Every event that waits for a decision
    #[arg(long)]
    all: bool,
    /// Say what would be decided, and decide nothing
    #[arg(long)]
    dry_run: bool,
    /// Wait until the relay has published or discarded them [default: 1m if given without a time, else not at all]
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1m", value_parser = time)]
    wait: Option<Duration>,
}

/// What `release` takes.
#[derive(Debug, Args)]
pub struct ReleaseArgs {
    #[command(flatten)]
    pub which: Which,
    /// Why; stands in the entry from then on
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    note: Option<String>,
}

/// What `discard` takes.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    #[command(flatten)]
    pub which: Which,
    /// Why; stands in the entry from then on
    #[arg(long, required_unless_present = "dry_run", value_parser = NonEmptyStringValueParser::new())]
    note: Option<String>,
    /// Really: consumers never see these events
    #[arg(long, required_unless_present = "dry_run")]
    yes: bool,
}

/// A decision, in the words of each place.
#[derive(Debug, Clone, Copy)]
struct Decision {
    /// For `outbox.decide()`.
    name: &'static str,
    /// For people.
    past: &'static str,
}

const RELEASE: Decision = Decision { name: "release", past: "released" };
const DISCARD: Decision = Decision { name: "discard", past: "discarded" };

fn time(text: &str) -> Result<Duration, String> {
    Span { min: Duration::from_secs(1), max: Duration::from_secs(86_400) }.read(text)
}

/// Publishes after all.
pub async fn release(source: &Source, args: &ReleaseArgs) -> Result<Exit, QuarantineError> {
    decide(source, &args.which, RELEASE, args.note.as_deref()).await
}

/// Never publishes.
pub async fn discard(source: &Source, args: &DiscardArgs) -> Result<Exit, QuarantineError> {
    decide(source, &args.which, DISCARD, args.note.as_deref()).await
}

/// Each entry by itself: what cannot be decided is told and does not keep the others from it.
async fn decide(
    source: &Source,
    which: &Which,
    decision: Decision,
    note: Option<&str>,
) -> Result<Exit, QuarantineError> {
    let (entries, mut failed) = chosen(source, which).await?;
    let mut decided = Vec::new();
    for entry in entries {
        if which.dry_run {
            say(&format!("would be {}  {}\n", decision.past, line(&entry)));
            continue;
        }
        match source.decide(&entry, decision.name, note).await {
            Ok(()) => {
                say(&format!("{}  {}\n", decision.past, line(&entry)));
                decided.push(entry);
            }
            Err(QuarantineError::Refused(sentence)) => {
                complain(&sentence);
                failed = true;
            }
            Err(error) => return Err(error),
        }
    }
    if !decided.is_empty() {
        say(&outlook(decided.len(), which.wait));
        if let Some(limit) = which.wait {
            failed |= !wait(source, decided, limit).await?;
        }
    }
    Ok(if failed { Exit::Failure } else { Exit::Success })
}

/// The entries that are meant, each once, and whether something was named that is not there.
async fn chosen(source: &Source, which: &Which) -> Result<(Vec<Entry>, bool), QuarantineError> {
    if which.events.is_empty() {
        let filter = Filter { topic: which.topic.as_deref(), key: which.key.as_ref(), all: false };
        let mut entries = source.list(filter, None).await?;
        entries.retain(|entry| entry.state.waits_for_a_decision());
        if entries.is_empty() {
            return Err(QuarantineError::Refused("no event of these waits for a decision".into()));
        }
        return Ok((entries, false));
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut failed = false;
    for choice in &which.events {
        match pick(choice, source.find(choice).await?) {
            Ok(entry) => {
                let same = |other: &Entry| (other.position, other.lane) == (entry.position, entry.lane);
                if !entries.iter().any(same) {
                    entries.push(entry);
                }
            }
            Err(sentence) => {
                complain(&sentence);
                failed = true;
            }
        }
    }
    Ok((entries, failed))
}

/// Waits until the relay is done with all of them; whether it did what was decided.
async fn wait(source: &Source, mut open: Vec<Entry>, limit: Duration) -> Result<bool, QuarantineError> {
    let begun = Instant::now();
    let mut well = true;
    loop {
        let mut left = Vec::new();
        for entry in open {
            match look(source, &entry).await? {
                Fate::Open => left.push(entry),
                Fate::Settled(state) => say(&format!("{}  {}\n", state.name(), entry.position)),
                Fate::Again(reason) => {
                    well = false;
                    complain(&format!("{} is held again: {}", entry.position, clean(&reason)));
                }
            }
        }
        if left.is_empty() {
            return Ok(well);
        }
        if begun.elapsed() >= limit {
            complain(&overdue(&left, limit));
            return Ok(false);
        }
        open = left;
        tokio::time::sleep(PAUSE.min(limit.saturating_sub(begun.elapsed()))).await;
    }
}

/// What has become of an entry that was decided on.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// The relay has not come to it.
    Open,
    /// It is published or discarded.
    Settled(State),
    /// It could not be published this time either; the reason.
    Again(String),
}

async fn look(source: &Source, entry: &Entry) -> Result<Fate, QuarantineError> {
    let found = source.find(&Choice::Position(entry.position)).await?;
    let Some(now) = found.into_iter().find(|found| found.lane == entry.lane) else {
        return Err(QuarantineError::Refused(format!(
            "the entry of {} is gone; only its owner deletes entries, when they are settled",
            entry.position
        )));
    };
    Ok(fate(now))
}

fn fate(now: Entry) -> Fate {
    match now.state {
        State::Releasing | State::Discarding => Fate::Open,
        State::Published | State::Discarded => Fate::Settled(now.state),
        State::Held | State::Queued | State::Passed => Fate::Again(now.reason),
    }
}

/// The entry in one line, with what hangs on it.
fn line(entry: &Entry) -> String {
    let key = entry.key.as_ref().map(|key| format!(" key {}", key.text())).unwrap_or_default();
    let behind = match entry.behind {
        0 => "nothing queues behind it".into(),
        1 => "1 event queues behind it".into(),
        behind => format!("{behind} events queue behind it"),
    };
    format!("{}  {}{key}; {behind}", entry.position, entry.destination())
}

fn outlook(decided: usize, wait: Option<Duration>) -> String {
    let what = if decided == 1 { "the decision" } else { "the decisions" };
    let then = match wait {
        None => String::new(),
        Some(limit) => format!("; waiting for that, up to {}", output::duration(limit.as_secs_f64())),
    };
    format!("takes effect when the relay reads {what} in its stream{then}\n")
}

fn overdue(left: &[Entry], limit: Duration) -> String {
    let positions: Vec<String> = left.iter().take(5).map(|entry| entry.position.to_string()).collect();
    let more = if left.len() > positions.len() { ", …" } else { "" };
    format!(
        "after {} the relay has not come to {}{more}. The decision stands: look with `outbox-relay status` whether \
         the relay runs and how far behind it is",
        output::duration(limit.as_secs_f64()),
        positions.join(", ")
    )
}

/// A closed pipe must not stop half way what was begun.
fn say(text: &str) {
    output::print(text);
}

fn complain(sentence: &str) {
    eprintln!("outbox-relay quarantine: {sentence}");
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::entry::tests::entry;
    use super::*;

    #[derive(Debug, Parser)]
    struct Release {
        #[command(flatten)]
        args: ReleaseArgs,
    }

    #[derive(Debug, Parser)]
    struct Discard {
        #[command(flatten)]
        args: DiscardArgs,
    }

    #[test]
    fn exactly_one_way_names_the_events() {
        for line in [
            "release 3/00000016B374D848/7 other-id",
            "release --topic t",
            "release --topic t --key k --dry-run",
            "release --all --wait --note n",
            "release x --wait=250s",
        ] {
            assert!(Release::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "release",
            "release x --all",
            "release x --topic t",
            "release --all --topic t",
            "release --key k",
            "release --all --key k",
            "release x --key k",
            "release x --note=",
            "release x --wait=0s",
            "release x --wait=soon",
        ] {
            assert!(Release::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let args = Release::try_parse_from(["release", "--wait", "x"]).unwrap().args;
        assert_eq!(args.which.wait, Some(Duration::from_secs(60)));
        assert_eq!(args.which.events, [Choice::Id("x".into())]);
    }

    #[test]
    fn to_discard_asks_for_a_reason_and_a_yes() {
        for line in ["discard x --note n --yes", "discard x --dry-run", "discard --all --note n --yes --wait"]
        {
            assert!(Discard::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in ["discard x", "discard x --yes", "discard x --note n"] {
            assert!(Discard::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn every_state_is_a_fate() {
        let of = |state| fate(Entry { state, ..entry() });
        assert_eq!(of(State::Releasing), Fate::Open);
        assert_eq!(of(State::Discarding), Fate::Open);
        assert_eq!(of(State::Published), Fate::Settled(State::Published));
        assert_eq!(of(State::Held), Fate::Again(entry().reason));
        assert_eq!(of(State::Passed), Fate::Again(entry().reason));
    }

    #[test]
    fn what_comes_next_is_said() {
        let expected = "3/00000016B374D848/7  outbox.event.order key o-1; 3 events queue behind it";
        assert_eq!(line(&entry()), expected);
        assert_eq!(
            outlook(2, Some(Duration::from_secs(60))),
            "takes effect when the relay reads the decisions in its stream; waiting for that, up to 1 min 0 s\n"
        );
        let sentence = overdue(&vec![entry(); 7], Duration::from_secs(5));
        assert!(
            sentence.starts_with("after 5 s the relay has not come to 3/00000016B374D848/7, "),
            "{sentence}"
        );
        assert!(sentence.contains(", …. The decision stands"), "{sentence}");
    }
}
