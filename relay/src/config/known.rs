//! Keys that do not exist, and the one that was probably meant.

use super::given::{AllGiven, Form, LaneGiven};
use super::keys::{AnyKey, FREE_SECTIONS, HEADERS, KAFKA_OPTIONS, QUARANTINE_TOPICS, TABLE, VARIABLE_PREFIX};
use super::lanes;
use super::mistakes::{Mistake, Mistakes, Origin};

/// Takes out what no key is called, each as a mistake with the nearest known key. Its value is not told:
/// under a misspelled key it may be a password.
pub fn refuse_unknown(all: &mut AllGiven, mistakes: &mut Mistakes) {
    refuse(all, &|path| path.to_owned(), mistakes);
}

/// The same for a lane, which has a name and a number besides, and not every key of a relay.
pub fn refuse_of_lane(lane: &mut LaneGiven, mistakes: &mut Mistakes) {
    let label = lane.label();
    let own = [lanes::NAME, lanes::NUMBER].map(|key| (key, lane.keys.remove(key)));
    let whole = |path: &str| format!("{}.{label}.{path}", lanes::LANES);
    refuse(&mut lane.keys, &whole, mistakes);
    lane.keys.retain(|path, given| {
        let may_differ = lanes::may_differ(path);
        if !may_differ {
            let problem =
                "is the relay's, the same in all lanes: it stands at the top of the file, not in a lane";
            let origin = given.origin.clone();
            mistakes.add(Mistake { key: whole(path), value: None, origin, problem: problem.into() });
        }
        may_differ
    });
    lane.keys.extend(own.into_iter().filter_map(|(key, given)| Some((key.to_owned(), given?))));
}

fn refuse(all: &mut AllGiven, whole: &dyn Fn(&str) -> String, mistakes: &mut Mistakes) {
    all.retain(|path, given| {
        if given.form == Form::Nothing && is_section(path) {
            return false;
        }
        let free = FREE_SECTIONS.iter().any(|section| path.starts_with(section));
        let known = free || TABLE.iter().any(|key| key.path() == path);
        if !known {
            let problem = if is_section(path) {
                format!("is a section, not a key: it takes keys such as {}", first_of(path))
            } else {
                no_such("key", nearest(path))
            };
            mistakes.add(Mistake { key: whole(path), value: None, origin: given.origin.clone(), problem });
        }
        known
    });
}

/// The mistake of a variable that begins like the relay's and is none.
pub fn unknown_variable(name: &str) -> Mistake {
    let rest = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_ascii_lowercase();
    if rest == lanes::LANES || rest.starts_with("lanes_") {
        let problem = "there is no such variable: lanes are given in the file".to_owned();
        return Mistake { key: name.into(), value: None, origin: Origin::Variable(name.into()), problem };
    }
    let nearest = TABLE
        .iter()
        .map(|key| (strsim::damerau_levenshtein(&rest, &key.path().replace('.', "_")), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= tolerance(&rest))
        .map(|(_, key)| key.variable());
    Mistake {
        key: name.into(),
        value: None,
        origin: Origin::Variable(name.into()),
        problem: no_such("variable", nearest),
    }
}

fn no_such(what: &str, nearest: Option<String>) -> String {
    match nearest {
        Some(nearest) => format!("there is no such {what}; the nearest is {nearest}"),
        None => format!("there is no such {what}; `outbox-relay config reference` lists all"),
    }
}

fn is_section(path: &str) -> bool {
    let prefix = format!("{path}.");
    FREE_SECTIONS.contains(&prefix.as_str()) || TABLE.iter().any(|key| key.path().starts_with(&prefix))
}

fn first_of(section: &str) -> String {
    let prefix = format!("{section}.");
    let first = TABLE.iter().map(|key| key.path()).find(|path| path.starts_with(&prefix));
    let example = match prefix.as_str() {
        KAFKA_OPTIONS => "socket.keepalive.enable",
        HEADERS => "tenant",
        QUARANTINE_TOPICS => "outbox.event.order",
        _ => "cleanup.policy",
    };
    first.map_or_else(|| format!("{prefix}{example}"), str::to_string)
}

/// The known key with the fewest typing errors between, also where only its section is wrong or missing.
fn nearest(path: &str) -> Option<String> {
    let distance = |key: &&&dyn AnyKey| {
        let whole = strsim::damerau_levenshtein(path, key.path());
        let last = strsim::damerau_levenshtein(last_of(path), last_of(key.path()));
        whole.min(last + 1)
    };
    let key = TABLE.iter().min_by_key(distance)?;
    (distance(&key) <= tolerance(last_of(path))).then(|| key.path().to_string())
}

fn last_of(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

/// How many typing errors may lie between; a third of the letters and at least two.
fn tolerance(word: &str) -> usize {
    (word.chars().count() / 3).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        for (path, key) in [
            ("source.ulr", "source.url"),
            ("sorce.url", "source.url"),
            ("url", "source.url"),
            ("brokers", "kafka.brokers"),
            ("kafka.max_inflight_bytes", "kafka.max_in_flight_bytes"),
            ("kafka.password", "source.password"),
            ("drain_timout", "drain_timeout"),
        ] {
            assert_eq!(nearest(path).as_deref(), Some(key), "{path}");
        }
        assert_eq!(nearest("telemetry.exporter"), None);
    }

    #[test]
    fn the_nearest_variable_is_named() {
        let mistake = unknown_variable("OUTBOX_RELAY_SOURCE_PASWORD");
        assert!(mistake.problem.contains("OUTBOX_RELAY_SOURCE_PASSWORD"), "{mistake}");
    }
}
