//! A timeline's history.

use std::str::FromStr;

use crate::lsn::Lsn;

/// By which switches a server came to its timeline, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TimelineHistory {
    /// The timelines before the current one, and where each was left.
    pub switches: Vec<TimelineSwitch>,
}

/// One timeline that was left for the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub timeline: u32,
    /// Where: WAL of that timeline up to here is part of this history, WAL behind it is not.
    pub switch_point: Lsn,
}

impl TimelineHistory {
    /// Where this history left `timeline`; `None` if it never was on it, or still is.
    pub fn switch_point_after(&self, timeline: u32) -> Option<Lsn> {
        self.switches.iter().find(|switch| switch.timeline == timeline).map(|switch| switch.switch_point)
    }
}

/// A line of a history file is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the timeline's history is not a timeline and a switch point")]
pub struct TimelineHistoryError {
    line: usize,
}

impl FromStr for TimelineHistory {
    type Err = TimelineHistoryError;

    /// Reads a history file: lines of timeline, switch point and reason, apart by white space; `#` begins
    /// a comment (PostgreSQL's `readTimeLineHistory`). Timelines only ever grow.
    fn from_str(content: &str) -> Result<Self, Self::Err> {
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        for (index, line) in content.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let switch = words.next().zip(words.next()).and_then(|(timeline, switch_point)| {
                Some(TimelineSwitch {
                    timeline: timeline.parse().ok()?,
                    switch_point: switch_point.parse().ok()?,
                })
            });
            match switch {
                Some(switch) if switches.last().is_none_or(|last| last.timeline < switch.timeline) => {
                    switches.push(switch);
                }
                _ => return Err(TimelineHistoryError { line: index + 1 }),
            }
        }
        Ok(TimelineHistory { switches })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_says_where_each_timeline_was_left() {
        let content =
            "1\t0/3000148\tno recovery target specified\n\n# comment\n  3\t16/B374D848\tbefore 2000\n";
        let history: TimelineHistory = content.parse().unwrap();
        assert_eq!(history.switches.len(), 2);
        assert_eq!(history.switch_point_after(1), Some(Lsn(0x300_0148)));
        assert_eq!(history.switch_point_after(2), None);
        assert_eq!(history.switch_point_after(3), Some(Lsn(0x16_B374_D848)));
    }

    #[test]
    fn an_empty_history_is_the_first_timelines() {
        assert_eq!("".parse(), Ok(TimelineHistory::default()));
    }

    #[test]
    fn anything_else_is_refused_by_line() {
        for (content, line) in
            [("x", 1), ("1", 1), ("1 0/1\n2 y", 2), ("-1 0/1", 1), ("2 0/2\n1 0/1", 2), ("1 0/1\n1 0/1", 2)]
        {
            assert_eq!(content.parse::<TimelineHistory>(), Err(TimelineHistoryError { line }), "{content:?}");
        }
    }
}
