//! How long settlements are kept: at least as long as a copy of an event can still come (C3).

use std::time::Duration;

use rdkafka::config::ClientConfig;

use super::attempt::sentence;
use crate::consumer::Registered;
use crate::database::{Database, DatabaseError};
use crate::dead_letters::topic::{self, Kept};
use crate::ladder::Exhausted;

/// What is taken where a topic does not say how long it keeps records: Kafka's own default.
const UNKNOWN: Duration = Duration::from_secs(7 * 86_400);

/// What is taken where a topic keeps records for ever: no time would be long enough, and an older copy is never run
/// but becomes a dead letter.
const FOR_EVER: Duration = Duration::from_secs(30 * 86_400);

/// Declares the consumer in its inbox, with the longest way that a copy can take back to it.
///
/// # Errors
/// The inbox refuses: settlements would be kept for less than that, or than before, and nobody has signed.
pub(super) async fn declare(
    config: &ClientConfig,
    registered: &Registered,
    database: &Database,
) -> Result<(), DatabaseError> {
    let source = match registered.source_retention {
        Some(said) => said,
        None => longest(config, &registered.topics).await,
    };
    let ladder = registered.ladder.longest();
    let window = match registered.ladder.exhausted() {
        Exhausted::Skip => topic::RETENTION.max(registered.owner.1),
        Exhausted::Hold | Exhausted::Halt => registered.owner.1,
    };
    let (kept, signed_by) = match &registered.kept {
        Some((kept, signed_by)) => (Some(kept.as_secs_f64()), Some(signed_by.as_str())),
        None => (None, None),
    };
    let statement =
        "SELECT explained FROM inbox.declare_scope($1, make_interval(secs => $2), make_interval(secs => $3),
                            make_interval(secs => $4), kept => make_interval(secs => $5), signed_by => $6)";
    let lease = database.lease().await?;
    let seconds = [source, ladder, window].map(|time| time.as_secs_f64());
    let row = lease
        .query_one(statement, &[&&*registered.name, &seconds[0], &seconds[1], &seconds[2], &kept, &signed_by])
        .await
        .map_err(DatabaseError::Refused)?;
    let explained: String = row.try_get(0).map_err(DatabaseError::Refused)?;
    lease.give_back();
    tracing::info!("{explained}");
    Ok(())
}

/// The longest that any of the topics keeps its records.
async fn longest(config: &ClientConfig, topics: &[String]) -> Duration {
    let mut longest = Duration::ZERO;
    for source in topics {
        let kept = match topic::kept(config, source).await {
            Ok(Kept::For(kept)) => kept,
            Ok(Kept::ForEver) => {
                tracing::warn!(
                    topic = source,
                    "keeps its records for ever: settlements are kept as if it were {} days, and an older copy becomes a dead \
                     letter; source_retention() says otherwise",
                    FOR_EVER.as_secs() / 86_400
                );
                FOR_EVER
            }
            Ok(Kept::NotShown) => UNKNOWN,
            Err(error) => {
                tracing::warn!(
                    topic = source,
                    error = sentence(&error),
                    "how long it keeps its records is not known: taking 7 days"
                );
                UNKNOWN
            }
        };
        longest = longest.max(kept);
    }
    longest
}
