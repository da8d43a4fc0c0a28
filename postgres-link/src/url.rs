//! A `postgres://` URL: taken apart, checked, and never shown with its password.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;
use tokio_postgres::config::Host;

use crate::Program;
use crate::transport::{Asked, Transport};

/// What a URL says. `Debug` hides the password.
#[derive(Debug, Clone)]
pub struct ParsedUrl {
    /// Host name or address.
    pub host: String,
    /// TCP port (5432 if the URL has none).
    pub port: u16,
    /// Role to log in as.
    pub user: String,
    /// Password, if the URL holds one.
    pub password: Option<SecretString>,
    /// Database (the role's name if the URL has none, as everywhere in PostgreSQL).
    pub database: String,
    /// How the connection is protected, from `sslmode` and its companions.
    pub transport: Transport,
    /// Further servers, in their order, of which one may be the primary; a relay's URL only.
    pub others: Vec<Place>,
    /// Parameter `connect_timeout`, given in whole seconds.
    pub connect_timeout: Option<Duration>,
    /// Parameter `application_name`.
    pub application_name: Option<String>,
}

/// A server, and how the connection to it is protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub transport: Transport,
}

const SPECIAL: &str =
    "in a password the characters @ : / ? # % have to be percent-encoded (@ is %40, / is %2F)";

fn expected(program: Program) -> String {
    format!("expected a URL such as postgres://{}@db.example.com:5432/orders", program.name())
}

/// Everything that is wrong, each in a sentence; told in one run and without a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistakes(Vec<String>);

impl Mistakes {
    pub(crate) fn new(sentences: Vec<String>) -> Mistakes {
        Mistakes(sentences)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Mistakes {}

impl ParsedUrl {
    /// Takes a URL apart and checks that `program` can use it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it, in words that hold nothing of the URL but names of parameters.
    pub fn parse(program: Program, text: &str) -> Result<ParsedUrl, Mistakes> {
        let expected = expected(program);
        let parts = Parts::of(text, &expected).map_err(|wrong| Mistakes(vec![wrong]))?;
        let mut wrong = Vec::new();
        let params = Params::read(parts.query, &mut wrong);
        let base = format!("postgres://{}", parts.base);
        let parsed = match base.parse::<tokio_postgres::Config>() {
            Ok(parsed) => parsed,
            Err(_) => {
                wrong.push(format!("host, port or percent-encoding cannot be read: {expected}"));
                return Err(Mistakes(wrong));
            }
        };
        let user = parsed.get_user().filter(|user| !user.is_empty()).unwrap_or_default().to_string();
        if user.is_empty() {
            wrong.push(format!("it names no user: {expected}"));
        }
        // Without a host as if it were this machine: what is wrong with the parameters is told nevertheless.
        let hosts = hosts(&parsed, program).unwrap_or_else(|problem| {
            wrong.push(problem);
            vec!["localhost".to_owned()]
        });
        let ports = parsed.get_ports();
        let mut places = Vec::new();
        for (at, host) in hosts.into_iter().enumerate() {
            let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
            if port == 0 {
                wrong.push("port 0 is none to connect to".into());
            }
            let transport = Transport::decide(program, &host, &params.asked).unwrap_or_else(|problems| {
                // The same is wrong for each of them.
                if at == 0 {
                    wrong.extend(problems);
                }
                Transport::clear(program)
            });
            places.push(Place { host, port, transport });
        }
        let password = match parsed.get_password().map(std::str::from_utf8).transpose() {
            Ok(password) => password.filter(|p| !p.is_empty()).map(SecretString::from),
            Err(_) => {
                wrong.push("its password is not UTF-8".into());
                None
            }
        };
        if !wrong.is_empty() {
            return Err(Mistakes(wrong));
        }
        let database = parsed.get_dbname().unwrap_or(&user).to_string();
        let Params { connect_timeout, application_name, .. } = params;
        let others = places.split_off(1.min(places.len()));
        let Some(Place { host, port, transport }) = places.pop() else {
            return Err(Mistakes(vec![expected]));
        };
        Ok(ParsedUrl {
            host,
            port,
            user,
            password,
            database,
            transport,
            others,
            connect_timeout,
            application_name,
        })
    }
}

/// The URL with `***` in place of its password; nothing of it where one cannot tell what the password is.
pub fn without_password(text: &str) -> String {
    match Parts::of(text, "") {
        Ok(parts) => {
            let query = parts.query.map(|query| format!("?{query}")).unwrap_or_default();
            let (credentials, place) = parts.base.split_once('@').unwrap_or_default();
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            let mask = if password.is_empty() { "" } else { ":***" };
            format!("postgres://{user}{mask}@{place}{query}")
        }
        Err(_) => "…".into(),
    }
}

/// The text before and after the question mark, once it is certain which of it is the password.
struct Parts<'a> {
    base: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str, expected: &str) -> Result<Parts<'a>, String> {
        let rest = ["postgres://", "postgresql://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        let rest = rest.ok_or_else(|| expected.to_owned())?;
        let (base, query) = match rest.split_once('?') {
            Some((base, query)) => (base, Some(query)),
            None => (rest, None),
        };
        let in_query = query.is_some_and(|query| query.contains('@') || holds_secret(query));
        let twice = base.matches('@').count() > 1;
        let in_path = base.find('@').is_some_and(|at| base[..at].contains('/'));
        if in_query || twice || in_path {
            return Err(format!("it cannot be told where its password ends: {SPECIAL}"));
        }
        if !base.contains('@') {
            return Err(format!("it names no user: {expected}"));
        }
        Ok(Parts { base, query })
    }
}

