//! One database as a program's settings name it: what is known before anything is connected.

use std::path::Path;
use std::time::Duration;

use secrecy::SecretString;

use crate::url::{Mistakes, ParsedUrl};
use crate::{Program, password, tls};

/// Limit of one connection attempt, TLS and login included, unless the URL has `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The variable that holds the password, by libpq's name.
pub const PASSWORD: &str = "PGPASSWORD";
/// The variable that names a file whose only line is the password. It is no `PGPASSFILE`, which is not read.
pub const PASSWORD_FILE: &str = "PGPASSWORD_FILE";

/// A database, how its connections are protected, and as whom to log in. `Debug` hides the password.
#[derive(Debug, Clone)]
pub struct Link {
    pub(crate) url: ParsedUrl,
    pub(crate) connect_timeout: Duration,
}

impl Link {
    /// Takes a `DATABASE_URL` of a consumer apart, with the password from the URL, [`PASSWORD`] or the file that
    /// [`PASSWORD_FILE`] names. A variable that is empty counts as none.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with URL, variables and the files that they name, without a secret.
    pub fn parse(url: &str, env: impl Fn(&str) -> Option<String>) -> Result<Link, Mistakes> {
        let mut wrong = Vec::new();
        let parsed = ParsedUrl::parse(Program::Consumer, url);
        match &parsed {
            Ok(url) => wrong.extend(tls::check(&url.transport, &url.host)),
            Err(mistakes) => wrong.extend(mistakes.iter().map(str::to_owned)),
        }
        let in_url = parsed.as_ref().ok().and_then(|url| url.password.clone());
        let password = password(in_url, env, &mut wrong);
        match parsed {
            Ok(url) if wrong.is_empty() => {
                let connect_timeout = url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
                Ok(Link { url: ParsedUrl { password, ..url }, connect_timeout })
            }
            Ok(_) | Err(_) => Err(Mistakes::new(wrong)),
        }
    }

    /// Where and as whom, and how it is protected, for a log: never the password.
    pub fn describe(&self) -> String {
        let ParsedUrl { user, database, transport, .. } = &self.url;
        let mode = transport.mode.name();
        format!("database {database} at {} as role {user}, sslmode={mode}", self.place())
    }

    /// Host and port.
    pub(crate) fn place(&self) -> String {
        let (host, port) = (&self.url.host, self.url.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The password, from one place only: with two, whoever changes one of them would change nothing.
fn password(
    in_url: Option<SecretString>,
    env: impl Fn(&str) -> Option<String>,
    wrong: &mut Vec<String>,
) -> Option<SecretString> {
    let variable = |name| env(name).filter(|text| !text.is_empty());
    let given = variable(PASSWORD).map(SecretString::from);
    let file = variable(PASSWORD_FILE);
    let places =
        [(in_url.is_some(), "the URL"), (given.is_some(), PASSWORD), (file.is_some(), PASSWORD_FILE)];
    let places: Vec<&str> = places.into_iter().filter(|(given, _)| *given).map(|(_, place)| place).collect();
    if places.len() > 1 {
        wrong.push(format!("the password is given more than once: {}; keep one", places.join(", ")));
    }
    let read = |path: String| {
        let read = password::from_file(Path::new(&path));
        read.map_err(|problem| wrong.push(format!("{PASSWORD_FILE} {path} {problem}"))).ok()
    };
    let from_file = file.and_then(read);
    in_url.or(given).or(from_file)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn parse(url: &str, variables: &[(&str, &str)]) -> Result<Link, Mistakes> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Link::parse(url, |name| find(name).map(|(_, text)| (*text).to_owned()))
    }

    fn password(link: &Link) -> Option<&str> {
        link.url.password.as_ref().map(|password| password.expose_secret())
    }

    #[test]
    fn a_password_comes_from_one_place() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "hunter2\n").unwrap();
        let file = file.to_str().unwrap();
        for (url, variables) in [
            ("postgres://app:hunter2@localhost", &[("PGPASSWORD", "")][..]),
            ("postgres://app@localhost", &[("PGPASSWORD", "hunter2")]),
            ("postgres://app@localhost", &[("PGPASSWORD_FILE", file)]),
        ] {
            assert_eq!(password(&parse(url, variables).unwrap()), Some("hunter2"));
        }
        assert_eq!(password(&parse("postgres://app@localhost", &[]).unwrap()), None);
        let twice = parse("postgres://app:hunter2@localhost", &[("PGPASSWORD", "x")]).unwrap_err();
        assert_eq!(twice.to_string(), "the password is given more than once: the URL, PGPASSWORD; keep one");
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let variables = [("PGPASSWORD", "hunter2"), ("PGPASSWORD_FILE", "/nowhere/password")];
        let mistakes = parse("postgres://app@a,b?sslmode=allow&options=x", &variables).unwrap_err();
        let told = mistakes.to_string();
        for part in
            ["options", "several hosts", "sslmode=allow", "more than once", "/nowhere/password cannot be"]
        {
            assert!(mistakes.iter().any(|sentence| sentence.contains(part)), "{part}: {told}");
        }
        assert!(!told.contains("hunter2") && !told.contains("relay"), "{told}");
        let files = parse("postgres://app@db?sslrootcert=/nowhere/ca.pem", &[]).unwrap_err();
        assert!(files.to_string().contains("/nowhere/ca.pem cannot be read"), "{files}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let link = parse("postgres://app:hunter2@[::1]:6543/orders", &[]).unwrap();
        assert_eq!(link.describe(), "database orders at [::1]:6543 as role app, sslmode=disable");
        assert!(!format!("{link:?}").contains("hunter2"), "{link:?}");
    }
}
