//! When relay and consumers are killed, and for how long they stay away: chosen by the seed alone.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::consumers::INSTANCES;

/// Parts of the load's time in which each kill of the relay falls, in percent. The last one leaves time in which
/// the relay catches up before everybody's eyes.
const OF_RELAY: [(u32, u32); 2] = [(25, 40), (55, 75)];
/// How long it stays away, in percent of the load's time.
const RELAY_AWAY: (u32, u32) = (4, 9);
/// Where the kills of consumers fall, also in percent.
const OF_CONSUMERS: [(u32, u32); 2] = [(20, 30), (55, 65)];
/// How long a consumer stays away, in milliseconds: it is back before its group misses it, so that what it had in
/// hand is dealt to two again.
const CONSUMER_AWAY: (u64, u64) = (300, 1500);
/// A kill of the relay waits for something to be in hand, but not longer than this.
const LATEST: Duration = Duration::from_secs(1);

/// One kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// Since the load began. Then the first moment at which something is in hand.
    pub at: Duration,
    /// Until the victim is started again.
    pub away: Duration,
    /// The number of the victim, where there are several.
    pub victim: usize,
}

impl Kill {
    /// Whether it waits no longer for something to be in hand.
    pub fn is_late(&self, elapsed: Duration) -> bool {
        elapsed >= self.at + LATEST
    }
}

/// The kills of a run that are still to come, and the victim that is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    kills: VecDeque<Kill>,
    away: Option<(usize, Duration)>,
}

impl Plan {
    /// For the relay.
    pub fn of_relay(seed: u64, load: Duration) -> Plan {
        let mut random = StdRng::seed_from_u64(seed);
        let mut part = |(from, to): (u32, u32)| load * random.random_range(from * 10..=to * 10) / 1000;
        let mut kill = |window| Kill { at: part(window), away: part(RELAY_AWAY), victim: 0 };
        Plan { kills: OF_RELAY.into_iter().map(&mut kill).collect(), away: None }
    }

    /// For the consumers.
    pub fn of_consumers(seed: u64, load: Duration) -> Plan {
        let mut random = StdRng::seed_from_u64(!seed);
        // In turn: two deaths of the same one soon after each other would be taken for the work of a poisonous
        // record, and every record be run alone for a while.
        let first = random.random_range(0..INSTANCES);
        let kill = |((from, to), turn): ((u32, u32), usize)| Kill {
            at: load * random.random_range(from * 10..=to * 10) / 1000,
            away: Duration::from_millis(random.random_range(CONSUMER_AWAY.0..=CONSUMER_AWAY.1)),
            victim: (first + turn) % INSTANCES,
        };
        Plan { kills: OF_CONSUMERS.into_iter().zip(0..).map(kill).collect(), away: None }
    }

    /// The kill whose time has come.
    pub fn due(&self, elapsed: Duration) -> Option<Kill> {
        self.kills.front().filter(|kill| self.away.is_none() && elapsed >= kill.at).copied()
    }

    /// It was carried out.
    pub fn killed(&mut self, elapsed: Duration) {
        if let Some(kill) = self.kills.pop_front() {
            self.away = Some((kill.victim, elapsed + kill.away));
        }
    }

    /// The victim whose time away is over.
    pub fn comes_back(&mut self, elapsed: Duration) -> Option<usize> {
        self.away.take_if(|(_, at)| elapsed >= *at).map(|(victim, _)| victim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_killed_is_up_again_before_the_next_kill_and_before_the_end() {
        let load = Duration::from_secs(20);
        for seed in 0..1000 {
            for plan in [Plan::of_relay(seed, load), Plan::of_consumers(seed, load)] {
                let kills = Vec::from(plan.kills);
                assert!(kills.windows(2).all(|two| two[0].at + two[0].away < two[1].at), "{kills:?}");
                assert!(kills.iter().all(|kill| kill.at + kill.away < load), "{kills:?}");
            }
            assert_eq!(Plan::of_consumers(seed, load), Plan::of_consumers(seed, load));
        }
        assert_ne!(Plan::of_relay(1, load), Plan::of_relay(2, load));
        let victims = |seed| Plan::of_consumers(seed, load).kills.into_iter().map(|kill| kill.victim);
        assert!((0..10).flat_map(victims).any(|victim| victim == INSTANCES - 1));
    }

    #[test]
    fn nobody_is_killed_while_another_is_away() {
        let second = Duration::from_secs;
        let kill = |at| Kill { at: second(at), away: second(3), victim: 1 };
        let mut plan = Plan { kills: [kill(1), kill(2)].into(), away: None };
        assert_eq!(plan.due(second(0)), None);
        assert_eq!(plan.due(second(1)), Some(kill(1)));
        plan.killed(second(1));
        assert_eq!((plan.due(second(3)), plan.comes_back(second(3))), (None, None));
        assert_eq!(plan.comes_back(second(4)), Some(1));
        assert_eq!((plan.due(second(4)), plan.comes_back(second(9))), (Some(kill(2)), None));
    }
}
