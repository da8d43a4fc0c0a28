//! What a statement may not do, and what it leaves standing, as far as its text says it.
//!
//! A handler's connection serves other events later, and in a group its transaction serves others at the same time.
//!
//! | what a statement begins with, or names | what follows |
//! |---|---|
//! | `COMMIT`, `ROLLBACK`, `SAVEPOINT` … | refused: the transaction is the consumer's (C50) |
//! | `SET`, `RESET`, `LISTEN`, `PREPARE`, `DISCARD` … | refused: it stays with the connection, and there is another way to say it |
//! | `SET LOCAL`, `SET CONSTRAINTS`, `CREATE TEMP`, `set_config`, `pg_advisory_lock` … | taken, in a transaction that no other event shares, and the session is swept behind it |
//!
//! A statement whose text does not show it, such as a call of a function that says `SET` inside, is not seen.

use super::TxError;

/// Words that begin a statement which ends a transaction or begins one.
const CONTROL: [&str; 8] = ["ABORT", "BEGIN", "COMMIT", "END", "RELEASE", "ROLLBACK", "SAVEPOINT", "START"];

/// Pairs of words that do. `SET TRANSACTION` changes the one that all events of a group are in.
const CONTROL_BY_TWO: [(&str, &str); 2] = [("PREPARE", "TRANSACTION"), ("SET", "TRANSACTION")];

/// Pairs of words that hold until the transaction ends.
const HOLDS: [(&str, &str, &str); 2] =
    [("SET", "LOCAL", "SET LOCAL"), ("SET", "CONSTRAINTS", "SET CONSTRAINTS")];

const SAY_LOCAL: &str = "say SET LOCAL, which ends with the transaction";
const OWN_CONNECTION: &str = "listen on a connection of your own";
const KEPT_ANYWAY: &str = "every statement of a Tx is prepared once and kept";
const LEAVE_IT: &str = "the session is the consumer's";

/// Words that begin a statement which stays with the connection, and what to do instead.
const STAYS: [(&str, &str); 8] = [
    ("SET", SAY_LOCAL),
    ("RESET", SAY_LOCAL),
    ("LISTEN", OWN_CONNECTION),
    ("UNLISTEN", OWN_CONNECTION),
    ("PREPARE", KEPT_ANYWAY),
    ("DEALLOCATE", KEPT_ANYWAY),
    ("DISCARD", LEAVE_IT),
    ("LOAD", LEAVE_IT),
];

/// Looks at a statement. What it says that holds beyond itself, if it does.
///
/// The server takes one statement at a time here, so that nothing can follow behind a semicolon.
///
/// # Errors
/// It is refused.
pub(super) fn look(statement: &str) -> Result<Option<&'static str>, TxError> {
    let (first, rest) = word(statement);
    let is = |word: &str| first.eq_ignore_ascii_case(word);
    let second = |word: &str| self::word(rest).0.eq_ignore_ascii_case(word);
    if let Some(word) = CONTROL.into_iter().find(|word| is(word)) {
        return Err(TxError::Control(word.to_owned()));
    }
    if let Some((one, two)) = CONTROL_BY_TWO.into_iter().find(|(one, two)| is(one) && second(two)) {
        return Err(TxError::Control(format!("{one} {two}")));
    }
    if let Some((.., both)) = HOLDS.into_iter().find(|(one, two, _)| is(one) && second(two)) {
        return Ok(Some(both));
    }
    if let Some((word, instead)) = STAYS.into_iter().find(|(word, _)| is(word)) {
        return Err(TxError::Session { word, instead });
    }
    if is("CREATE") && contains(rest, "temp") {
        return Ok(Some("CREATE TEMP"));
    }
    // Neither is usual in a handler, and what a block does is not looked at.
    if let Some(word) = ["DECLARE", "DO"].into_iter().find(|word| is(word)) {
        return Ok(Some(word));
    }
    Ok(named(statement))
}

/// What a statement names that holds beyond it. One that only quotes the name runs by itself for nothing.
fn named(statement: &str) -> Option<&'static str> {
    let text = statement.as_bytes();
    text.iter().enumerate().find_map(|(at, byte)| {
        let name = match byte.to_ascii_lowercase() {
            b's' => "set_config",
            // Also pg_try_advisory_lock_shared, and none of those that say xact.
            b'a' => "advisory_lock",
            b'i' => "into temp",
            _ => return None,
        };
        starts_with(&text[at..], name).then_some(name)
    })
}

fn contains(text: &str, name: &str) -> bool {
    let text = text.as_bytes();
    (0..text.len()).any(|at| starts_with(&text[at..], name))
}

fn starts_with(text: &[u8], name: &str) -> bool {
    text.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name.as_bytes()))
}

