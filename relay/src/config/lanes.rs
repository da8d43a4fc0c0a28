//! Lanes: what the file says of each, laid over what it says of the relay, and what must not be said of two.
//!
//! Each lane is read as if it were a relay of its own, with the same keys, checks and defaults. What is wrong in it
//! is told under its name; what is wrong in all of them alike is the relay's, and told once.

use std::fmt;

use super::given::{AllGiven, Form, Gathered, LaneGiven};
use super::keys::{
    AnyKey, Fallback, HEADERS, KAFKA_MAX_IN_FLIGHT_BYTES, KAFKA_MAX_IN_FLIGHT_RECORDS, KAFKA_TOPIC_PREFIX,
    OUTBOX_FROM, OUTBOX_MESSAGE_PREFIX, OUTBOX_TABLE, ROUTE_TOPIC, SOURCE_READ_AHEAD_BYTES,
};
use super::kinds::{Count, Kind, LaneName};
use super::mistakes::{Mistake, Mistakes, Origin};
use super::{EventsFrom, Existing, Settings, assemble};

/// The key of the list.
pub const LANES: &str = "lanes";
/// A lane's name.
pub const NAME: &str = "name";
/// A lane's number.
pub const NUMBER: &str = "number";

/// Sections in which every key may be another in each lane.
pub const OWN_SECTIONS: [&str; 7] =
    ["outbox.", "route.", HEADERS, "topics.", "recovery.", "quarantine.", "cleanup."];
/// Keys outside of those that may be.
pub const OWN_KEYS: [&dyn AnyKey; 4] =
    [&SOURCE_READ_AHEAD_BYTES, &KAFKA_MAX_IN_FLIGHT_RECORDS, &KAFKA_MAX_IN_FLIGHT_BYTES, &KAFKA_TOPIC_PREFIX];

/// The largest number. The state topic has as many partitions as the largest that is used, and one more.
const LARGEST_NUMBER: usize = 255;
/// PostgreSQL cuts longer names off without an error, and two slots could become one.
const LONGEST_SLOT: usize = 63;

/// Which of a relay's lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneId {
    /// Its partition of the state topic, and its number in locks and in the quarantine. It never changes.
    pub number: u32,
    /// Its name; only lane 0 may have none.
    pub name: Option<String>,
}

impl LaneId {
    /// The one lane of a relay that has no list of them.
    pub fn only() -> LaneId {
        LaneId { number: 0, name: None }
    }

    /// What it is called: its name, else its number, which is no name of another.
    pub fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.number.to_string())
    }
}

/// The settings of each lane of a relay; at least one.
#[derive(Debug, Clone)]
pub struct Lanes {
    all: Vec<Settings>,
    listed: bool,
}

impl Lanes {
    /// A relay without a list of lanes.
    fn one(settings: Settings) -> Lanes {
        Lanes { all: vec![settings], listed: false }
    }

    /// A relay with a list. The order in it means nothing.
    fn listed(mut all: Vec<Settings>) -> Lanes {
        all.sort_by_key(|settings| settings.lane.number);
        let partitions = all.last().map_or(1, |settings| settings.lane.number + 1);
        all.iter_mut().for_each(|settings| settings.state.partitions = partitions);
        Lanes { all, listed: true }
    }

    /// Whether the configuration has a list of lanes. Without one nothing that is shown speaks of lanes.
    pub fn are_listed(&self) -> bool {
        self.listed
    }

    /// By number.
    pub fn iter(&self) -> std::slice::Iter<'_, Settings> {
        self.all.iter()
    }

    /// What the lane is called where lanes are listed.
    pub fn label(&self, settings: &Settings) -> Option<String> {
        self.listed.then(|| settings.lane.label())
    }

    /// The settings of the lane of the smallest number: of what is the relay's they say the same as any.
    pub fn first(&self) -> &Settings {
        &self.all[0]
    }

    /// As [`Lanes::first`].
    pub fn into_first(mut self) -> Settings {
        self.all.swap_remove(0)
    }

    /// The settings of the lane of this name or number; where there is one only, it need not be named.
    ///
    /// # Errors
    /// A sentence: none is named where there are several, or there is no such lane.
    pub fn choose(self, lane: Option<&str>) -> Result<Settings, String> {
        let labels: Vec<String> = self.all.iter().map(|settings| settings.lane.label()).collect();
        let labels = labels.join(", ");
        let Some(lane) = lane else {
            return match self.all.len() {
                1 => Ok(self.into_first()),
                many => Err(format!("this relay has {many} lanes: name one of them with --lane ({labels})")),
            };
        };
        let is_it =
            |settings: &Settings| settings.lane.label() == lane || settings.lane.number.to_string() == lane;
        let found = self.all.into_iter().find(is_it);
        found.ok_or_else(|| format!("this relay has no lane {lane}; it has {labels}"))
    }
}

/// Whether a key may be another in each lane; all others are the relay's.
pub fn may_differ(path: &str) -> bool {
    OWN_SECTIONS.iter().any(|section| path.starts_with(section))
        || OWN_KEYS.iter().any(|key| key.path() == path)
}

