//! The findings of all lanes as one list. What is found of every lane alike is the relay's, and told once.

use std::cmp::Reverse;

use super::finding::{Area, Finding};

/// One list of the findings of each lane, which has a name where lanes are listed; the worst first within each group.
pub fn gathered(of_lanes: Vec<(Option<String>, Vec<Finding>)>) -> Vec<Finding> {
    let alone = of_lanes.len() == 1;
    let mut all: Vec<Finding> = Vec::new();
    for (at, (lane, findings)) in of_lanes.iter().enumerate() {
        for finding in findings {
            let of = |others: &[Finding]| others.iter().any(|other| are_the_same(finding, other));
            match of_lanes.iter().all(|(_, others)| of(others)) && !alone {
                true if at == 0 => all.push(finding.clone()),
                true => {}
                false => all.push(Finding { lane: lane.clone(), ..finding.clone() }),
            }
        }
    }
    all.sort_by_key(|finding| (finding.area, Reverse(finding.severity)));
    all
}

/// Whether two lanes have found one and the same thing. Of the servers and their clocks each has measured a little
/// differently.
fn are_the_same(one: &Finding, other: &Finding) -> bool {
    let what = |finding: &Finding| (finding.code, finding.severity, finding.area, finding.subject.clone());
    let of_servers = match one.area {
        Area::Server | Area::Kafka | Area::Clock => true,
        Area::Rights | Area::Table | Area::Publication | Area::Slot | Area::Topics | Area::Keys => false,
    };
    if of_servers { what(one) == what(other) } else { one == other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_of_every_lane_is_told_once_and_the_rest_by_lane() {
        let clock = |seen: &str| Finding::ok(Area::Clock, "clock", "clock", seen);
        let slot = |name: &str| {
            Finding::error(Area::Slot, "slot-missing", name, "is not there").mend("make it", "init")
        };
        let state = || Finding::ok(Area::Topics, "state-topic", "outbox.relay.state", "is there");
        let of_lanes = vec![
            (Some("0".to_owned()), vec![clock("1 ms off"), slot("outbox_a"), state()]),
            (Some("billing".to_owned()), vec![clock("2 ms off"), slot("outbox_a_billing"), state()]),
        ];
        let found: Vec<(String, Option<String>)> =
            gathered(of_lanes).into_iter().map(|finding| (finding.subject, finding.lane)).collect();
        let of = |lane: &str| Some(lane.to_owned());
        let expected = [
            ("outbox_a", of("0")),
            ("outbox_a_billing", of("billing")),
            ("outbox.relay.state", None),
            ("clock", None),
        ];
        assert_eq!(found, expected.map(|(subject, lane)| (subject.to_owned(), lane)));
        let alone = gathered(vec![(Some("billing".to_owned()), vec![state()])]);
        assert_eq!(alone[0].lane, of("billing"));
    }
}
