//! The built relay as a child process, with a configuration file of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::cluster::ground::{self, Port};
use crate::fault::process::{Launch, Process};
use crate::parts;
use crate::wait::watch;

/// Limit of one question to the admin port.
const QUESTION: Duration = Duration::from_secs(5);

/// What a relay is started with: keys of its configuration, and arguments.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    keys: BTreeMap<String, String>,
    arguments: Vec<String>,
}

impl RelayConfig {
    /// The three keys that a relay needs, and the password of the role in `source_url`.
    pub fn new(name: &str, source_url: &str, password: &str, brokers: &str) -> RelayConfig {
        RelayConfig { keys: BTreeMap::new(), arguments: Vec::new() }
            .text("name", name)
            .text("source.url", source_url)
            .text("source.password", password)
            .text("kafka.brokers", brokers)
    }

    /// The three keys that a relay needs, without a password.
    pub fn without_password(name: &str, source_url: &str, brokers: &str) -> RelayConfig {
        let mut config = RelayConfig::new(name, source_url, "", brokers);
        config.keys.remove("source.password");
        config
    }

    /// Sets a key such as `kafka.linger` to a text.
    pub fn text(self, key: &str, value: &str) -> RelayConfig {
        // A basic string of TOML has the same escapes as a string of JSON.
        self.raw(key, &Value::from(value).to_string())
    }

    /// Sets a key to a value as TOML writes it: `5`, `true`, `["a"]`.
    pub fn raw(mut self, key: &str, value: &str) -> RelayConfig {
        self.keys.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds an argument of `outbox-relay run`, such as `--existing=publish`.
    pub fn argument(mut self, argument: &str) -> RelayConfig {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The configuration file; dotted keys stand for themselves in TOML.
    fn file(&self) -> String {
        self.keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }

    /// Runs `outbox-relay init --config … --admin-url …` to its end: schema, publication, role, slot.
    /// Returns how it ended and what it wrote.
    ///
    /// # Panics
    /// When the relay has not been built or does not end within a minute.
    pub fn init(&self, admin_url: &str, arguments: &[&str]) -> (ExitStatus, String) {
        let mut command = vec!["init", "--admin-url", admin_url];
        command.extend(arguments);
        self.command(&command)
    }

    /// Runs another command of the relay with this configuration to its end. Returns how it ended and what
    /// it wrote.
    ///
    /// # Panics
    /// When the relay has not been built or does not end within a minute.
    pub fn command(&self, command: &[&str]) -> (ExitStatus, String) {
        let directory = ground::directory("command");
        let process = self.launch(&directory, command.iter().map(ToString::to_string).collect());
        let status = process.wait(Duration::from_secs(60));
        let text = fs::read_to_string(process.log_file()).unwrap_or_default();
        ground::remove(&directory);
        (status, text)
    }

    /// Starts a command of the relay with this configuration; `relay.toml` and `relay.log` lie in the directory.
    pub(crate) fn launch(&self, directory: &Path, mut command: Vec<String>) -> Process {
        let config = directory.join("relay.toml");
        fs::write(&config, self.file()).expect("a file in our own directory");
        let program = parts::relay().unwrap_or_else(|error| panic!("{error}"));
        command.insert(0, program.display().to_string());
        command.push("--config".into());
        command.push(config.display().to_string());
        Process::start(Launch {
            name: "outbox-relay".into(),
            command,
            environment: Vec::new(),
            user: None,
            on_test_death: "KILL",
            log: directory.join("relay.log"),
        })
    }
}

/// A running `outbox-relay run`. Dropping it kills it; if the test panics, the end of its log is printed.
#[derive(Debug)]
pub struct Relay {
    process: Process,
    directory: PathBuf,
    admin: Port,
}

impl Relay {
    /// Starts a relay with an admin port of its own. It is not ready yet.
    ///
    /// # Panics
    /// When it has not been built.
    pub fn start(config: &RelayConfig) -> Relay {
        let directory = ground::directory("relay");
        let admin = Port::claim();
        let config = config.clone().text("admin.listen", &format!("127.0.0.1:{}", admin.number()));
        let mut command = vec!["run".to_owned()];
        command.extend(config.arguments.iter().cloned());
        let process = config.launch(&directory, command);
        Relay { process, directory, admin }
    }

    /// Waits until `/ready` answers 200.
    ///
    /// # Panics
    /// When it ends before, or `limit` passes, with the end of its log.
    #[track_caller]
    pub fn wait_ready(&self, limit: Duration) {
        self.wait_for(limit, "the relay to be ready", |relay| relay.is_ready().then_some(()));
    }

    /// Waits until `/status` shows what `probe` looks for.
    ///
    /// # Panics
    /// When it ends before, or `limit` passes, with the end of its log.
    #[track_caller]
    pub fn wait_status<T>(
        &self,
        limit: Duration,
        what: &str,
        mut probe: impl FnMut(&Value) -> Option<T>,
    ) -> T {
        self.wait_for(limit, what, |relay| probe(&relay.try_status()?))
    }

    #[track_caller]
    fn wait_for<T>(&self, limit: Duration, what: &str, mut probe: impl FnMut(&Relay) -> Option<T>) -> T {
        let seen = watch(limit, || {
            if let Some(status) = self.process.ended() {
                panic!("the relay ended ({status}) before {what}\n{}", self.process.log_tail());
            }
            probe(self)
        });
        // Dropping the relay prints its log.
        seen.unwrap_or_else(|| panic!("waited {limit:?} in vain for {what}; status {:?}", self.try_status()))
    }

    /// Whether `/ready` answers 200 now.
    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_ok_and(|(code, _)| code == 200)
    }

    /// The answer of `/status`.
    ///
    /// # Panics
    /// When the admin port does not answer.
    #[track_caller]
    pub fn status(&self) -> Value {
        let (_, body) = self.get("/status").unwrap_or_else(|error| panic!("/status: {error}"));
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("/status is no JSON ({error}): {body}"))
    }

