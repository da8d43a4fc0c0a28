//! Which letters are meant.

use std::collections::BTreeSet;

use clap::Args;
use clap::builder::PossibleValuesParser;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::letter::{COLUMNS, Key, LetterRow};
use super::{CommandError, output};

/// The states that the view shows.
pub const STATES: [&str; 6] = ["open", "replaying", "replayed", "discarded", "restored", "superseded"];
/// Those that wait for a decision.
pub const WAITING: [&str; 2] = ["open", "restored"];

/// What letters have in common. All that is given has to hold.
#[derive(Debug, Default, Clone, Args)]
pub struct Filter {
    /// Letters of this consumer
    #[arg(long)]
    pub scope: Option<String>,
    /// Letters whose record came from this topic
    #[arg(long)]
    pub topic: Option<String>,
    /// Letters with this class of cause
    #[arg(long)]
    pub cause: Option<String>,
    /// Letters whose error has this text in it, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    pub error: Option<String>,
    /// Letters that failed last at or after this time: 2026-01-02T03:04:05Z, or 90s, 30m, 2h, 7d ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Letters that failed last before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub until: Option<Timestamp>,
    /// Letters of this key: text, or \x and hex digits
    #[arg(long, value_parser = Key::read)]
    pub key: Option<Key>,
}

impl Filter {
    /// Whether anything but the scope is asked for.
    pub fn is_empty(&self) -> bool {
        self.scope.is_none()
            && self.topic.is_none()
            && self.cause.is_none()
            && self.error.is_none()
            && self.since.is_none()
            && self.until.is_none()
            && self.key.is_none()
    }
}

/// Which letters a command is about: some by name, or all that a filter lets through.
#[derive(Debug, Args)]
pub struct Choice {
    /// Letters by name: the event's id, or topic/partition/offset of the source record
    #[arg(value_name = "LETTER")]
    pub letters: Vec<String>,
    #[command(flatten)]
    pub filter: Filter,
    /// All letters that wait for a decision, with no filter
    #[arg(long, conflicts_with = "letters")]
    pub all: bool,
}

/// Which states, and in which order.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// `None` for every state.
    pub states: Option<&'a [&'a str]>,
    /// `None` for every letter.
    pub letters: Option<&'a [String]>,
    /// What the database sorts by.
    pub order: &'static str,
    /// Most rows; `None` for all.
    pub limit: Option<i64>,
}

/// Who is late comes first.
pub const BY_DEADLINE: &str = "deadline, scope, letter";
/// As the source had them, so that a key's events are replayed in its order.
pub const BY_SOURCE: &str =
    "scope, source_topic, source_partition NULLS LAST, source_offset NULLS LAST, letter";

/// A parser for `--state`.
pub fn states() -> PossibleValuesParser {
    PossibleValuesParser::new(STATES)
}

/// A time, or how long ago.
pub fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = || {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let number: i64 = number.parse().ok().filter(|number| *number >= 0)?;
        Timestamp::now().checked_sub(SignedDuration::from_secs(number.checked_mul(seconds)?)).ok()
    };
    ago().ok_or_else(|| "write a time such as 2026-01-02T03:04:05Z, or how long ago: 90s, 30m, 2h, 7d".into())
}

/// The letters of a filter.
pub async fn find(client: &Client, filter: &Filter, look: Look<'_>) -> Result<Vec<LetterRow>, CommandError> {
    let query = format!(
        "SELECT {COLUMNS} FROM inbox.dead_letters WHERE {CONDITION} ORDER BY {} LIMIT $10",
        look.order
    );
    let key = filter.key.as_ref().map(|key| key.0.as_slice());
    let rows = client
        .query(
            &query,
            &[
                &filter.scope,
                &filter.topic,
                &filter.cause,
                &filter.error,
                &filter.since,
                &filter.until,
                &key,
                &look.states,
                &look.letters,
                &look.limit,
            ],
        )
        .await
        .map_err(|source| refused("list dead letters", source))?;
    Ok(rows.iter().map(LetterRow::read).collect())
}

/// What a filter asks of a letter: `$1` to `$9`.
pub const CONDITION: &str = "
        ($1::text IS NULL OR scope = $1)
    AND ($2::text IS NULL OR source_topic = $2)
    AND ($3::text IS NULL OR cause = $3)
    AND ($4::text IS NULL OR position(lower($4) IN lower(error)) > 0)
    AND ($5::timestamptz IS NULL OR last_failed_at >= $5)
    AND ($6::timestamptz IS NULL OR last_failed_at < $6)
    AND ($7::bytea IS NULL OR key = $7)
    AND ($8::text[] IS NULL OR state = ANY ($8))
    AND ($9::text[] IS NULL OR letter = ANY ($9))";

/// A question that failed; a right that is missing has a sentence of its own.
pub fn refused(what: &'static str, source: tokio_postgres::Error) -> CommandError {
    if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return CommandError::Refused(format!(
            "PostgreSQL did not {what}: {}; a member of outbox_consumer may",
            source.as_db_error().map_or_else(|| source.to_string(), |said| said.message().to_owned())
        ));
    }
    CommandError::Ask { what, source }
}

/// The letters that are meant, and whether something was named that is not there. Named ones come in any state, for
/// the database says why one cannot be decided on; a filter finds those in `states`.
pub async fn chosen(
    client: &Client,
    choice: &Choice,
    states: &[&str],
) -> Result<(Vec<LetterRow>, bool), CommandError> {
    let nothing_said = choice.letters.is_empty() && choice.filter.is_empty() && !choice.all;
    if nothing_said {
        return Err(CommandError::Refused(
            "no letter is named: give letters, a filter such as --cause, or --all for all that wait".into(),
        ));
    }
    let by_name = !choice.letters.is_empty();
    let look = Look {
        states: (!by_name).then_some(states),
        letters: by_name.then_some(choice.letters.as_slice()),
        order: BY_SOURCE,
        limit: None,
    };
    let found = find(client, &choice.filter, look).await?;
    let mut failed = false;
    for letter in &choice.letters {
        let scopes: BTreeSet<&str> =
            found.iter().filter(|row| row.letter == *letter).map(|row| row.scope.as_str()).collect();
        match scopes.len() {
            0 => output::complain(&absent(letter)),
            1 => continue,
            _ => output::complain(&ambiguous(letter, &scopes)),
        }
        failed = true;
    }
    if failed {
        // Half of what was named is not what was meant.
        return Ok((Vec::new(), true));
    }
    Ok((found, false))
}

/// The sentence about a letter that is not there.
pub fn absent(letter: &str) -> String {
    format!(
        "there is no dead letter {} here; `outbox-dlq list --all` shows every one, and `outbox-dlq project` takes up what \
         is new on Kafka",
        output::clean(letter)
    )
}

/// The sentence about a letter of several consumers.
pub fn ambiguous(letter: &str, scopes: &BTreeSet<&str>) -> String {
    let scopes: Vec<&str> = scopes.iter().copied().collect();
    format!(
        "dead letter {} is one of each of {}: say which with --scope",
        output::clean(letter),
        scopes.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_absolute_or_ago() {
        assert_eq!(time("2026-01-02T03:04:05Z").unwrap().as_second(), 1_767_323_045);
        let ago = Timestamp::now().as_second() - time("2h").unwrap().as_second();
        assert!((7200..7260).contains(&ago), "{ago}");
        for wrong in ["", "h", "2", "2w", "-2h", "99999999999999999d", "é"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
