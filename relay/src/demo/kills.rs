//! When the relay is killed, and for how long it stays away: chosen by the seed alone.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Parts of the load's time in which each kill falls, in percent. The last one leaves time in which the
/// relay catches up before everybody's eyes.
const WINDOWS: [(u32, u32); 2] = [(25, 40), (55, 75)];
/// How long the relay stays away, in percent of the load's time.
const AWAY: (u32, u32) = (4, 9);

/// One kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kill {
    /// Since the load began. Then the first moment at which something is in flight.
    pub at: Duration,
    /// Until the relay is started again.
    pub away: Duration,
}

/// The kills of a run, in order.
pub fn planned(seed: u64, load: Duration) -> Vec<Kill> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut part = |(from, to): (u32, u32)| load * random.random_range(from * 10..=to * 10) / 1000;
    WINDOWS.iter().map(|window| Kill { at: part(*window), away: part(AWAY) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_up_again_before_it_is_killed_again_and_before_the_end() {
        let load = Duration::from_secs(20);
        for seed in 0..1000 {
            let kills = planned(seed, load);
            assert_eq!(kills, planned(seed, load));
            assert!(kills.windows(2).all(|two| two[0].at + two[0].away < two[1].at), "{kills:?}");
            assert!(kills.iter().all(|kill| kill.at + kill.away < load), "{kills:?}");
        }
        assert_ne!(planned(1, load), planned(2, load));
    }
}