/// A parameter whose value must not be shown, were it only in a refusal.
fn holds_secret(query: &str) -> bool {
    query.split('&').any(|pair| pair.split('=').next().unwrap_or_default().contains("password"))
}

/// The parameters that are known.
#[derive(Default)]
struct Params {
    asked: Asked,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
}

impl Params {
    fn read(query: Option<&str>, wrong: &mut Vec<String>) -> Params {
        let mut params = Params::default();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match name {
                "sslmode" => params.asked.sslmode = Some(value.into()),
                "sslrootcert" => params.asked.sslrootcert = decoded(name, value, wrong),
                "sslcert" => params.asked.sslcert = decoded(name, value, wrong),
                "sslkey" => params.asked.sslkey = decoded(name, value, wrong),
                "channel_binding" => params.asked.channel_binding = Some(value.into()),
                "connect_timeout" => match value.parse() {
                    Ok(seconds) if (1..=300).contains(&seconds) => {
                        params.connect_timeout = Some(Duration::from_secs(seconds));
                    }
                    _ => wrong.push("parameter connect_timeout: expected whole seconds from 1 to 300".into()),
                },
                "application_name" if is_plain(value) => params.application_name = Some(value.into()),
                "application_name" => {
                    wrong.push("parameter application_name: expected 1 to 63 of A-Z a-z 0-9 . _ -".into());
                }
                _ if is_plain(name) => wrong.push(format!(
                    "parameter {name} is not known; known are sslmode, sslrootcert, sslcert, sslkey, \
                     channel_binding, connect_timeout and application_name"
                )),
                _ => wrong.push("its parameters cannot be read".into()),
            }
        }
        params
    }
}

/// A path, percent-encoded where it holds what a URL gives a meaning.
fn decoded(name: &str, value: &str, wrong: &mut Vec<String>) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
    if decoded.is_err() {
        wrong.push(format!("parameter {name}: its percent-encoding is not UTF-8"));
    }
    decoded.ok().map(String::from)
}

