//! Somebody who runs `outbox-dlq` beside a consumer's database and Kafka.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use outbox_tests::cluster::{Kafka, Postgres};
use serde_json::Value;

/// Where the operator is connected to.
pub(crate) struct Operator {
    pub(crate) database: String,
    pub(crate) brokers: String,
}

/// How a run of the tool ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The tool beside this test, or where `OUTBOX_DLQ_BIN` says.
pub(crate) fn tool() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().expect("a path of this test");
        test.parent().and_then(|deps| deps.parent()).expect("cargo's directories").join("outbox-dlq")
    };
    let path = std::env::var_os("OUTBOX_DLQ_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.is_file(), "no tool at {}: cargo build --release -p outbox-consumer", path.display());
    path
}

impl Operator {
    /// Beside the database of that name, as its superuser.
    pub(crate) fn beside(database: &str, postgres: &Postgres, kafka: &Kafka) -> Operator {
        Operator { database: postgres.url(database), brokers: kafka.brokers() }
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(tool());
        command.args(line).env("DATABASE_URL", &self.database).env("KAFKA_BROKERS", &self.brokers);
        command.env("LOGNAME", "alice").env_remove("SUDO_USER").stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, line: &[&str]) -> Ended {
        ended(self.command(line))
    }

    /// What it prints, having done what it was asked for.
    #[track_caller]
    pub(crate) fn does(&self, line: &[&str]) -> String {
        let Ended { code, out, err } = self.run(line);
        assert_eq!(code, Some(0), "{line:?}\n{out}\n{err}");
        out
    }

    /// What it complains about.
    #[track_caller]
    pub(crate) fn fails(&self, line: &[&str]) -> String {
        let Ended { code, out, err } = self.run(line);
        assert_eq!(code, Some(1), "{line:?}\n{out}\n{err}");
        err
    }

    #[track_caller]
    pub(crate) fn json(&self, line: &[&str]) -> Value {
        serde_json::from_str(&self.does(&[line, &["--json"]].concat())).unwrap()
    }
}

pub(crate) fn ended(mut command: Command) -> Ended {
    let output = command.output().expect("the tool runs");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
pub(crate) fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}
