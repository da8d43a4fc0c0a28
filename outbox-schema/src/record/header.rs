//! The names of the headers that a relay writes. They are few, since headers cost more than payloads.

/// The event's id, in the hyphenated form. Always there.
pub const ID: &str = "id";

/// What happened; what consumers dispatch on. Always there.
pub const TYPE: &str = "type";

/// Where the event stands in its source's order: the text of a [`Position`](super::Position). Always there.
pub const POSITION: &str = "position";

/// The aggregate's own version, decimal. There where the row has one.
pub const VERSION: &str = "version";

/// Version of the payload's shape, decimal. There where it is above 1.
pub const SCHEMA_VERSION: &str = "schema_version";

/// W3C trace context. There where the row has one.
pub const TRACEPARENT: &str = "traceparent";

/// When the row was inserted, RFC 3339 in UTC with six fractional digits and `Z`. There where the id is not a
/// version-7 UUID, which has the time in it: see [`carries_time`].
pub const CREATED_AT: &str = "created_at";

/// The headers of a relay in the order in which they stand in a record. A row's own headers come after them
/// and cannot have these names; `outbox.headers_mistake()` refuses them.
pub const ORDER: [&str; 7] = [ID, TYPE, POSITION, VERSION, SCHEMA_VERSION, TRACEPARENT, CREATED_AT];

/// Whether a row's own header may not have this name: it is the relay's, or empty.
pub fn is_reserved(name: &str) -> bool {
    name.is_empty() || ORDER.contains(&name)
}

/// Whether an id in the hyphenated form is a version-7 UUID (RFC 9562: the 13th hex digit is the version).
///
/// ```
/// use outbox_schema::record::header::carries_time;
/// assert!(carries_time("019a2b3c-4d5e-7f60-8123-456789abcdef"));
/// assert!(!carries_time("3f1c2a10-8b7d-4e55-9a01-0c0ffee0f00d"));
/// ```
pub fn carries_time(id: &str) -> bool {
    id.len() == 36 && id.as_bytes()[14] == b'7'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_refuses_the_same_names() {
        let refused = format!("'{{\"\",{}}}'::text[]", ORDER.join(","));
        let up = crate::sql::MIGRATIONS[1].up;
        assert!(up.contains(&refused), "{refused}");
        assert!(ORDER.iter().all(|name| is_reserved(name)) && is_reserved(""));
        assert!(!is_reserved("tenant") && !is_reserved("ID"));
    }

    #[test]
    fn only_version_7_in_the_hyphenated_form_carries_time() {
        assert!(!carries_time("019a2b3c4d5e7f608123456789abcdef"));
        assert!(!carries_time("00000000-0000-0000-0000-000000000000"));
        assert!(!carries_time(""));
    }
}
