//! Events that cannot be published, read or survived. Each has a key of its own.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use rand::RngExt;

use super::{Ground, Struck, until};
use crate::chaos::lot::{DEADLY, HUGE, UNREADABLE};
use crate::chaos::stage::{AGGREGATES, Stage};

/// How long it may take until an event is where it belongs. A record that ends processes is found in several deaths, and
/// after each its partitions wait for the end of a session.
const FOUND: Duration = Duration::from_secs(120);
/// The scope whose consumers die of what is deadly.
const MORTAL: &str = "stock";

fn enqueue(stage: &Stage, key: &str, payload: &str) -> String {
    let call = "SELECT outbox.enqueue($1, $2, 'Made', $3::text::json)::text";
    stage.outbox.ask(call, &[&AGGREGATES[0], &key, &payload])[0].get(0)
}

/// What became of an event in the mortal scope: its state and why.
fn settled(stage: &Stage, id: &str) -> Option<String> {
    let query = "SELECT coalesce(error, '') FROM inbox.settlement
                  WHERE id = $1::text::uuid AND scope = $2 AND state = 'dead'";
    let rows = stage.inbox.try_ask(query, &[&id, &MORTAL])?;
    let why: String = rows.first()?.get(0);
    Some(why.lines().next().unwrap_or_default().chars().take(120).collect())
}

/// Larger than the relay takes; two of its key come behind it, and wait.
pub fn huge(ground: &mut Ground<'_>) -> Struck {
    let key = format!("{HUGE}{}", ground.number());
    let filling: String = (0..150_000).map(|_| char::from(ground.random.random_range(b'a'..=b'z'))).collect();
    let id = enqueue(ground.stage, &key, &format!("{{\"key\":\"{key}\",\"n\":1,\"filling\":\"{filling}\"}}"));
    for n in 2..=3 {
        enqueue(ground.stage, &key, &format!("{{\"key\":\"{key}\",\"n\":{n}}}"));
    }
    ground.over();
    let query = "SELECT state, cause FROM outbox.quarantine WHERE event_id = $1";
    let entry = until(FOUND, || {
        let rows = ground.stage.outbox.try_ask(query, &[&id])?;
        let row = rows.first()?;
        Some(format!("quarantined: {}, {}", row.get::<_, String>(0), row.get::<_, String>(1)))
    });
    Struck::at("relays", entry)
}

/// JSON of another shape than handlers read.
pub fn unreadable(ground: &mut Ground<'_>) -> Struck {
    let key = format!("{UNREADABLE}{}", ground.number());
    let id = enqueue(ground.stage, &key, "{\"nothing\":true}");
    ground.over();
    let seen = until(FOUND, || settled(ground.stage, &id));
    Struck::at("consumers", seen.map(|why| format!("a dead letter of {MORTAL}: {why}")))
}

/// Ends the process of whoever handles it in one scope.
pub fn deadly(ground: &mut Ground<'_>) -> Struck {
    let key = format!("{DEADLY}{}", ground.number());
    let aborts = |stage: &Stage| {
        let mortal = stage.members.iter().filter(|member| member.scope == MORTAL);
        mortal.flat_map(|member| member.actor.ends()).filter(|end| end.signal() == Some(6)).count()
    };
    let before = aborts(ground.stage);
    let id = enqueue(ground.stage, &key, &format!("{{\"key\":\"{key}\",\"n\":1}}"));
    let why = until(FOUND, || settled(ground.stage, &id));
    let times = aborts(ground.stage) - before;
    let seen = (times > 0).then(|| {
        let end =
            why.map_or("not found out yet".to_owned(), |why| format!("a dead letter of {MORTAL}: {why}"));
        format!("{times} processes ended by SIGABRT; {end}")
    });
    Struck::at("consumers", seen)
}