/// Settings of every lane, by number. `None` where there is a mistake, which then stands in `mistakes`.
pub fn settings(gathered: &Gathered, existing: Option<Existing>, mistakes: &mut Mistakes) -> Option<Lanes> {
    let Some(given) = &gathered.lanes else {
        let only = assemble::settings(&gathered.relay, LaneId::only(), existing, mistakes);
        return only.map(Lanes::one);
    };
    let lanes: Vec<Lane> = given.iter().map(|given| Lane::read(given, &gathered.relay, existing)).collect();
    tell(&lanes, mistakes);
    clashes(&lanes, mistakes);
    let settings: Option<Vec<Settings>> = lanes.into_iter().map(|lane| lane.settings).collect();
    // Whoever refused something in the file itself has said so; a list of none is one of those.
    settings.filter(|settings| !settings.is_empty()).map(Lanes::listed)
}

/// One entry of the list, read.
struct Lane<'g> {
    given: &'g LaneGiven,
    /// Its name and number, where both can be read.
    id: Option<LaneId>,
    /// What it publishes, where that can be read: no other lane may have it.
    reads: Option<Reads>,
    settings: Option<Settings>,
    /// What is wrong with its name or number.
    of_itself: Vec<Mistake>,
    /// What is wrong with its settings, under the relay's keys.
    of_settings: Vec<Mistake>,
}

