//! What becomes of an event in a handler: drawn from its key and number, so that consumers, who act it, and the judge, who
//! expects it, need not talk.

/// Keys of which some events fail until somebody mends what is wrong.
pub const ODD: &str = "odd-";
/// Keys whose events are more than the relay takes.
pub const HUGE: &str = "huge-";
/// Keys whose events no consumer can read.
pub const UNREADABLE: &str = "unreadable-";
/// Keys whose events end the process that handles them.
pub const DEADLY: &str = "deadly-";

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lot {
    /// It is handled.
    Good,
    /// Attempts before this one fail; it is parked meanwhile where that is late.
    From(u32),
    /// It fails for good until the gate is open.
    Closed,
    /// It ends the process, where a consumer of that temper reads it.
    Deadly,
}

/// The lot of event `n` of a key.
pub fn lot(key: &str, n: i64) -> Lot {
    let drawn = mixed(key, n);
    if key.starts_with(DEADLY) && n == 1 {
        Lot::Deadly
    } else if key.starts_with(ODD) && n % 25 == 7 {
        Lot::Closed
    } else if drawn.is_multiple_of(80) {
        // Two attempts are made in place: the rest waits in the park.
        Lot::From(2 + u32::try_from(drawn / 80 % 4).unwrap_or(0))
    } else {
        Lot::Good
    }
}

/// The same in every process and every run (FNV-1a).
fn mixed(key: &str, n: i64) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.bytes().chain(n.to_le_bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lot_is_drawn_and_most_are_good() {
        let drawn: Vec<Lot> = (1..=4_000).map(|n| lot("order-3", n)).collect();
        for attempts in 2..6 {
            assert!(drawn.contains(&Lot::From(attempts)), "{attempts}");
        }
        let good = drawn.iter().filter(|lot| **lot == Lot::Good).count();
        assert!((3_800..4_000).contains(&good), "{good}");
        assert_eq!(lot("odd-1", 7), Lot::Closed);
        assert_eq!(lot("deadly-1", 1), Lot::Deadly);
    }
}
