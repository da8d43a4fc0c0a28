//! Kafka's own configuration of topics that the relay makes, passed through.

/// Options that are refused, each with the reason.
pub const REFUSED: &[(&str, &str)] = &[("min.insync.replicas", "its key is topics.min_insync_replicas")];

/// Checks the form of one option. Whether it exists and takes the value the brokers say when the topic is
/// made: their names change from release to release.
///
/// # Errors
///
/// A sentence without the value.
pub fn check(name: &str, value: &str) -> Result<(), String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Err(format!("is not taken here: {reason}"));
    }
    let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'.' || byte == b'-';
    if name.is_empty() || !name.bytes().all(legal) {
        return Err("is no name of a topic's option, such as `cleanup.policy`".into());
    }
    if value.contains('\0') {
        return Err("has a zero character in its value".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_a_key_of_their_own_are_refused() {
        for (name, reason) in REFUSED {
            assert!(check(name, "1").unwrap_err().contains(reason), "{name}");
        }
    }

    #[test]
    fn names_have_a_form() {
        assert_eq!(check("cleanup.policy", "compact,delete"), Ok(()));
        for name in ["", "cleanup_policy", "Cleanup.Policy", "cleanup policy", "a\0"] {
            assert!(check(name, "x").is_err(), "{name:?}");
        }
        assert!(check("cleanup.policy", "a\0").is_err());
    }
}
