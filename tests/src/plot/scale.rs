//! From figures to places, and where the ticks are.

/// Steps of an axis of time, in seconds.
const TIMES: [f64; 14] =
    [1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0, 7_200.0];

/// An axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    from: f64,
    to: f64,
    start: f64,
    end: f64,
    logarithmic: bool,
}

impl Scale {
    /// From 0 at the place `start` to `to` at the place `end`.
    pub fn linear(to: f64, start: f64, end: f64) -> Scale {
        Scale { from: 0.0, to, start, end, logarithmic: false }
    }

    /// From `from` at the place `start` to `to` at the place `end`; each tenfold takes as much room.
    pub fn logarithmic(from: f64, to: f64, start: f64, end: f64) -> Scale {
        Scale { from, to, start, end, logarithmic: true }
    }

    /// The place of a figure; of one beyond the axis, its end.
    pub fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            (value / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        // Of an axis without length nothing is left of the division.
        let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
        self.start + (self.end - self.start) * share
    }
}

/// Round figures from 0 to the first that is not below `to`, at most `most` steps.
pub fn ticks(to: f64, most: usize) -> Vec<f64> {
    stepped(to, most, |_| true)
}

/// The same of something that is counted: whole figures.
pub fn whole_ticks(to: f64, most: usize) -> Vec<f64> {
    stepped(to, most, |step| step.fract() == 0.0)
}

fn stepped(to: f64, most: usize, suits: impl Fn(f64) -> bool) -> Vec<f64> {
    let to = if to.is_finite() && to > 0.0 { to } else { 1.0 };
    let raw = to / most.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|by| round(by * power));
    let step = steps.filter(|step| suits(*step)).find(|step| *step >= raw * 0.999_999);
    up_to(to, step.unwrap_or(1.0))
}

/// Round times from 0 that lie within `until` seconds, at most `most` steps.
pub fn time_ticks(until: f64, most: usize) -> Vec<f64> {
    let raw = until / most.max(1) as f64;
    let hours = 3_600.0 * (raw / 3_600.0).ceil();
    let step = TIMES.into_iter().find(|step| *step >= raw).unwrap_or(hours);
    let mut found = up_to(until, step);
    found.retain(|tick| *tick <= until);
    found
}

/// 1, 2 and 5 of each power of ten around what lies between `from` and `to`.
pub fn logarithmic_ticks(from: f64, to: f64) -> Vec<f64> {
    let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
    let all: Vec<f64> =
        powers.flat_map(|power| [1.0, 2.0, 5.0].map(|by| round(by * 10f64.powi(power)))).collect();
    let first = all.iter().rposition(|tick| *tick <= from).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= to).unwrap_or(all.len() - 1);
    all[first..=last].to_vec()
}

/// A tick's figure, without digits that say nothing.
pub fn label(tick: f64) -> String {
    format!("{}", round(tick))
}

/// The same where there is little room; `k` is a thousand.
pub fn short_label(tick: f64) -> String {
    if tick >= 1_000.0 { label(tick / 1_000.0) + "k" } else { label(tick) }
}

/// A time's figure.
pub fn time(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{rest:02}") } else { format!("{minutes}:{rest:02}") }
}

fn up_to(to: f64, step: f64) -> Vec<f64> {
    let steps = (to / step * 0.999_999).ceil() as u32;
    (0..=steps).map(|n| round(f64::from(n) * step)).collect()
}

/// Without what the multiplication left behind the twelfth digit.
fn round(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_what_is_shown() {
        assert_eq!(ticks(1.45, 5), [0.0, 0.5, 1.0, 1.5]);
        assert_eq!(ticks(283.0, 6), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0, 300.0]);
        assert_eq!(ticks(0.3, 3), [0.0, 0.1, 0.2, 0.3]);
        assert_eq!(ticks(0.0, 4), ticks(1.0, 4), "nothing but zeros has an axis, too");
        assert_eq!(whole_ticks(2.0, 5), [0.0, 1.0, 2.0]);
        assert_eq!(whole_ticks(9.0, 4), [0.0, 5.0, 10.0]);
        assert_eq!(whole_ticks(0.0, 4), [0.0, 1.0]);
        assert_eq!([label(2_000.0), short_label(0.5), short_label(60_000.0)], ["2000", "0.5", "60k"]);
    }

    #[test]
    fn times_are_read_in_minutes() {
        assert_eq!(time_ticks(600.0, 8), [0.0, 120.0, 240.0, 360.0, 480.0, 600.0]);
        assert_eq!(time_ticks(640.0, 6).last(), Some(&600.0));
        assert_eq!([time(0.0), time(90.0), time(3_725.0)], ["0:00", "1:30", "1:02:05"]);
        assert_eq!(time_ticks(86_400.0, 8).len(), 9);
    }

    #[test]
    fn a_logarithmic_axis_ends_beyond_what_is_shown() {
        assert_eq!(logarithmic_ticks(0.47, 15.3), [0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0]);
        let scale = Scale::logarithmic(0.1, 10.0, 0.0, 200.0);
        assert_eq!([scale.at(0.1), scale.at(1.0), scale.at(100.0)], [0.0, 100.0, 200.0]);
    }

    #[test]
    fn a_place_is_never_outside() {
        let scale = Scale::linear(10.0, 100.0, 0.0);
        assert_eq!([scale.at(0.0), scale.at(10.0), scale.at(20.0), scale.at(-1.0)], [100.0, 0.0, 0.0, 100.0]);
        assert_eq!(Scale::linear(0.0, 5.0, 9.0).at(0.0), 5.0);
    }
}