/// The word that a text begins with, and what is behind it. Whatever is no letter ends a word: a comment may stand at its
/// end without a blank.
fn word(text: &str) -> (&str, &str) {
    let text = behind_comments(text);
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len());
    text.split_at(end)
}

/// A statement without blanks and comments before it. PostgreSQL's block comments nest.
fn behind_comments(statement: &str) -> &str {
    let mut text = statement;
    loop {
        // PostgreSQL takes a vertical tab for a blank since version 16.
        text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, ';' | '\u{b}'));
        if let Some(rest) = text.strip_prefix("--") {
            text = rest.split_once('\n').map_or("", |(_, rest)| rest);
        } else if text.starts_with("/*") {
            text = behind_block(text);
        } else {
            return text;
        }
    }
}

fn behind_block(text: &str) -> &str {
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = text.as_bytes();
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transaction_control_is_refused_however_it_is_written() {
        for statement in [
            "COMMIT",
            " commit;",
            "-- note\nROLLBACK TO x",
            "/* a /* b */ c */ begin",
            ";END",
            "savepoint a",
            "release a",
            "Start Transaction",
            "abort",
            "prepare transaction 'x'",
            "/**/COMMIT AND CHAIN",
            "COMMIT/* tag */",
            "COMMIT--tag",
            "prepare /* x */ transaction 'x'",
            "PREPARE--x\nTRANSACTION 'x'",
            "\u{b}COMMIT",
            "set transaction read only",
        ] {
            assert!(matches!(look(statement), Err(TxError::Control(_))), "{statement}");
        }
    }

    #[test]
    fn what_stays_with_the_connection_is_refused_with_what_to_say_instead() {
        for (statement, instead) in [
            ("SET search_path = a", "SET LOCAL"),
            ("set session work_mem = '1GB'", "SET LOCAL"),
            ("SET TIME ZONE 'UTC'", "SET LOCAL"),
            ("SET ROLE auditor", "SET LOCAL"),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET LOCAL"),
            ("reset all", "SET LOCAL"),
            ("/* x */ listen orders", "a connection of your own"),
            ("UNLISTEN *", "a connection of your own"),
            ("PREPARE p AS SELECT 1", "prepared once"),
            ("DEALLOCATE ALL", "prepared once"),
            ("discard temp", "the consumer's"),
            ("LOAD 'auto_explain'", "the consumer's"),
        ] {
            let error = look(statement).unwrap_err();
            assert!(matches!(error, TxError::Session { .. }), "{statement}: {error:?}");
            assert!(error.to_string().contains(instead), "{statement}: {error}");
        }
    }

    #[test]
    fn what_holds_until_the_end_of_the_transaction_is_seen() {
        for (statement, what) in [
            ("SET LOCAL app.tenant = '7'", "SET LOCAL"),
            ("set /* x */ local role auditor", "SET LOCAL"),
            ("SET CONSTRAINTS ALL DEFERRED", "SET CONSTRAINTS"),
            ("SELECT set_config('app.tenant', $1, true)", "set_config"),
            ("WITH t AS (SELECT pg_catalog.SET_CONFIG('a.b', '', false)) SELECT 1", "set_config"),
            ("SELECT pg_advisory_lock(1)", "advisory_lock"),
            ("SELECT pg_try_advisory_lock_shared(1, 2)", "advisory_lock"),
            ("CREATE TEMP TABLE t (a int) ON COMMIT DROP", "CREATE TEMP"),
            ("create or replace temporary view v AS SELECT 1", "CREATE TEMP"),
            ("CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS ''", "CREATE TEMP"),
            ("SELECT 1 AS a INTO TEMPORARY t", "into temp"),
            ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "DECLARE"),
            ("DO $$ BEGIN SET work_mem = '1GB'; END $$", "DO"),
        ] {
            assert_eq!(look(statement).unwrap(), Some(what), "{statement}");
        }
    }

    #[test]
    fn everything_else_is_taken_as_it_is() {
        for statement in [
            "UPDATE stock SET free = free - 1",
            "/* COMMIT */ SELECT 1",
            "-- COMMIT",
            "SELECT 'COMMIT'",
            "commit_all()",
            "",
            "/* open",
            "WITH x AS (SELECT 1) SELECT * FROM x",
            "INSERT INTO settings (reset) VALUES ($1)",
            "SELECT temp, temperature FROM weather",
            "SELECT pg_advisory_xact_lock(1)",
            "CREATE TABLE archive (a int)",
            "NOTIFY orders",
            "SELECT current_setting('app.tenant', true)",
        ] {
            assert_eq!(look(statement).unwrap(), None, "{statement}");
        }
    }
}