impl<'g> Lane<'g> {
    fn read(given: &'g LaneGiven, relay: &AllGiven, existing: Option<Existing>) -> Lane<'g> {
        let mut of_itself = Vec::new();
        let id = identity(given, &mut of_itself);
        let all = inherited(relay, &given.keys);
        let mut wrong = Mistakes::default();
        // A lane without a usable name or number is read all the same: everything that is wrong is told at once.
        // What becomes of rows that stand in a table is said to all lanes at once, and means those that read one.
        let reads = Reads::of(&all);
        let without_table = matches!(reads, Some(Reads::Messages(_)));
        let existing = if without_table { Some(Existing::Refuse) } else { existing };
        let settings = assemble::settings(&all, id.clone().unwrap_or(LaneId::only()), existing, &mut wrong);
        if let (Some(settings), Some(LaneId { name: Some(_), .. })) = (&settings, &id)
            && settings.slot().len() > LONGEST_SLOT
        {
            let problem = format!(
                "makes the slot {}, which has {} letters; PostgreSQL allows {LONGEST_SLOT}: shorten it, or the relay's",
                settings.slot(),
                settings.slot().len()
            );
            of_itself.push(mistake(given, NAME, problem));
        }
        Lane { given, id, reads, settings, of_itself, of_settings: wrong.iter().cloned().collect() }
    }

    fn has(&self, mistake: &Mistake) -> bool {
        !self.given.keys.contains_key(&mistake.key) && self.of_settings.contains(mistake)
    }
}

/// What a lane has, over what the relay has. Of a topic's template and its prefix only one may be given, so a lane that
/// gives one of them does not inherit the other.
fn inherited(relay: &AllGiven, lane: &AllGiven) -> AllGiven {
    let either = [ROUTE_TOPIC.path, KAFKA_TOPIC_PREFIX.path];
    let chosen = either.iter().any(|path| lane.contains_key(*path));
    let mut all: AllGiven =
        relay.iter().filter(|(path, _)| !(chosen && either.contains(&path.as_str()))).map(entry).collect();
    all.extend(lane.iter().filter(|(path, _)| may_differ(path)).map(entry));
    all
}

fn entry<T: Clone>((path, given): (&String, &T)) -> (String, T) {
    (path.clone(), given.clone())
}

fn identity(given: &LaneGiven, wrong: &mut Vec<Mistake>) -> Option<LaneId> {
    let kind = Count { min: 0, max: LARGEST_NUMBER };
    let number = match given.keys.get(NUMBER) {
        None => Err(format!(
            "has to be given: {}. It says where on Kafka the lane's memory stands, so it never changes, wherever the \
             lane stands in the list",
            kind.expectation()
        )),
        Some(value) if matches!(value.form, Form::List | Form::Nothing) => {
            Err(format!("expected {}", kind.expectation()))
        }
        Some(value) => kind.read(&value.text),
    };
    let name = match given.keys.get(NAME) {
        None if number.as_ref().is_ok_and(|number| *number == 0) => Ok(None),
        None => Err(format!(
            "has to be given: {}. Only the lane of number 0 may be without one; it keeps the slot of a relay without \
             lanes",
            LaneName.expectation()
        )),
        Some(value) if value.form != Form::Text => {
            Err(format!("expected {} (text, in quotes)", LaneName.expectation()))
        }
        Some(value) => LaneName.read(&value.text).map(Some),
    };
    let mut tell = |key: &str, problem: String| wrong.push(mistake(given, key, problem));
    let name = name.map_err(|problem| tell(NAME, problem)).ok();
    let number = number.map_err(|problem| tell(NUMBER, problem)).ok();
    Some(LaneId { number: u32::try_from(number?).ok()?, name: name? })
}

/// A mistake of one of the lane's own keys, with its value and its place.
fn mistake(lane: &LaneGiven, key: &str, problem: String) -> Mistake {
    let value = lane.keys.get(key);
    Mistake {
        key: lane.path(key),
        value: value.filter(|value| value.form != Form::Nothing).map(|value| format!("{:?}", value.text)),
        origin: value.map_or_else(|| lane.origin.clone(), |value| value.origin.clone()),
        problem,
    }
}

/// Tells what is wrong in all lanes alike once, and the rest under the lane's name.
fn tell(lanes: &[Lane<'_>], mistakes: &mut Mistakes) {
    let Some(first) = lanes.first() else { return };
    let of_all = |wrong: &Mistake| lanes.iter().all(|lane| lane.has(wrong));
    first.of_settings.iter().filter(|wrong| of_all(wrong)).for_each(|wrong| mistakes.add(wrong.clone()));
    for lane in lanes {
        lane.of_itself.iter().for_each(|wrong| mistakes.add(wrong.clone()));
        for wrong in lane.of_settings.iter().filter(|wrong| !of_all(wrong)) {
            let mut wrong = wrong.clone();
            if may_differ(&wrong.key) {
                wrong.key = lane.given.path(&wrong.key);
            } else {
                // The key is the relay's; what it does not fit to is the lane's.
                wrong.problem = format!("{} (in lane {})", wrong.problem, lane.given.label());
            }
            mistakes.add(wrong);
        }
    }
}

/// Two lanes of one name or number would be one slot or one memory; of two that read the same, both would publish it.
fn clashes(lanes: &[Lane<'_>], mistakes: &mut Mistakes) {
    for (at, lane) in lanes.iter().enumerate() {
        let earlier = |same: &dyn Fn(&Lane<'_>) -> bool| {
            lanes[..at].iter().find(|other| same(other)).map(|other| other.given.label())
        };
        let (number, name) =
            (lane.id.as_ref().map(|id| id.number), lane.id.as_ref().and_then(|id| id.name.clone()));
        if let Some(other) =
            number.and_then(|_| earlier(&|other| other.id.as_ref().map(|id| id.number) == number))
        {
            let problem = format!("is the number of lane {other}, too: each memory is one lane's");
            mistakes.add(mistake(lane.given, NUMBER, problem));
        }
        if name.is_some() && earlier(&|other| other.id.as_ref().is_some_and(|id| id.name == name)).is_some() {
            let problem = "is the name of another lane, too: each slot is one lane's".to_owned();
            mistakes.add(mistake(lane.given, NAME, problem));
        }
        let Some(reads) = &lane.reads else { continue };
        if let Some(other) = earlier(&|other| other.reads == lane.reads) {
            let (key, what) = match reads {
                Reads::Table(..) => (OUTBOX_TABLE.path, "the table of lane {other}, too: every row of it"),
                Reads::Messages(_) => {
                    (OUTBOX_MESSAGE_PREFIX.path, "the prefix of lane {other}, too: every message of it")
                }
            };
            let what = what.replace("{other}", &other);
            let mut wrong = mistake(lane.given, key, format!("is {what} would be published twice"));
            // Not given here, it is the relay's, or the default.
            wrong.value = Some(format!("\"{reads}\""));
            mistakes.add(wrong);
        }
    }
}

/// Where a lane's events come from.
#[derive(Debug, PartialEq, Eq)]
enum Reads {
    /// Schema and table.
    Table(String, String),
    /// The prefix of messages.
    Messages(String),
}

impl Reads {
    /// By what was given, or by default, also where something else of the lane is wrong.
    fn of(all: &AllGiven) -> Option<Reads> {
        let text = |path: &str, fallback: Fallback| match (all.get(path), fallback) {
            (Some(given), _) => given.text.clone(),
            (None, Fallback::Text(text)) => text.to_owned(),
            (None, Fallback::Required | Fallback::Unset(_)) => String::new(),
        };
        let from = text(OUTBOX_FROM.path, OUTBOX_FROM.fallback);
        match OUTBOX_FROM.kind.read(&from).ok()? {
            EventsFrom::Table => {
                let table = text(OUTBOX_TABLE.path, OUTBOX_TABLE.fallback);
                OUTBOX_TABLE.kind.read(&table).ok().map(|(schema, table)| Reads::Table(schema, table))
            }
            EventsFrom::Messages => {
                let prefix = text(OUTBOX_MESSAGE_PREFIX.path, OUTBOX_MESSAGE_PREFIX.fallback);
                OUTBOX_MESSAGE_PREFIX.kind.read(&prefix).ok().map(Reads::Messages)
            }
        }
    }
}

impl fmt::Display for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reads::Table(schema, table) => write!(f, "{schema}.{table}"),
            Reads::Messages(prefix) => f.write_str(prefix),
        }
    }
}

/// The mistakes of a list that is none.
pub fn no_list(origin: &Origin, problem: &str) -> Mistake {
    Mistake { key: LANES.into(), value: None, origin: origin.clone(), problem: problem.into() }
}
