//! The run from beginning to end: set up, load with kills, catch up, stop in order, verdict.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::kills::Plan;
use super::relay::Drained;
use super::screen::{Kind, Screen};
use super::stage::Stage;
use super::verdict::judge;
use super::{DemoError, Options, Outcome, service, words};

/// How often the play looks around.
const LOOK: Duration = Duration::from_millis(10);
/// How often it asks the broker how far the consumers have come.
const ASK: Duration = Duration::from_millis(100);
/// How long nothing may move before it is given up that the rest will come.
const STANDSTILL: Duration = Duration::from_secs(20);
/// How long reading to the end of the log may take.
const READ_PATIENCE: Duration = Duration::from_secs(20);

/// Plays everything and tells it. What it started is gone when it returns or is dropped.
///
/// # Errors
/// [`DemoError`]: there is no verdict.
pub async fn play(options: &Options, screen: &mut Screen) -> Result<Outcome, DemoError> {
    screen.say(words::INTRODUCTION);
    let mut stage = Stage::set_up(options, screen).await?;
    let mut kills = Kills::planned(options);
    load(&mut stage, &mut kills, options, screen).await?;
    stage.service.close().await?;
    publish_the_rest(&mut stage, &mut kills, screen).await?;
    let drained = drain(&mut stage, screen).await?;
    consume_the_rest(&mut stage, &mut kills, screen).await?;
    let consumers_stopped = stop_consumers(&mut stage, screen).await?;

    let rolled_back = stage.service.done().rolled_back();
    let published = match stage.log.take() {
        Some(log) => log.finish(READ_PATIENCE).await?,
        None => Vec::new(),
    };
    let committed = service::committed(&stage.postgres).await?;
    let verdict = judge(&committed, &published, &stage.books.effects().await?);
    let ends = stage.repeated_at_kills.iter().skip(1).copied().chain([verdict.repeated as u64]);
    let repeated_per_kill = stage.repeated_at_kills.iter().zip(ends).map(|(at, end)| end - at).collect();
    let open_per_consumer_kill = std::mem::take(&mut stage.open_at_kills);
    let outcome = Outcome {
        verdict,
        drained,
        consumers_stopped,
        rolled_back,
        repeated_per_kill,
        open_per_consumer_kill,
        seed: options.seed,
    };
    screen.say(&words::conclusion(&outcome, &stage.broker));
    Ok(outcome)
}

/// The kills that are still to come.
struct Kills {
    of_relay: Plan,
    of_consumers: Plan,
}

impl Kills {
    fn planned(options: &Options) -> Kills {
        let load = options.load();
        Kills {
            of_relay: Plan::of_relay(options.seed, load),
            of_consumers: Plan::of_consumers(options.seed, load),
        }
    }
}

/// The load, with kills.
async fn load(
    stage: &mut Stage,
    kills: &mut Kills,
    options: &Options,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stage.begun.elapsed() < options.load() {
        looks.tick().await;
        stage.check()?;
        if cannot_go_on(stage, screen) {
            break;
        }
        attend_to_relay(stage, &mut kills.of_relay, screen)?;
        attend_to_consumers(stage, &mut kills.of_consumers, screen).await?;
        stage.tell_how_things_stand(screen).await?;
    }
    Ok(())
}

/// Whether the load has to end early, and why. What failed shows its reason at the next step.
fn cannot_go_on(stage: &Stage, screen: &mut Screen) -> bool {
    let Some(log) = &stage.log else { return true };
    let full = stage.broker.is_in_memory() && log.is_nearly_full();
    if full {
        let why = "The broker in memory keeps no more than 5 MiB a partition: the shop closes early.";
        screen.tell(Kind::Trouble, why);
    }
    full || log.has_failed() || stage.service.has_failed()
}

/// Kills the relay at its time, and then as soon as there are orders that were committed and are not on the log;
/// starts it again at its time.
fn attend_to_relay(stage: &mut Stage, plan: &mut Plan, screen: &mut Screen) -> Result<(), DemoError> {
    let elapsed = stage.begun.elapsed();
    let in_flight = stage.in_flight();
    if plan.comes_back(elapsed).is_some() {
        stage.relay.start()?;
        let text =
            format!("relay started again, {in_flight} events behind; it reads on from its last record");
        screen.tell(Kind::Started, &text);
    }
    let due = plan.due(elapsed).filter(|kill| in_flight > 0 || kill.is_late(elapsed));
    if due.is_none() {
        return Ok(());
    }
    stage.relay.kill()?;
    stage.repeated_at_kills.push(stage.repeated());
    plan.killed(elapsed);
    let text = format!("relay killed (SIGKILL); committed and not yet on the log: {in_flight}; orders go on");
    screen.tell(Kind::Killed, &text);
    Ok(())
}