/// Short enough for `application_name` and free of anything that would need decoding.
fn is_plain(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The servers that a URL names. A relay looks for the primary among them; a consumer's pool has one address.
fn hosts(parsed: &tokio_postgres::Config, program: Program) -> Result<Vec<String>, String> {
    let nameless = || format!("it names no host: {}", expected(program));
    let named = |host: &Host| match host {
        Host::Tcp(host) if host.is_empty() => Err(nameless()),
        Host::Tcp(host) => Ok(host.clone()),
        Host::Unix(_) => {
            let why = match program {
                Program::Relay => "the reader is faster over loopback TCP; ",
                Program::Consumer => "",
            };
            Err(format!(
                "Unix sockets are not supported: {why}write localhost and have the server listen there"
            ))
        }
    };
    match (parsed.get_hosts(), program) {
        ([], _) => Err(nameless()),
        ([_, _, ..], Program::Consumer) => {
            Err("several hosts are not supported: name the one address that leads to \
                                                the primary (a failover changes where it leads)"
                .into())
        }
        (hosts, _) => hosts.iter().map(named).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use secrecy::ExposeSecret;

    use super::*;
    use crate::transport::{ChannelBinding, Roots, SslMode};

    fn parse(text: &str) -> Result<ParsedUrl, String> {
        ParsedUrl::parse(Program::Relay, text).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn a_full_url_is_taken_apart() {
        let url = parse(
            "postgresql://re%6Cay:p%40ss%2F@db:6543/orders?sslmode=disable&connect_timeout=3&application_name=x-1",
        )
        .unwrap();
        assert_eq!((url.host.as_str(), url.port, url.user.as_str()), ("db", 6543, "relay"));
        assert_eq!(url.password.as_ref().map(|p| p.expose_secret()), Some("p@ss/"));
        assert_eq!(url.database, "orders");
        assert_eq!(url.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(url.application_name.as_deref(), Some("x-1"));
        assert!(!format!("{url:?}").contains("p@ss"));
    }

    #[test]
    fn tls_is_asked_for_by_libpqs_names() {
        let url = parse(
            "postgres://relay@db?sslrootcert=%2Fetc/a%20b.pem&sslcert=c.pem&sslkey=k.pem&channel_binding=require",
        )
        .unwrap();
        assert_eq!(url.transport.mode, SslMode::VerifyFull);
        assert_eq!(url.transport.roots, Roots::File("/etc/a b.pem".into()));
        assert_eq!(url.transport.identity.unwrap().key, PathBuf::from("k.pem"));
        assert_eq!(url.transport.channel_binding, ChannelBinding::Require);
        let url = parse("postgres://relay@127.0.0.1").unwrap();
        assert_eq!(url.transport, Transport::clear(Program::Relay));
    }

    #[test]
    fn what_is_left_out_is_as_everywhere() {
        let url = parse("postgres://relay@[::1]").unwrap();
        assert_eq!((url.host.as_str(), url.port, url.database.as_str()), ("::1", 5432, "relay"));
        assert!(url.password.is_none());
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        for (text, part) in [
            ("http://relay@db", "such as postgres://"),
            ("host=db user=relay", "such as postgres://"),
            ("postgres://localhost/orders", "names no user"),
            ("postgres://relay@/orders", "names no host"),
            ("postgres://relay@localhost:x", "cannot be read"),
            ("postgres://relay@localhost:0", "port 0"),
            ("postgres://relay@%2Fvar%2Frun/orders", "Unix sockets"),
            ("postgres://relay@localhost?options=-csearch_path", "parameter options is not known"),
            ("postgres://relay@localhost?connect_timeout=0", "connect_timeout"),
            ("postgres://relay@localhost?application_name=a%20b", "application_name"),
            ("postgres://relay@db/orders?sslmode=allow", "sslmode=allow"),
            ("postgres://relay@db/orders?sslmode=on", "verify-full"),
            ("postgres://relay@db/orders?sslcert=a.pem", "without sslkey"),
            ("postgres://relay@db/orders?sslkey=%FF", "sslkey: its percent-encoding"),
        ] {
            let problem = parse(text).expect_err(text);
            assert!(problem.contains(part), "{text}: {problem}");
        }
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let text = "postgres://@a,b?options=x&connect_timeout=y&sslmode=allow";
        let problem = ParsedUrl::parse(Program::Consumer, text).unwrap_err().to_string();
        for part in ["options", "connect_timeout", "no user", "several hosts", "sslmode"] {
            assert!(problem.contains(part), "{part}: {problem}");
        }
        let problem = parse("postgres://relay@a:0,b:0?sslmode=allow").unwrap_err();
        assert_eq!(
            (problem.matches("port 0").count(), problem.matches("sslmode=allow").count()),
            (2, 1),
            "{problem}"
        );
    }

    #[test]
    fn a_relay_may_name_several_servers() {
        let url = parse("postgres://relay@db1,db2:6000,127.0.0.1:7000/orders").unwrap();
        assert_eq!((url.host.as_str(), url.port), ("db1", 5432));
        let others: Vec<(&str, u16)> =
            url.others.iter().map(|place| (place.host.as_str(), place.port)).collect();
        assert_eq!(others, [("db2", 6000), ("127.0.0.1", 7000)]);
        let modes = [url.transport.mode, url.others[0].transport.mode, url.others[1].transport.mode];
        assert_eq!(modes, [SslMode::VerifyFull, SslMode::VerifyFull, SslMode::Disable]);
        assert!(parse("postgres://relay@db1,%2Fvar%2Frun/orders").unwrap_err().contains("Unix sockets"));
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in [
            "postgres://relay:hunter2@db/orders?sslmode=allow",
            "postgres://relay:hunter2@db:x/orders?a=b",
            "postgres://relay:hun@hunter2@db/orders",
            "postgres://relay:x/hunter2@db/orders",
            "postgres://relay:x?hunter2@db/orders",
            "postgres://relay:hunter2",
            "postgres://relay:x?hunter2",
            "postgres:relay:hunter2@db",
            "postgres://relay@db?password=hunter2",
            "postgres://relay@db?sslpassword=hunter2",
            "hunter2",
        ] {
            assert!(!without_password(text).contains("hunter2"), "{text}");
            let problem = parse(text).expect_err(text);
            assert!(!problem.contains("hunter2"), "{text}: {problem}");
        }
        assert_eq!(
            without_password("postgres://relay:x@db/orders?a=b"),
            "postgres://relay:***@db/orders?a=b"
        );
    }
}