    /// The answer of `/status`, if the admin port answers.
    pub fn try_status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status").ok()?.1).ok()
    }

    /// Status code and body of a GET on the admin port.
    ///
    /// # Errors
    /// When nothing answers.
    pub fn get(&self, path: &str) -> io::Result<(u16, String)> {
        http_get(SocketAddr::from((Ipv4Addr::LOCALHOST, self.admin.number())), path)
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) -> ExitStatus {
        self.process.kill()
    }

    /// SIGTERM: it drains. Returns at once; [`Relay::wait_exit`] waits.
    pub fn send_term(&self) {
        self.process.signal(Signal::TERM);
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it has not ended a minute later.
    pub fn terminate(&self) -> ExitStatus {
        self.send_term();
        self.wait_exit(Duration::from_secs(60))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When `limit` passes, with the end of its log.
    #[track_caller]
    pub fn wait_exit(&self, limit: Duration) -> ExitStatus {
        self.process.wait(limit)
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// SIGSTOP: it is frozen, its connections stay open.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Memory that it holds now, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn rss_kib(&self) -> u64 {
        self.process.memory_kib("VmRSS").expect("the relay runs")
    }

    /// The most memory that it has ever held, in KiB.
    ///
    /// # Panics
    /// When it has ended.
    pub fn peak_rss_kib(&self) -> u64 {
        self.process.memory_kib("VmHWM").expect("the relay runs")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.process.log_file()).unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill();
        if std::thread::panicking() {
            eprintln!("{}", self.process.log_tail());
        }
        ground::remove(&self.directory);
    }
}

/// One GET on a connection of its own: as much of HTTP as an admin port needs. Status code and body.
///
/// # Errors
/// The port does not answer, or not in HTTP.
pub fn http_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, QUESTION)?;
    stream.set_read_timeout(Some(QUESTION))?;
    stream.set_write_timeout(Some(QUESTION))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse_answer(&String::from_utf8_lossy(&answer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_file_holds_dotted_keys_and_escaped_texts() {
        let config = RelayConfig::new("orders", "postgres://relay@db/orders", "a\"b\\c", "k1:9092")
            .raw("kafka.max_in_flight_records", "5");
        let lines = [
            r#"kafka.brokers = "k1:9092""#,
            "kafka.max_in_flight_records = 5",
            r#"name = "orders""#,
            r#"source.password = "a\"b\\c""#,
            r#"source.url = "postgres://relay@db/orders""#,
        ];
        assert_eq!(config.file().lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let length = stream.read(&mut request).unwrap();
            stream
                .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 7\r\n\r\nstandby")
                .unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        assert_eq!(http_get(address, "/ready").unwrap(), (503, "standby".into()));
        assert!(server.join().unwrap().starts_with("GET /ready HTTP/1.1\r\n"));
    }

    #[test]
    fn nonsense_is_no_answer() {
        for answer in ["", "HTTP/1.1 200 OK", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert_eq!(parse_answer(answer), None, "{answer:?}");
        }
    }
}
