//! How a connection to PostgreSQL is protected: the one place that decides it.

use std::net::IpAddr;
use std::path::PathBuf;

use crate::Program;

/// `sslmode`, by libpq's names and meanings but for two: without a mode it is `verify-full`, except on
/// loopback, and a root certificate makes `prefer` and `require` `verify-full`. `allow` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// In the clear.
    Disable,
    /// TLS where the server offers it, in the clear where not; with whom is not looked at.
    Prefer,
    /// TLS; with whom is not looked at.
    Require,
    /// TLS with a server whose certificate the authority has signed, whatever its name.
    VerifyCa,
    /// TLS with the server of this name.
    VerifyFull,
}

const MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    /// Its name in a URL.
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// Whose signature on the server's certificate counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// The authorities that the system trusts.
    System,
    /// Those in a PEM file, and no others.
    File(PathBuf),
}

/// The program's own certificate, PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its private key, not encrypted.
    pub key: PathBuf,
}

/// `channel_binding`: whether the password's proof is bound to the server's certificate, so that nobody
/// between the two can pass it on (SCRAM-SHA-256-PLUS, RFC 5929 `tls-server-end-point`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// A server that does without is refused.
    Require,
}

const BINDINGS: [(&str, ChannelBinding); 3] = [
    ("disable", ChannelBinding::Disable),
    ("prefer", ChannelBinding::Prefer),
    ("require", ChannelBinding::Require),
];

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    /// Who speaks, as the sentences about this connection call it.
    pub program: Program,
    /// What is asked of the connection.
    pub mode: SslMode,
    /// Whom the server's certificate is checked against.
    pub roots: Roots,
    /// What the program shows a server that asks for a certificate.
    pub identity: Option<Identity>,
    /// Whether the login is bound to the connection.
    pub channel_binding: ChannelBinding,
}

/// The URL's parameters as they were written.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `sslmode`.
    pub sslmode: Option<String>,
    /// `sslrootcert`: a file, or `system`.
    pub sslrootcert: Option<String>,
    /// `sslcert`.
    pub sslcert: Option<String>,
    /// `sslkey`.
    pub sslkey: Option<String>,
    /// `channel_binding`.
    pub channel_binding: Option<String>,
}

impl Transport {
    /// In the clear.
    pub fn clear(program: Program) -> Transport {
        Transport {
            program,
            mode: SslMode::Disable,
            roots: Roots::System,
            identity: None,
            channel_binding: ChannelBinding::Prefer,
        }
    }

    /// Decides from the host and the URL's parameters.
    ///
    /// Without `sslmode` a host on loopback is spoken to in the clear unless another parameter asks for TLS,
    /// and any other host means `verify-full`: a password and payments do not cross a network unprotected
    /// because a parameter was forgotten.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, each in a sentence that says what to write. No file is looked at here.
    pub fn decide(program: Program, host: &str, asked: &Asked) -> Result<Transport, Vec<String>> {
        let mut wrong = Vec::new();
        let channel_binding =
            named("channel_binding", asked.channel_binding.as_deref(), &BINDINGS, &mut wrong)
                .unwrap_or(ChannelBinding::Prefer);
        let roots = match asked.sslrootcert.as_deref() {
            None | Some("system") => Roots::System,
            Some(path) => Roots::File(path.into()),
        };
        let identity = identity(asked, &mut wrong);
        for (name, value) in asked.files() {
            if value.is_some_and(str::is_empty) {
                wrong.push(format!("parameter {name}: expected the path of a PEM file"));
            }
        }
        let written = match asked.sslmode.as_deref() {
            Some("allow") => {
                wrong.push(
                    "sslmode=allow speaks in the clear even to a server that offers TLS; write verify-full, or \
                     prefer where the server may be without TLS"
                        .into(),
                );
                None
            }
            mode => named("sslmode", mode, &MODES, &mut wrong),
        };
        let for_tls = asked.that_need_tls(channel_binding);
        let mode = match written {
            None if is_loopback(host) && for_tls.is_empty() => SslMode::Disable,
            None => SslMode::VerifyFull,
            Some(SslMode::Disable) if !for_tls.is_empty() => {
                let names = for_tls.join(" and ");
                wrong.push(format!(
                    "sslmode=disable and {names} contradict each other: leave one of them out"
                ));
                SslMode::Disable
            }
            Some(SslMode::Prefer | SslMode::Require) if asked.sslrootcert.is_some() => SslMode::VerifyFull,
            Some(SslMode::VerifyCa) if roots == Roots::System => {
                wrong.push(
                    "sslmode=verify-ca takes any server that the authority has signed, so it needs an authority of \
                     your own: name its file in sslrootcert, or write verify-full"
                        .into(),
                );
                SslMode::VerifyCa
            }
            Some(mode) => mode,
        };
        match wrong.is_empty() {
            true => Ok(Transport { program, mode, roots, identity, channel_binding }),
            false => Err(wrong),
        }
    }
}

