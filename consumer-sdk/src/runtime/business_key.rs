//! What `dedup_by` calls an event. It is the application's code, and may panic, or call an event what nobody could know
//! it by.

use std::panic::{self, AssertUnwindSafe};

use super::attempt::Reason;
use crate::event::Facts;
use crate::handler::NameOf;

/// What such an event is given up for.
const NO_DEDUP_KEY: &str = "no_dedup_key";

/// The business key of an event.
///
/// # Errors
/// Why it has none, for its dead letter.
pub(super) fn business_key(dedup: &NameOf, facts: &Facts) -> Result<String, Reason> {
    checked(|| dedup(facts)).map_err(|said| Reason::new(NO_DEDUP_KEY, said))
}

fn checked(name: impl FnOnce() -> String) -> Result<String, String> {
    match panic::catch_unwind(AssertUnwindSafe(name)) {
        // All of them would be one event, of which the first alone is handled.
        Ok(key) if key.is_empty() => Err(
            "its dedup_by gives no text, which would make it one with every other event of which that is so"
                .into(),
        ),
        // The claim would be refused, and all that is claimed with it.
        Ok(key) if key.contains('\0') => {
            Err("its dedup_by gives a text with a NUL, which PostgreSQL does not keep".into())
        }
        Ok(key) => Ok(key),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            Err(said.map_or("its dedup_by panicked".into(), |said| format!("its dedup_by panicked: {said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_said_in_a_sentence() {
        assert_eq!(checked(|| "idem:1:Paid".into()), Ok("idem:1:Paid".into()));
        for (name, said) in [
            ((|| panic!("no {}", "order")) as fn() -> String, "its dedup_by panicked: no order"),
            (|| std::panic::panic_any(7), "its dedup_by panicked"),
            (String::new, "its dedup_by gives no text"),
            (|| "a\0b".into(), "its dedup_by gives a text with a NUL"),
        ] {
            let wrong = checked(name).unwrap_err();
            assert!(wrong.starts_with(said), "{wrong}");
        }
    }
}
