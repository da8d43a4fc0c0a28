//! One transaction of the workload.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tokio_postgres::{Client, Error, Transaction};

use super::events::{self, Event};
use super::insert::{Way, insert};
use super::{Settings, chance};

/// The counters of the keys that a transaction has locked.
type Counters = BTreeMap<String, i64>;

/// What a transaction is going to do.
#[derive(Debug)]
pub(super) struct Plan {
    kind: String,
    keys: Vec<String>,
    /// Groups of rows; a group that is rolled back to its savepoint says so.
    groups: Vec<Group>,
    rolls_back: bool,
    large_per_mille: u32,
}

#[derive(Debug)]
struct Group {
    rows: usize,
    way: Way,
    end: End,
}

/// How a group of rows ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With the transaction.
    Plain,
    /// Inside a savepoint that is released.
    Released,
    /// Inside a savepoint that is rolled back to.
    RolledBack,
}

/// What a transaction has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Rows that it committed.
    pub committed: u64,
    /// Rows that it inserted and rolled back.
    pub rolled_back: u64,
}

impl Plan {
    /// Mostly small transactions, some of a hundred rows, a few of the largest size.
    pub(super) fn draw(random: &mut impl Rng, settings: &Settings) -> Plan {
        let largest = settings.largest.max(1);
        let mut rows = match random.random_range(0..100) {
            0..60 => random.random_range(1..=5),
            60..90 => random.random_range(6..=100),
            90..97 => random.random_range(101..=1_000),
            _ => largest,
        }
        .min(largest);
        let kind = &settings.aggregate_types[random.random_range(0..settings.aggregate_types.len())];
        let keys = (0..random.random_range(1..=6))
            .map(|_| events::key(kind, random.random_range(0..settings.keys)))
            .collect();
        let mut groups = Vec::new();
        while rows > 0 {
            let group = Group::draw(random, rows);
            rows -= group.rows;
            groups.push(group);
        }
        let large_per_mille = settings.large_per_mille;
        Plan { kind: kind.clone(), keys, groups, large_per_mille, rolls_back: chance(random, 8) }
    }
}

impl Group {
    fn draw(random: &mut impl Rng, most: usize) -> Group {
        let rows = if chance(random, 50) { most } else { random.random_range(1..=most) };
        let way = match random.random_range(0..4) {
            0 => Way::Function,
            1 => Way::Single,
            2 => Way::Many,
            _ => Way::Copy,
        };
        // A round trip for each of many rows would hold the locks for long and show nothing new.
        let way = if rows > 50 && matches!(way, Way::Function | Way::Single) { Way::Many } else { way };
        let end = match random.random_range(0..10) {
            0 | 1 => End::RolledBack,
            2 => End::Released,
            _ => End::Plain,
        };
        Group { rows, way, end }
    }
}

/// Runs a transaction to its end. An error leaves it to the server to roll back, or to have committed.
pub(super) async fn run(
    client: &mut Client,
    plan: Plan,
    random: &mut StdRng,
    writer: usize,
) -> Result<Outcome, Error> {
    let mut outcome = Outcome::default();
    let mut transaction = client.transaction().await?;
    let mut counters = lock(&transaction, &plan.keys).await?;
    for group in &plan.groups {
        let before = counters.clone();
        let rows: Vec<Event> = (0..group.rows).map(|_| next(random, &plan, &mut counters, writer)).collect();
        let count = rows.len() as u64;
        match group.end {
            End::Plain => {
                insert(&transaction, group.way, &rows).await?;
                outcome.committed += count;
            }
            End::Released => {
                let savepoint = transaction.transaction().await?;
                insert(&savepoint, group.way, &rows).await?;
                savepoint.commit().await?;
                outcome.committed += count;
            }
            End::RolledBack => {
                let savepoint = transaction.transaction().await?;
                insert(&savepoint, group.way, &rows).await?;
                savepoint.rollback().await?;
                counters = before;
                outcome.rolled_back += count;
            }
        }
    }
    if plan.rolls_back {
        transaction.rollback().await?;
        return Ok(Outcome { committed: 0, rolled_back: outcome.committed + outcome.rolled_back });
    }
    write_back(&transaction, &counters).await?;
    transaction.commit().await?;
    Ok(outcome)
}

/// Locks the keys' entities in the order of their names, so that writers cannot deadlock.
async fn lock(transaction: &Transaction<'_>, keys: &[String]) -> Result<Counters, Error> {
    let select = "SELECT key, n FROM entity WHERE key = ANY($1) ORDER BY key FOR UPDATE";
    let rows = transaction.query(select, &[&keys]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn write_back(transaction: &Transaction<'_>, counters: &Counters) -> Result<(), Error> {
    let keys: Vec<&String> = counters.keys().collect();
    let numbers: Vec<&i64> = counters.values().collect();
    let update = "UPDATE entity SET n = c.n FROM unnest($1::text[], $2::bigint[]) AS c (key, n)
                  WHERE entity.key = c.key";
    transaction.execute(update, &[&keys, &numbers]).await?;
    Ok(())
}

/// The next event of one of the locked keys.
fn next(random: &mut StdRng, plan: &Plan, counters: &mut Counters, writer: usize) -> Event {
    let index = random.random_range(0..counters.len());
    let (key, n) = counters.iter_mut().nth(index).expect("every key has an entity");
    *n += 1;
    let large = random.random_range(0..1_000) < plan.large_per_mille;
    events::draw(random, &plan.kind, key, *n, writer, large)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_shape_is_drawn() {
        let mut random = StdRng::seed_from_u64(1);
        let settings = Settings { seed: 1, ..Settings::default() };
        let plans: Vec<Plan> = (0..2_000).map(|_| Plan::draw(&mut random, &settings)).collect();
        let rows = |plan: &Plan| plan.groups.iter().map(|group| group.rows).sum::<usize>();
        assert!(plans.iter().any(|plan| rows(plan) == 1));
        assert!(plans.iter().any(|plan| rows(plan) == 1_000));
        assert!(plans.iter().all(|plan| (1..=1_000).contains(&rows(plan))));
        assert!(plans.iter().any(|plan| plan.rolls_back) && plans.iter().any(|plan| !plan.rolls_back));
        let groups: Vec<&Group> = plans.iter().flat_map(|plan| &plan.groups).collect();
        for way in [Way::Function, Way::Single, Way::Many, Way::Copy] {
            assert!(groups.iter().any(|group| group.way == way), "{way:?}");
        }
        for end in [End::Plain, End::Released, End::RolledBack] {
            assert!(groups.iter().any(|group| group.end == end), "{end:?}");
        }
    }

    #[test]
    fn a_seed_draws_the_same_plans() {
        let draw = || {
            let settings = Settings { seed: 7, ..Settings::default() };
            let mut random = StdRng::seed_from_u64(7);
            format!("{:?}", (0..50).map(|_| Plan::draw(&mut random, &settings)).collect::<Vec<_>>())
        };
        assert_eq!(draw(), draw());
    }
}
