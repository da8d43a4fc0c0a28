//! What a file and the environment give, as text by path, before anything of it is judged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::{ConfigError, File, FileFormat, Source, Value, ValueKind};

use super::keys::{FREE_SECTIONS, HEADERS, TABLE, VARIABLE_PREFIX, variable_of};
use super::kinds::{Kind, LaneName};
use super::mistakes::{Mistake, Mistakes, Origin};
use super::{known, lanes};

/// How a file wrote a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As text; everything from the environment is.
    Text,
    /// As a number or a truth value.
    Scalar,
    /// As a list of those.
    List,
    /// Not at all: `null` or an empty section.
    Nothing,
}

/// One value, not yet judged. Has no `Debug`: it may be a secret.
#[derive(Clone)]
pub struct Given {
    /// The value as text; a list's items with commas between them.
    pub text: String,
    /// How it was written.
    pub form: Form,
    /// Where it stands.
    pub origin: Origin,
    /// Where else it stands: what an environment variable overrode.
    pub overrode: Option<Origin>,
}

/// All of them by path.
pub type AllGiven = BTreeMap<String, Given>;

/// What is said of the relay, and of each of its lanes.
pub struct Gathered {
    /// Of the relay.
    pub relay: AllGiven,
    /// Of each lane, in the order of the file; `None` where there is no list.
    pub lanes: Option<Vec<LaneGiven>>,
}

/// What the file says of one lane.
pub struct LaneGiven {
    /// Its place in the list, from 1.
    place: usize,
    /// Where the list stands.
    pub origin: Origin,
    /// Its own keys, by the paths that the relay's have, and its name and number.
    pub keys: AllGiven,
}

impl LaneGiven {
    /// What the lane is called in mistakes: its name, else its place.
    pub fn label(&self) -> String {
        let text = |key| self.keys.get(key).map(|given| given.text.as_str());
        match (text(lanes::NAME), text(lanes::NUMBER)) {
            (Some(name), _) if LaneName.read(name).is_ok() => name.to_owned(),
            (None, Some("0")) => "0".to_owned(),
            _ => format!("#{}", self.place),
        }
    }

    /// The whole path of one of its keys.
    pub fn path(&self, key: &str) -> String {
        format!("{}.{}.{key}", lanes::LANES, self.label())
    }
}

/// Reads the file, if there is one, and lays the environment over what it says of the relay. Lanes are the file's
/// alone: a variable's name could not say where the lane's ends.
///
/// A file that cannot be read is a mistake like any other, so that the environment's are told with it.
pub fn read(file: Option<&Path>, variables: &[(String, String)], mistakes: &mut Mistakes) -> Gathered {
    let mut all = AllGiven::new();
    let mut lanes = None;
    if let Some(path) = file {
        match parse(path) {
            Ok(root) => {
                let origin = Origin::File(path.to_path_buf());
                for (key, value) in root {
                    if key == lanes::LANES {
                        lanes = Some(list(value, &origin, mistakes));
                    } else {
                        flatten(key, value, &origin, &mut all, mistakes);
                    }
                }
            }
            Err(problem) => mistakes.add(Mistake {
                key: "(the whole file)".into(),
                value: None,
                origin: Origin::File(path.to_path_buf()),
                problem,
            }),
        }
    }
    for (name, text) in variables {
        overlay(name, text, &mut all, mistakes);
    }
    known::refuse_unknown(&mut all, mistakes);
    Gathered { relay: all, lanes }
}

/// The lanes of the list, each with the keys that a lane may have.
fn list(value: Value, origin: &Origin, mistakes: &mut Mistakes) -> Vec<LaneGiven> {
    let ValueKind::Array(items) = value.kind else {
        let problem = "is a list: in TOML each lane begins with a line [[lanes]]";
        mistakes.add(lanes::no_list(origin, problem));
        return Vec::new();
    };
    if items.is_empty() {
        mistakes.add(lanes::no_list(origin, "has no lane; leave it out where the relay has one table only"));
    }
    let read = |(index, item): (usize, Value)| {
        let mut lane = LaneGiven { place: index + 1, origin: origin.clone(), keys: AllGiven::new() };
        if let ValueKind::Table(table) = item.kind {
            for (key, value) in table {
                flatten(key, value, origin, &mut lane.keys, mistakes);
            }
            known::refuse_of_lane(&mut lane, mistakes);
        } else {
            let problem = format!("lane #{} is no table with a name, a number and keys", lane.place);
            mistakes.add(lanes::no_list(origin, &problem));
        }
        lane
    };
    items.into_iter().enumerate().map(read).collect()
}

type Root = config::Map<String, Value>;

fn parse(path: &Path) -> Result<Root, String> {
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => FileFormat::Toml,
        Some("yaml" | "yml") => FileFormat::Yaml,
        _ => return Err("its name has to end in .toml, .yaml or .yml".into()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    File::from_str(&text, format).collect().map_err(|error| match error {
        ConfigError::FileParse { cause, .. } => without_source(&cause.to_string()),
        _ => "cannot be read as a table of keys".into(),
    })
}

/// A parser's message without the lines of the file that it quotes (`3 | password = "…`): one of them may
/// be a secret.
fn without_source(message: &str) -> String {
    let quoted =
        |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    message
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !quoted(line))
        .collect::<Vec<_>>()
        .join(": ")
}

