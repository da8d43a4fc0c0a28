//! Identifiers and literals in replication commands, whose grammar is not that of SQL: it knows quoted
//! identifiers and plain literals, and no escapes but the doubled quote (`repl_scanner.l`).

/// `name` as a quoted identifier.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `text` as a literal.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(identifier("outbox_orders"), "\"outbox_orders\"");
        assert_eq!(identifier("a\"b'c"), "\"a\"\"b'c\"");
        assert_eq!(literal(&identifier("a\"b'c")), "'\"a\"\"b''c\"'");
    }
}
