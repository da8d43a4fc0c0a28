//! Where things are: servers, files, addresses; and the log filter.

use std::net::SocketAddr;
use std::path::PathBuf;

use outbox_postgres_link::Program;
use outbox_postgres_link::url::{self, ParsedUrl};
use tracing_subscriber::EnvFilter;

use super::{Kind, expected};

/// A `postgres://` URL; shown without its password.
#[derive(Debug)]
pub struct DatabaseUrl;

impl Kind for DatabaseUrl {
    type Value = ParsedUrl;

    fn expectation(&self) -> String {
        "a URL such as `postgres://relay@db.example.com:5432/orders`".into()
    }

    fn read(&self, text: &str) -> Result<ParsedUrl, String> {
        ParsedUrl::parse(Program::Relay, text).map_err(|wrong| wrong.to_string())
    }

    fn show(&self, text: &str) -> String {
        format!("{:?}", url::without_password(text))
    }
}

/// A path on this machine.
#[derive(Debug)]
pub struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn expectation(&self) -> String {
        "the path of a file".into()
    }

    fn read(&self, text: &str) -> Result<PathBuf, String> {
        if text.is_empty() { Err(expected(self)) } else { Ok(PathBuf::from(text)) }
    }
}

/// Kafka's bootstrap servers; a file may give them as a list.
#[derive(Debug)]
pub struct Brokers;

impl Kind for Brokers {
    type Value = String;

    fn expectation(&self) -> String {
        "`host:port`, several with commas between them, ports from 1 to 65535".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        let brokers: Vec<&str> = text.split(',').map(str::trim).collect();
        if brokers.iter().all(|broker| is_host_and_port(broker)) {
            Ok(brokers.join(","))
        } else {
            Err(expected(self))
        }
    }

    fn may_be_list(&self) -> bool {
        true
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let address = bracketed.is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    (named || address) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Where the admin port listens.
#[derive(Debug)]
pub struct ListenAddress;

impl Kind for ListenAddress {
    type Value = SocketAddr;

    fn expectation(&self) -> String {
        "an address and a port such as `127.0.0.1:9464` or `[::1]:9464`".into()
    }

    fn read(&self, text: &str) -> Result<SocketAddr, String> {
        let text =
            text.strip_prefix("localhost:").map_or(text.to_string(), |port| format!("127.0.0.1:{port}"));
        text.parse().map_err(|_| expected(self))
    }
}

/// A filter of `tracing`.
#[derive(Debug)]
pub struct LogFilter;

impl Kind for LogFilter {
    type Value = String;

    fn expectation(&self) -> String {
        "levels by module such as `info` or `info,outbox_relay::session=debug`".into()
    }

    fn read(&self, text: &str) -> Result<String, String> {
        match EnvFilter::builder().parse(text) {
            Ok(_) if !text.is_empty() => Ok(text.into()),
            _ => Err(expected(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_have_ports() {
        assert_eq!(Brokers.read("k1:9093, k2.example-1.com:1").as_deref(), Ok("k1:9093,k2.example-1.com:1"));
        assert!(Brokers.read("[::1]:9092").is_ok());
        for text in ["", "k1", "k1:", "k1:0", "k1:65536", "k1:9092,", ":9092", "SSL://k1:9092", "a b:1"] {
            assert!(Brokers.read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn localhost_is_loopback() {
        assert_eq!(ListenAddress.read("localhost:1").map(|a| a.ip().is_loopback()), Ok(true));
        assert!(ListenAddress.read("localhost").is_err());
    }

    #[test]
    fn filters_are_tried() {
        assert!(LogFilter.read("info,outbox_relay=debug").is_ok());
        assert!(LogFilter.read("outbox_relay=loudly").is_err());
    }
}
