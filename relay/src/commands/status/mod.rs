//! `outbox-relay status`: asks a running relay how it is.

mod fetch;
mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use clap::Args;
use serde_json::Value;

use super::{ConfigFile, Exit, output};

const EXAMPLES: &str = "\
Examples:
  outbox-relay status
  outbox-relay status --url http://127.0.0.1:9464
  outbox-relay status --json | jq .lag

Exits with 0 if the relay is ready, with 1 if it is not or does not answer.";

/// What `status` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatusArgs {
    #[command(flatten)]
    file: ConfigFile,
    /// Where its admin port listens, such as http://127.0.0.1:9464 [default: admin.listen]
    #[arg(long, conflicts_with = "config")]
    url: Option<String>,
    /// Print the answer as it came
    #[arg(long)]
    json: bool,
}

/// Asks, prints, and ends by whether the relay is ready.
pub fn execute(args: StatusArgs) -> Exit {
    let authority = match &args.url {
        Some(url) => authority_of(url),
        None => match args.file.load(None) {
            Ok(lanes) => reachable(lanes.first().admin.listen),
            Err(exit) => return exit,
        },
    };
    let answer = authority.and_then(|authority| {
        fetch::get(&authority, "/status").map_err(|error| {
            format!("no relay answers on http://{authority}/status: {}", output::with_causes(&error))
        })
    });
    let body = match answer {
        Ok(body) => body,
        Err(problem) => {
            eprintln!("outbox-relay: {problem}");
            return Exit::Failure;
        }
    };
    let Ok(status) = serde_json::from_str::<Value>(&body) else {
        eprintln!("outbox-relay: what answers there is not a relay");
        return Exit::Failure;
    };
    let page = if args.json { format!("{}\n", body.trim_end()) } else { table::page(&status) };
    match output::print(&page) {
        Exit::Success if status["ready"] != Value::Bool(true) => Exit::Failure,
        exit => exit,
    }
}

/// `http://host:port/` → `host:port`.
fn authority_of(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let authority = rest.trim_end_matches("/status").trim_end_matches('/');
    let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    match port {
        Some(port) if port > 0 && !authority.contains('/') => Ok(authority.into()),
        _ => Err("--url is expected to be http://host:port".into()),
    }
}

/// Where to knock for what listens there.
fn reachable(listen: SocketAddr) -> Result<String, String> {
    if listen.port() == 0 {
        return Err("admin.listen takes a free port at each start; name the one it logged with --url".into());
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_a_host_and_a_port() {
        assert_eq!(authority_of("http://127.0.0.1:9464/").as_deref(), Ok("127.0.0.1:9464"));
        assert_eq!(authority_of("relay:9464/status").as_deref(), Ok("relay:9464"));
        for url in ["https://127.0.0.1:9464", "http://127.0.0.1", "http://h:0", "http://h:1/x"] {
            assert!(authority_of(url).is_err(), "{url}");
        }
    }

    #[test]
    fn every_address_means_loopback_from_here() {
        assert_eq!(reachable("0.0.0.0:9464".parse().unwrap()).as_deref(), Ok("127.0.0.1:9464"));
        assert_eq!(reachable("[::]:9464".parse().unwrap()).as_deref(), Ok("[::1]:9464"));
        assert!(reachable("127.0.0.1:0".parse().unwrap()).is_err());
    }
}
