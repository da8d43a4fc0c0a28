//! The SQL that each relay needs: its publication, its role, and the rights on a table of another
//! shape. The templates stand in `sql/relay/`; a placeholder is a name in double braces.

use super::quote::{quote_identifier, quote_literal, quote_qualified};

const PUBLICATION_UP: &str = include_str!("../../sql/relay/publication.up.sql");
const PUBLICATION_OF_MESSAGES_UP: &str = include_str!("../../sql/relay/publication_messages.up.sql");
const PUBLICATION_DOWN: &str = include_str!("../../sql/relay/publication.down.sql");
const ROLE_UP: &str = include_str!("../../sql/relay/role.up.sql");
const ROLE_DOWN: &str = include_str!("../../sql/relay/role.down.sql");
const TABLE_UP: &str = include_str!("../../sql/relay/table.up.sql");
const TABLE_DOWN: &str = include_str!("../../sql/relay/table.down.sql");
const TABLE_DELETE_UP: &str = include_str!("../../sql/relay/table_delete.up.sql");
const TABLE_DELETE_DOWN: &str = include_str!("../../sql/relay/table_delete.down.sql");

/// Makes the publication: inserts into one table, under the name of its root, with these columns only.
/// `publication` is its whole name (`outbox_<relay>`); for `outbox.events` the columns are
/// [`PUBLISHED_COLUMNS`](super::PUBLISHED_COLUMNS).
///
/// ```
/// use outbox_schema::sql::{PUBLISHED_COLUMNS, SCHEMA, TABLE, publication_up};
/// let sql = publication_up("outbox_orders", SCHEMA, TABLE, PUBLISHED_COLUMNS);
/// assert!(sql.contains(r#"CREATE PUBLICATION "outbox_orders" FOR TABLE "outbox"."events" ("id", "#));
/// ```
pub fn publication_up(publication: &str, schema: &str, table: &str, columns: &[&str]) -> String {
    let columns = columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ");
    render(
        PUBLICATION_UP,
        &[
            ("publication", quote_identifier(publication)),
            ("table", quote_qualified(schema, table)),
            ("columns", columns),
        ],
    )
}

/// Makes the publication of a relay of messages (`outbox.emit()`): without a table.
pub fn publication_up_of_messages(publication: &str) -> String {
    render(PUBLICATION_OF_MESSAGES_UP, &[("publication", quote_identifier(publication))])
}

/// Drops the publication; the slot that reads it goes first.
pub fn publication_down(publication: &str) -> String {
    render(PUBLICATION_DOWN, &[("publication", quote_identifier(publication))])
}

/// Makes the role that a relay logs in as, if it is not there, and makes it a member of `outbox_relay`. It
/// gets no password.
pub fn relay_role_up(role: &str) -> String {
    render(ROLE_UP, &[("role", quote_identifier(role)), ("role_literal", quote_literal(role))])
}

/// Drops the role that a relay logs in as.
pub fn relay_role_down(role: &str) -> String {
    render(ROLE_DOWN, &[("role", quote_identifier(role))])
}

/// Lets a relay read a table that is not `outbox.events`.
pub fn table_read_up(schema: &str, table: &str, role: &str) -> String {
    render(TABLE_UP, &table_values(schema, table, role))
}

/// Takes that back.
pub fn table_read_down(schema: &str, table: &str, role: &str) -> String {
    render(TABLE_DOWN, &table_values(schema, table, role))
}

/// Lets a relay remove published rows of a table that is not `outbox.events`.
pub fn table_delete_up(schema: &str, table: &str, role: &str) -> String {
    render(TABLE_DELETE_UP, &table_values(schema, table, role))
}

/// Takes that back.
pub fn table_delete_down(schema: &str, table: &str, role: &str) -> String {
    render(TABLE_DELETE_DOWN, &table_values(schema, table, role))
}

fn table_values(schema: &str, table: &str, role: &str) -> [(&'static str, String); 3] {
    [
        ("schema", quote_identifier(schema)),
        ("table", quote_qualified(schema, table)),
        ("role", quote_identifier(role)),
    ]
}

/// Puts the values in place of `{{name}}`, in one pass: a value that looks like a placeholder stays as it is.
fn render(template: &str, values: &[(&str, String)]) -> String {
    let mut rendered = String::with_capacity(template.len() + 256);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        rendered.push_str(before);
        let placeholder = values.iter().find_map(|(name, value)| {
            after.strip_prefix(name).and_then(|after| after.strip_prefix("}}")).map(|after| (value, after))
        });
        match placeholder {
            Some((value, after)) => {
                rendered.push_str(value);
                rest = after;
            }
            None => {
                rendered.push_str("{{");
                rest = after;
            }
        }
    }
    rendered.push_str(rest);
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let rendered = [
            publication_up("p", "s", "t", &["a", "b"]),
            publication_up_of_messages("p"),
            publication_down("p"),
            relay_role_up("r"),
            relay_role_down("r"),
            table_read_up("s", "t", "r"),
            table_read_down("s", "t", "r"),
            table_delete_up("s", "t", "r"),
            table_delete_down("s", "t", "r"),
        ];
        for sql in rendered {
            assert!(!sql.contains("{{") && !sql.contains("}}"), "{sql}");
        }
    }

    #[test]
    fn values_are_not_read_as_placeholders() {
        let sql = publication_up("{{columns}}", "s", "t", &["{{table}}"]);
        assert!(sql.contains(r#"CREATE PUBLICATION "{{columns}}" FOR TABLE "s"."t" ("{{table}}")"#), "{sql}");
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let sql = relay_role_up("x$do$; DROP TABLE y; --'\"");
        assert!(sql.contains("SET outbox.relay_role = 'x$do$; DROP TABLE y; --''\"';"), "{sql}");
        assert!(sql.contains("GRANT outbox_relay TO \"x$do$; DROP TABLE y; --'\"\"\";"), "{sql}");
    }
}