/// The same for the consumers: at its time, when they have recovered from the kill before, one dies as soon as it has
/// a transaction open. One that is never busy again is never killed.
async fn attend_to_consumers(
    stage: &mut Stage,
    plan: &mut Plan,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    let elapsed = stage.begun.elapsed();
    if let Some(victim) = plan.comes_back(elapsed) {
        stage.consumers.start(victim)?;
        let text = format!("consumer {} started again; the group deals its partitions anew", victim + 1);
        screen.tell(Kind::Started, &text);
    }
    let Some(kill) = plan.due(elapsed) else { return Ok(()) };
    if !stage.consumers_have_recovered().await? {
        return Ok(());
    }
    let open = stage.books.open_transactions(kill.victim).await?;
    if open > 0 {
        stage.kill_consumer(kill.victim, open).await?;
        plan.killed(elapsed);
        let text = format!(
            "consumer {} killed (SIGKILL); transactions it had open: {open}; the other one goes on",
            kill.victim + 1
        );
        screen.tell(Kind::Killed, &text);
    }
    Ok(())
}

/// Waits until the log has everything, or nothing moves any more: then the judge will say so.
async fn publish_the_rest(
    stage: &mut Stage,
    kills: &mut Kills,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    screen.say("the shop closes; the log has to get everything");
    let mut newest = (stage.published(), Instant::now());
    let mut looks = interval(LOOK);
    while stage.in_flight() > 0 {
        looks.tick().await;
        stage.check()?;
        attend_to_relay(stage, &mut kills.of_relay, screen)?;
        attend_to_consumers(stage, &mut kills.of_consumers, screen).await?;
        stage.tell_how_things_stand(screen).await?;
        let published = stage.published();
        if published > newest.0 {
            newest = (published, Instant::now());
        }
        if stage.log_has_failed() || newest.1.elapsed() >= STANDSTILL {
            break;
        }
    }
    // A log that cannot be read says why itself.
    if stage.in_flight() > 0 && !stage.log_has_failed() {
        let text = format!(
            "nothing has moved for {} s; the end of the relay's log:\n{}",
            newest.1.elapsed().as_secs(),
            stage.relay.log_tail()
        );
        screen.tell(Kind::Trouble, &text);
    }
    Ok(())
}

/// Stops the relay; whether in order.
async fn drain(stage: &mut Stage, screen: &mut Screen) -> Result<bool, DemoError> {
    let drained = stage.relay.drain().await?;
    match &drained {
        Drained::Cleanly => screen.say("relay told to stop (SIGTERM): drained, exit code 0"),
        Drained::No(why) => screen.tell(Kind::Trouble, &format!("the relay did not drain: {why}")),
    }
    Ok(drained == Drained::Cleanly)
}

/// Waits until the consumers have had every record of the log, also those that came again, and no key waits for
/// another attempt; or until nothing moves any more.
async fn consume_the_rest(
    stage: &mut Stage,
    kills: &mut Kills,
    screen: &mut Screen,
) -> Result<(), DemoError> {
    screen.say("the consumers have to get to the end of the log");
    let mut newest = (u64::MAX, u64::MAX, Instant::now());
    let mut looks = interval(ASK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        stage.consumers.check()?;
        attend_to_consumers(stage, &mut kills.of_consumers, screen).await?;
        stage.tell_how_things_stand(screen).await?;
        let (remaining, waiting) = (stage.group.standing().await?.remaining(), stage.books.waiting().await?);
        if remaining == 0 && waiting == 0 {
            return Ok(());
        }
        if (remaining, waiting) != (newest.0, newest.1) {
            newest = (remaining, waiting, Instant::now());
        }
        if newest.2.elapsed() >= STANDSTILL {
            let text = format!(
                "nothing has moved for {} s; records to go: {remaining}, keys that wait: {waiting}; the ends of \
                 the consumers' logs:\n{}",
                newest.2.elapsed().as_secs(),
                stage.consumers.log_tails()
            );
            screen.tell(Kind::Trouble, &text);
            return Ok(());
        }
    }
}

/// Stops the consumers; whether in order.
async fn stop_consumers(stage: &mut Stage, screen: &mut Screen) -> Result<bool, DemoError> {
    let troubles = stage.consumers.stop().await?;
    if troubles.is_empty() {
        screen.say("consumers told to stop (SIGTERM): both left the group, exit code 0");
    }
    for trouble in &troubles {
        screen.tell(Kind::Trouble, trouble);
    }
    Ok(troubles.is_empty())
}
