//! Whether Kafka is spoken to over TLS and with a login: by its options, and where they do not say by where the
//! brokers are.

use outbox_postgres_link::transport::is_loopback;

/// The option that says it.
pub const PROTOCOL: &str = "security.protocol";

/// The protocol in force.
///
/// Without the option it is TLS unless every broker is on loopback and no option asks for TLS, and with a login
/// where one is configured. Speaking in the clear over a network takes the option.
///
/// # Errors
///
/// Options that the protocol given would silently leave out, in a sentence.
pub fn protocol(brokers: &str, options: &[(String, String)]) -> Result<String, String> {
    let login = options.iter().find(|(name, _)| is_login(name)).map(|(name, _)| name);
    let tls = options.iter().find(|(name, _)| name.starts_with("ssl.")).map(|(name, _)| name);
    let given = options.iter().find(|(name, _)| name == PROTOCOL);
    if let Some((_, given)) = given {
        let given = given.to_ascii_lowercase();
        let without = [("ssl", tls, "TLS"), ("sasl", login, "login")];
        for (part, option, what) in without {
            if let Some(option) = option.filter(|_| !given.contains(part)) {
                return Err(format!(
                    "is without {what}, so that {option} would be left out silently: write {}, or leave that option out",
                    name(given.contains("ssl") || tls.is_some(), given.contains("sasl") || login.is_some())
                ));
            }
        }
        return Ok(given);
    }
    let tls = tls.is_some() || !brokers.split(',').all(on_loopback);
    Ok(name(tls, login.is_some()).to_owned())
}

fn name(tls: bool, login: bool) -> &'static str {
    match (tls, login) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    }
}

/// Options that mean a login, by name.
pub(crate) fn is_login(name: &str) -> bool {
    const OWN: [&str; 4] = ["sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password"];
    OWN.contains(&name) || name.starts_with("sasl.oauthbearer.")
}

fn on_loopback(broker: &str) -> bool {
    let host = broker.trim().rsplit_once(':').map_or(broker, |(host, _)| host);
    is_loopback(host.trim_start_matches('[').trim_end_matches(']'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(brokers: &str, options: &[(&str, &str)]) -> Result<String, String> {
        let options: Vec<_> =
            options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        protocol(brokers, &options)
    }

    #[test]
    fn only_loopback_goes_in_the_clear_unasked() {
        for (brokers, expected) in [
            ("localhost:9092,[::1]:9092,127.0.0.1:1", "plaintext"),
            ("k1:9092", "ssl"),
            ("localhost:9092,k2:9092", "ssl"),
        ] {
            assert_eq!(of(brokers, &[]).as_deref(), Ok(expected), "{brokers}");
        }
        assert_eq!(of("k1:9092", &[("security.protocol", "PLAINTEXT")]).as_deref(), Ok("plaintext"));
        assert_eq!(of("localhost:1", &[("ssl.ca.location", "ca.pem")]).as_deref(), Ok("ssl"));
    }

    #[test]
    fn a_login_is_made_where_one_is_configured() {
        for option in ["sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.oauthbearer.method"] {
            assert_eq!(of("k1:9092", &[(option, "x")]).as_deref(), Ok("sasl_ssl"), "{option}");
            assert_eq!(of("localhost:1", &[(option, "x")]).as_deref(), Ok("sasl_plaintext"), "{option}");
        }
        let asked = [("security.protocol", "sasl_plaintext"), ("sasl.username", "x")];
        assert_eq!(of("k1:9092", &asked).as_deref(), Ok("sasl_plaintext"));
    }

    #[test]
    fn options_that_would_be_left_out_are_refused() {
        for (protocol, option, instead) in [
            ("plaintext", "sasl.username", "write sasl_plaintext"),
            ("ssl", "sasl.password", "write sasl_ssl"),
            ("plaintext", "ssl.ca.location", "write ssl"),
            ("sasl_plaintext", "ssl.key.location", "write sasl_ssl"),
        ] {
            let told = of("k1:9092", &[("security.protocol", protocol), (option, "x")]).unwrap_err();
            assert!(told.contains(option) && told.contains(instead), "{told}");
        }
    }
}
