//! Whether a connection may go in the clear: the one place that decides it.

use std::net::IpAddr;

/// What to do instead, behind every refusal.
const INSTEAD: &str = "TLS to PostgreSQL is not in this release yet; write sslmode=disable, and only where the \
                       way to the server is a trusted network or a tunnel of yours";

/// Decides from the host and the URL's `sslmode` whether the relay may connect.
///
/// Without an `sslmode` a host on loopback is spoken to in the clear, and any other host means
/// `verify-full`: a password and payments do not cross a network unprotected because a parameter was
/// forgotten.
///
/// # Errors
///
/// A sentence that says what to do, where TLS would be needed or the mode is unknown.
pub fn plain_text_allowed(host: &str, sslmode: Option<&str>) -> Result<(), String> {
    match sslmode {
        Some("disable") => Ok(()),
        Some(mode @ ("allow" | "prefer" | "require" | "verify-ca" | "verify-full")) => {
            Err(format!("sslmode={mode} asks for TLS: {INSTEAD}"))
        }
        Some(_) => {
            Err("sslmode is none of disable, prefer, require, verify-ca and verify-full; the only one in \
                        this release is disable"
                .into())
        }
        None if is_loopback(host) => Ok(()),
        None => Err(format!(
            "a server that is not on loopback without sslmode means sslmode=verify-full: {INSTEAD}"
        )),
    }
}

/// Whether a host is this machine, so that what is said does not cross a network.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_needs_no_mode() {
        for host in ["localhost", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(plain_text_allowed(host, None), Ok(()), "{host}");
        }
        for host in ["db", "10.0.0.1", "localhost.example.com", "::2", "127.0.0.1.example.com"] {
            assert!(plain_text_allowed(host, None).is_err(), "{host}");
            assert_eq!(plain_text_allowed(host, Some("disable")), Ok(()), "{host}");
        }
    }

    #[test]
    fn every_mode_with_tls_is_refused_with_a_way_out() {
        for mode in ["allow", "prefer", "require", "verify-ca", "verify-full"] {
            let refusal = plain_text_allowed("localhost", Some(mode)).unwrap_err();
            assert!(refusal.contains(mode) && refusal.contains("sslmode=disable"), "{refusal}");
        }
        assert!(plain_text_allowed("localhost", Some("off")).is_err());
    }
}
