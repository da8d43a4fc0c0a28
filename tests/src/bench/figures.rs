//! Medians and quartiles.

use serde::{Deserialize, Serialize};

/// Five numbers that say how a set of measurements lies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// A quarter lies below.
    pub lower: f64,
    /// Half lies below.
    pub median: f64,
    /// Three quarters lie below.
    pub upper: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            min: *sorted.first()?,
            lower: quantile(&sorted, 0.25)?,
            median: quantile(&sorted, 0.5)?,
            upper: quantile(&sorted, 0.75)?,
            max: *sorted.last()?,
        })
    }

    /// The same in another unit.
    pub fn scaled(self, by: f64) -> Spread {
        let Spread { min, lower, median, upper, max } = self;
        Spread { min: min * by, lower: lower * by, median: median * by, upper: upper * by, max: max * by }
    }
}

/// The value below which a share of the sorted values lies, between two of them by their distance.
pub fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    Some(sorted[below] + (sorted[above] - sorted[below]) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_the_values() {
        let spread = Spread::of([7.0, 1.0, 3.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { min: 1.0, lower: 2.5, median: 4.0, upper: 5.5, max: 7.0 });
        assert_eq!(Spread::of([2.0]).unwrap().lower, 2.0);
        assert_eq!(Spread::of([]), None);
    }
}
