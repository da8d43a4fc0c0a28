//! Ways of damaging bytes, for the tests that hold a decoder to this: whatever comes is read or refused.

/// Places of one input at which something is changed. A longer input is sampled evenly.
const MOST_PLACES: usize = 600;
/// Inputs up to this are cut at every place; a longer one is sampled.
const MOST_CUTS: usize = 4_096;
/// Random splices of one input.
const SPLICES: usize = 60;

/// What is put in the place of a byte: the ends of its range, and what has a meaning to JSON.
const BYTES: &[u8] = b"\0\x7F\x80\xFF\"\\{}[]:,-0e";

/// Shows `look` the input as it is, every prefix of it, it with single bits turned, bytes replaced, taken out and
/// doubled, and with parts of itself and of others in the place of its own. The same seed damages alike.
pub(crate) fn all_damages(whole: &[u8], others: &[&[u8]], seed: u64, mut look: impl FnMut(&[u8])) {
    look(whole);
    for end in places(whole.len(), MOST_CUTS, seed) {
        look(&whole[..end]);
    }
    let mut damaged = whole.to_vec();
    for at in places(whole.len(), MOST_PLACES, seed) {
        let was = whole[at];
        let turned = (0..8).map(|bit| was ^ (1 << bit));
        for byte in turned.chain(BYTES.iter().copied()) {
            damaged[at] = byte;
            look(&damaged);
        }
        damaged[at] = was;
        look(&[&whole[..at], &whole[at + 1..]].concat());
        look(&[&whole[..=at], &whole[at..]].concat());
    }
    let mut random = Random(seed);
    for _ in 0..SPLICES {
        let other = match others.len() {
            0 => whole,
            count => others[random.below(count)],
        };
        let (head, tail) = (random.below(whole.len() + 1), random.below(whole.len() + 1));
        let (from, to) = (random.below(other.len() + 1), random.below(other.len() + 1));
        look(&[&whole[..head], &other[from.min(to)..from.max(to)], &whole[tail..]].concat());
    }
}

/// Places in a length: all of them if they are no more than `most`, others for another seed if they are.
fn places(length: usize, most: usize, seed: u64) -> impl Iterator<Item = usize> {
    let step = length.div_ceil(most).max(1);
    (seed as usize % step..length).step_by(step)
}

/// Numbers that look random and come again with their seed (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}