impl Asked {
    fn files(&self) -> [(&'static str, Option<&str>); 3] {
        [
            ("sslrootcert", self.sslrootcert.as_deref()),
            ("sslcert", self.sslcert.as_deref()),
            ("sslkey", self.sslkey.as_deref()),
        ]
    }

    /// The parameters that make no sense without TLS.
    fn that_need_tls(&self, binding: ChannelBinding) -> Vec<&'static str> {
        let files = self.files().into_iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name);
        let required = binding == ChannelBinding::Require;
        files.chain(required.then_some("channel_binding=require")).collect()
    }
}

fn identity(asked: &Asked, wrong: &mut Vec<String>) -> Option<Identity> {
    match (&asked.sslcert, &asked.sslkey) {
        (Some(certificate), Some(key)) => Some(Identity { certificate: certificate.into(), key: key.into() }),
        (None, None) => None,
        (Some(_), None) => {
            wrong.push("sslcert is given without sslkey, the file of its private key".into());
            None
        }
        (None, Some(_)) => {
            wrong.push("sslkey is given without sslcert, the file of its certificate".into());
            None
        }
    }
}

/// One of a few names, or a sentence with all of them.
fn named<T: Copy>(
    name: &str,
    text: Option<&str>,
    known: &[(&'static str, T)],
    wrong: &mut Vec<String>,
) -> Option<T> {
    let text = text?;
    let found = known.iter().find(|(known, _)| *known == text);
    if found.is_none() {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        wrong.push(format!("parameter {name}: expected one of {}", names.join(", ")));
    }
    found.map(|(_, value)| *value)
}

/// Whether a host is this machine, so that what is said does not cross a network.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(host: &str, sslmode: Option<&str>, sslrootcert: Option<&str>) -> SslMode {
        let asked = Asked {
            sslmode: sslmode.map(Into::into),
            sslrootcert: sslrootcert.map(Into::into),
            ..Asked::default()
        };
        Transport::decide(Program::Relay, host, &asked).unwrap().mode
    }

    fn refusal(asked: Asked) -> String {
        Transport::decide(Program::Relay, "localhost", &asked).unwrap_err().join("; ")
    }

    #[test]
    fn without_a_mode_only_loopback_goes_in_the_clear() {
        for host in ["localhost", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(mode(host, None, None), SslMode::Disable, "{host}");
            assert_eq!(mode(host, None, Some("ca.pem")), SslMode::VerifyFull, "{host}");
        }
        for host in ["db", "10.0.0.1", "localhost.example.com", "::2", "127.0.0.1.example.com"] {
            assert_eq!(mode(host, None, None), SslMode::VerifyFull, "{host}");
            assert_eq!(mode(host, Some("disable"), None), SslMode::Disable, "{host}");
        }
    }

    #[test]
    fn a_root_certificate_is_never_given_in_vain() {
        for weak in ["prefer", "require"] {
            assert_eq!(mode("db", Some(weak), Some("ca.pem")), SslMode::VerifyFull, "{weak}");
            assert_eq!(mode("db", Some(weak), Some("system")), SslMode::VerifyFull, "{weak}");
        }
        assert_eq!(mode("db", Some("prefer"), None), SslMode::Prefer);
        assert_eq!(mode("db", Some("require"), None), SslMode::Require);
        assert_eq!(mode("db", Some("verify-ca"), Some("ca.pem")), SslMode::VerifyCa);
        assert_eq!(mode("db", Some("verify-full"), None), SslMode::VerifyFull);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_way_out() {
        let text = |text: &str| Some(text.to_owned());
        let allow = Asked { sslmode: text("allow"), ..Asked::default() };
        assert!(refusal(allow).contains("in the clear"));
        let unknown = Asked { sslmode: text("on"), channel_binding: text("yes"), ..Asked::default() };
        let told = refusal(unknown);
        assert!(told.contains("verify-full") && told.contains("parameter channel_binding"), "{told}");
        let system = Asked { sslmode: text("verify-ca"), sslrootcert: text("system"), ..Asked::default() };
        assert!(refusal(system).contains("an authority of your own"));
        let half = Asked { sslcert: text("a.pem"), ..Asked::default() };
        assert!(refusal(half).contains("without sslkey"));
        let both = Asked {
            sslmode: text("disable"),
            sslrootcert: text("ca.pem"),
            channel_binding: text("require"),
            ..Asked::default()
        };
        assert!(refusal(both).contains("sslrootcert and channel_binding=require contradict"));
    }
}
