//! What was seen and what to do, in a sentence.

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use crate::Program;

/// What kind of trouble it is, which decides what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsTrouble {
    /// One side does not accept the other: a certificate, a missing one, or no TLS at all. As with a password
    /// that is refused, somebody has to change something; waiting mends nothing.
    Refused,
    /// The handshake broke off: a connection, or something between that does not speak TLS.
    Broken,
    /// A file that was good at the start is not any more; somebody may be about to replace it.
    Files,
}

/// Why there is no TLS connection. Holds nothing of a key.
#[derive(Debug, thiserror::Error)]
#[error("{sentence}")]
pub struct TlsError {
    trouble: TlsTrouble,
    sentence: String,
    #[source]
    source: Option<Error>,
}

impl TlsError {
    /// With what rustls said, if it said anything; `sentence` says what was seen and what to do.
    pub fn new(trouble: TlsTrouble, sentence: String, source: Option<Error>) -> TlsError {
        TlsError { trouble, sentence, source }
    }

    /// A server without TLS where the connection must not go in the clear.
    pub fn not_offered() -> TlsError {
        let sentence = "the server offers no TLS and the connection must not go in the clear: set `ssl = on` on the \
                        server, or write sslmode=disable where the way to it is a network you trust";
        TlsError::new(TlsTrouble::Refused, sentence.into(), None)
    }

    /// Whether waiting mends nothing.
    pub fn is_permanent(&self) -> bool {
        match self.trouble {
            TlsTrouble::Refused => true,
            TlsTrouble::Broken | TlsTrouble::Files => false,
        }
    }
}

/// Translates rustls's error. `trusted` says whose signatures count.
pub(super) fn explain(error: Error, program: Program, host: &str, trusted: &str) -> TlsError {
    let program = program.name();
    let (trouble, sentence) = match &error {
        Error::InvalidCertificate(problem) => {
            (TlsTrouble::Refused, certificate(problem, program, host, trusted))
        }
        Error::NoCertificatesPresented => {
            (TlsTrouble::Refused, format!("the server at {host} shows no certificate"))
        }
        Error::AlertReceived(alert) => told(*alert, program),
        Error::PeerIncompatible(_) => (
            TlsTrouble::Refused,
            format!(
                "the server speaks no version of TLS that is still safe; the {program} needs TLS 1.2 or later"
            ),
        ),
        _ => (TlsTrouble::Broken, format!("the TLS connection to {host} broke off")),
    };
    TlsError::new(trouble, sentence, Some(error))
}

fn certificate(problem: &CertificateError, program: &str, host: &str, trusted: &str) -> String {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of the server at {host} is signed by nobody the {program} trusts ({trusted}): name the file of \
             the authority that signed it in sslrootcert; if it should be known, somebody else may be answering"
        ),
        CertificateError::NotValidForName => {
            format!("the certificate of the server is not for {host}: {RENAME}")
        }
        CertificateError::NotValidForNameContext { presented, .. } if presented.is_empty() => format!(
            "the certificate of the server is not for {host}: it has no subjectAltName, and a common name alone does not \
             count; have it issued with one"
        ),
        CertificateError::NotValidForNameContext { presented, .. } => format!(
            "the certificate of the server is not for {host} but for {}: {RENAME}",
            presented.iter().map(|name| plain(name)).collect::<Vec<_>>().join(", ")
        ),
        CertificateError::Expired => format!("the certificate of the server at {host} has expired: {RENEW}"),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate of the server at {host} expired at {}: {RENEW}", when(not_after))
        }
        CertificateError::NotValidYet => {
            format!("the certificate of the server at {host} is not valid yet: look at this machine's clock")
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "the certificate of the server at {host} is valid only from {}: look at this machine's clock",
            when(not_before)
        ),
        other if other.to_string().contains("CaUsedAsEndEntity") => format!(
            "the certificate of the server at {host} is an authority's own, as quickly made self-signed ones are: make \
             an authority, have it issue the server's certificate, and name the authority's in sslrootcert"
        ),
        _ => format!("the certificate of the server at {host} cannot be used"),
    }
}

const RENAME: &str = "connect by a name it is for, or have one issued for this name";
const RENEW: &str = "renew it on the server (or look at this machine's clock)";

/// What the server's alert asks for.
fn told(alert: AlertDescription, program: &str) -> (TlsTrouble, String) {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::NoCertificate => (
            TlsTrouble::Refused,
            format!(
                "the server asks for a certificate of the {program}'s: name its files in sslcert and sslkey"
            ),
        ),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => (
            TlsTrouble::Refused,
            format!(
                "the server refused the {program}'s own certificate ({alert:?}): the file in sslcert has to be valid and \
                 signed by an authority in the server's ssl_ca_file"
            ),
        ),
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => (
            TlsTrouble::Refused,
            format!(
                "server and {program} have no version or cipher of TLS in common ({alert:?}); the {program} takes TLS 1.2 and 1.3"
            ),
        ),
        _ => (TlsTrouble::Broken, format!("the server ended the TLS connection ({alert:?})")),
    }
}

/// `DnsName("db.example.com")` as it stands in the certificate.
fn plain(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn when(time: &UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).ok();
    let moment = seconds.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "an unknown time".into(), |moment| moment.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::ServerName;

    use super::*;

    fn sentence(error: Error) -> (bool, String) {
        let error = explain(error, Program::Relay, "db", "/etc/ca.pem");
        (error.is_permanent(), error.to_string())
    }

    #[test]
    fn each_certificate_trouble_has_its_own_sentence() {
        let hour = |hour: u64| UnixTime::since_unix_epoch(Duration::from_secs(hour * 3600));
        let expected = ServerName::try_from("db").unwrap();
        for (problem, part) in [
            (CertificateError::UnknownIssuer, "signed by nobody the relay trusts (/etc/ca.pem)"),
            (CertificateError::BadSignature, "sslrootcert"),
            (
                CertificateError::ExpiredContext { time: hour(2), not_after: hour(1) },
                "expired at 1970-01-01T01:00:00Z",
            ),
            (
                CertificateError::NotValidYetContext { time: hour(1), not_before: hour(2) },
                "valid only from 1970-01-01T02:00:00Z",
            ),
            (
                CertificateError::NotValidForNameContext {
                    expected: expected.clone(),
                    presented: vec!["DnsName(\"other\")".into(), "IpAddress(10.0.0.1)".into()],
                },
                "not for db but for other, 10.0.0.1",
            ),
            (
                CertificateError::NotValidForNameContext { expected, presented: vec![] },
                "has no subjectAltName",
            ),
            (CertificateError::BadEncoding, "cannot be used"),
        ] {
            let (permanent, told) = sentence(Error::InvalidCertificate(problem));
            assert!(permanent && told.contains(part), "{told}");
        }
    }

    #[test]
    fn a_refused_client_is_told_from_a_broken_connection() {
        let (permanent, told) = sentence(Error::AlertReceived(AlertDescription::UnknownCA));
        assert!(permanent && told.contains("ssl_ca_file"), "{told}");
        let (permanent, told) = sentence(Error::AlertReceived(AlertDescription::CertificateRequired));
        assert!(permanent && told.contains("sslcert and sslkey"), "{told}");
        let (permanent, _) = sentence(Error::AlertReceived(AlertDescription::InternalError));
        assert!(!permanent);
        let (permanent, _) = sentence(Error::DecryptError);
        assert!(!permanent);
        assert!(TlsError::not_offered().is_permanent());
    }
}