/// Takes a tree apart into its leaves, each under its dotted path.
fn flatten(path: String, value: Value, origin: &Origin, all: &mut AllGiven, mistakes: &mut Mistakes) {
    let (form, text) = match value.kind {
        ValueKind::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                flatten(format!("{path}.{key}"), value, origin, all, mistakes);
            }
            return;
        }
        ValueKind::Table(_) | ValueKind::Nil => (Form::Nothing, String::new()),
        ValueKind::String(text) => (Form::Text, text),
        ValueKind::Array(items) => {
            (Form::List, items.iter().map(|v| v.kind.to_string()).collect::<Vec<_>>().join(","))
        }
        scalar => (Form::Scalar, scalar.to_string()),
    };
    let given = Given { text, form, origin: origin.clone(), overrode: None };
    // `"kafka.brokers" = …` and `[kafka] brokers = …` are two keys to TOML and one to us.
    if all.insert(path.clone(), given).is_some() {
        mistakes.add(Mistake {
            key: path,
            value: None,
            origin: origin.clone(),
            problem: "is given twice, once with a dot in its name".into(),
        });
    }
}

/// Lays one environment variable over what the file gave. An empty variable counts as not set, as where
/// Compose passes one through that its host does not have.
fn overlay(name: &str, text: &str, all: &mut AllGiven, mistakes: &mut Mistakes) {
    let of_command_line = [super::CONFIG_VARIABLE, super::ADMIN_URL_VARIABLE].contains(&name);
    if !name.starts_with(VARIABLE_PREFIX) || of_command_line || text.is_empty() {
        return;
    }
    let path = match path_of(name) {
        Some(path) => path,
        None if is_service_link(name) => return,
        None => return mistakes.add(known::unknown_variable(name)),
    };
    let given = all.remove(&path);
    let overrode = given.map(|given| given.origin);
    let origin = Origin::Variable(name.into());
    all.insert(path, Given { text: text.into(), form: Form::Text, origin, overrode });
}

/// The path a variable stands for. Options of librdkafka and of topics have dots only, no underscores; a header's
/// name is written in lower case, underscores are its own.
fn path_of(name: &str) -> Option<String> {
    if let Some(key) = TABLE.iter().find(|key| key.variable() == name) {
        return Some(key.path().into());
    }
    if let Some(header) = name.strip_prefix(&variable_of(HEADERS)).filter(|header| !header.is_empty()) {
        return Some(format!("{HEADERS}{}", header.to_ascii_lowercase()));
    }
    FREE_SECTIONS.iter().find_map(|section| {
        let option = name.strip_prefix(&variable_of(section))?;
        Some(format!("{section}{}", option.to_ascii_lowercase().replace('_', ".")))
    })
}

/// Kubernetes sets `<SERVICE>_PORT`, `<SERVICE>_SERVICE_HOST` and more in every pod beside a service, and a
/// service of the relay's admin port is likely called `outbox-relay`.
fn is_service_link(name: &str) -> bool {
    let rest = name.strip_prefix(VARIABLE_PREFIX).unwrap_or_default();
    rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_")
}

/// The file that is read: the one named on the command line, else by the environment, else
/// `outbox-relay.toml` in the working directory if it exists.
pub fn locate(named: Option<&Path>, variables: &[(String, String)]) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(path.to_path_buf());
    }
    let variable = variables.iter().find(|(name, text)| name == super::CONFIG_VARIABLE && !text.is_empty());
    if let Some((_, path)) = variable {
        return Some(PathBuf::from(path));
    }
    let usual = PathBuf::from(super::USUAL_FILE);
    usual.exists().then_some(usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_does_not_quote_the_file() {
        let message = "TOML parse error at line 3, column 5\n  |\n3 | password = \"hunter2\n  |     ^\ninvalid string\n";
        assert_eq!(without_source(message), "TOML parse error at line 3, column 5: invalid string");
    }

    #[test]
    fn variables_of_a_service_are_not_ours() {
        for name in ["OUTBOX_RELAY_PORT", "OUTBOX_RELAY_PORT_9464_TCP_ADDR", "OUTBOX_RELAY_SERVICE_HOST"] {
            assert!(is_service_link(name) && path_of(name).is_none(), "{name}");
        }
        assert_eq!(
            path_of("OUTBOX_RELAY_KAFKA_OPTIONS_SASL_PASSWORD").as_deref(),
            Some("kafka.options.sasl.password")
        );
        assert_eq!(
            path_of("OUTBOX_RELAY_TOPICS_OPTIONS_CLEANUP_POLICY").as_deref(),
            Some("topics.options.cleanup.policy")
        );
    }

    #[test]
    fn the_command_line_comes_before_the_environment() {
        let variables = [("OUTBOX_RELAY_CONFIG".to_string(), "b.toml".to_string())];
        assert_eq!(locate(Some(Path::new("a.toml")), &variables), Some("a.toml".into()));
        assert_eq!(locate(None, &variables), Some("b.toml".into()));
    }
}
