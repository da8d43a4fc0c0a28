//! Names and texts made safe to stand in SQL, where no parameter can.

/// The name as a quoted identifier. Always quoted, so case and keywords are kept as they are.
///
/// ```
/// assert_eq!(outbox_schema::sql::quote_identifier(r#"my "events""#), r#""my ""events""""#);
/// ```
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Schema and name as one quoted, qualified identifier.
pub fn quote_qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(schema), quote_identifier(name))
}

/// The text as a string literal. A backslash makes it an escape string, so that it means the same under
/// either setting of `standard_conforming_strings`.
///
/// ```
/// assert_eq!(outbox_schema::sql::quote_literal("it's"), "'it''s'");
/// ```
pub fn quote_literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        assert_eq!(quote_identifier("events"), "\"events\"");
        assert_eq!(quote_identifier("Größe\\x"), "\"Größe\\x\"");
        assert_eq!(quote_identifier("a\"; DROP TABLE b; --"), "\"a\"\"; DROP TABLE b; --\"");
        assert_eq!(quote_qualified("a.b", "c"), "\"a.b\".\"c\"");
    }

    #[test]
    fn literals() {
        assert_eq!(quote_literal(""), "''");
        assert_eq!(quote_literal("a'; --"), "'a''; --'");
        assert_eq!(quote_literal(r"\'"), r"E'\\'''");
    }
}
