//! The files and jars of `tests/peers`.

use std::fs;
use std::path::{Path, PathBuf};

use super::results::Settings;
use crate::parts;

/// Where the configurations are.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// The built peers.
///
/// # Panics
/// When they are not there, with what to run.
pub fn built(peer: &str) -> PathBuf {
    parts::peers().unwrap_or_else(|error| panic!("{error}")).join(peer)
}

/// Java and its options.
///
/// # Panics
/// When there is none, with what to run.
pub fn java(settings: Settings) -> Vec<String> {
    let java = parts::peers_java().unwrap_or_else(|error| panic!("{error}"));
    let mut command = vec![java.display().to_string()];
    if settings == Settings::Tuned {
        command.push(format!("@{}", sources().join("tuned.jvm").display()));
    }
    command
}

/// The version in the name of a jar, such as that of `spring-kafka` in `spring-kafka-4.1.1.jar`.
///
/// # Panics
/// When there is no such jar.
pub fn version(directory: &Path, artifact: &str) -> String {
    let files = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
    names
        .filter_map(|name| version_of(&name, artifact).map(ToOwned::to_owned))
        // Our own program's jar is called as its peer, with the version 1.
        .find(|version| version != "1")
        .unwrap_or_else(|| panic!("no {artifact} in {}", directory.display()))
}

fn version_of<'a>(name: &'a str, artifact: &str) -> Option<&'a str> {
    let version = name.strip_prefix(artifact)?.strip_prefix('-')?.strip_suffix(".jar")?;
    version.starts_with(|first: char| first.is_ascii_digit()).then_some(version)
}

/// Copies a file of `tests/peers` with its `@names@` filled in, and says where to.
///
/// # Panics
/// When it is not there, or a name in it has no value.
pub fn fill(file: &str, values: &[(&str, String)], directory: &Path) -> PathBuf {
    let source = sources().join(file);
    let text = fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let text = filled(&text, values);
    if let Some(left) = text.lines().find(|line| !line.starts_with('#') && line.contains("=@")) {
        panic!("{}: nothing to put in: {left}", source.display());
    }
    let target = directory.join(file.replace('/', "-"));
    fs::write(&target, text).expect("our own directory");
    target
}

fn filled(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_filled_in() {
        let values = [("port", "5432".to_owned()), ("user", "me".to_owned())];
        assert_eq!(filled("port=@port@\nuser=@user@\n", &values), "port=5432\nuser=me\n");
    }

    #[test]
    fn a_version_follows_the_whole_name() {
        assert_eq!(version_of("spring-kafka-4.1.1.jar", "spring-kafka"), Some("4.1.1"));
        assert_eq!(version_of("spring-kafka-test-4.1.1.jar", "spring-kafka"), None);
        assert_eq!(version_of("spring-core-7.0.0.jar", "spring-kafka"), None);
    }

    #[test]
    fn tuned_configurations_hold_the_defaults() {
        let lines = |file: &str| -> Vec<String> {
            let text = fs::read_to_string(sources().join(file)).unwrap();
            text.lines().filter(|line| line.contains('=') && !line.starts_with('#')).map(Into::into).collect()
        };
        for (defaults, tuned) in [
            ("debezium-server/defaults.properties", "debezium-server/tuned.properties"),
            ("debezium-connect/worker-defaults.properties", "debezium-connect/worker-tuned.properties"),
            ("debezium-connect/connector-defaults.properties", "debezium-connect/connector-tuned.properties"),
        ] {
            let (defaults, tuned) = (lines(defaults), lines(tuned));
            assert_eq!(defaults, tuned[..defaults.len()]);
            assert!(tuned.len() > defaults.len());
        }
    }
}
