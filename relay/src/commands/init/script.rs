//! The plan as a script for psql, and what is said at the end.

use std::fmt::Write;

use outbox_schema::sql;

use super::plan::{Plan, Step};
use super::survey::is_contract;
use crate::config::Settings;

/// The script. Holds no secret: where a password would be set, a comment says how.
pub fn render(settings: &Settings, plan: &Plan) -> String {
    let mut script = format!(
        "-- What relay {} needs in database {}.\n-- Run it with: psql -v ON_ERROR_STOP=1 -f FILE {}\n",
        settings.name, settings.source.database, settings.source.database
    );
    for step in &plan.steps {
        let _ = match step {
            Step::Present(what) => writeln!(script, "\n-- Is there: {what}."),
            Step::Note(sentence) => writeln!(script, "\n-- Note: {sentence}."),
            Step::Run { says, sql, private } => {
                let _ = writeln!(script, "\n-- {}.\n{}", capital(says), sql.trim_end());
                match private {
                    None => Ok(()),
                    Some(_) => writeln!(
                        script,
                        "-- Its password is not printed. Set it with psql, which sends no clear text:\n-- \\password {}",
                        sql::quote_identifier(&settings.source.user)
                    ),
                }
            }
            Step::MakeSlot { says, sql, only_if_empty } => {
                let _ = writeln!(script, "\n-- {}. Outside of a transaction.", capital(says));
                if *only_if_empty {
                    script.push_str(&guard(settings));
                }
                writeln!(script, "{sql}")
            }
        };
    }
    script
}

/// Stops the script where rows stand in the table.
fn guard(settings: &Settings) -> String {
    let table = sql::quote_qualified(&settings.outbox.schema, &settings.outbox.table);
    format!(
        "DO $do$\nBEGIN\n    IF EXISTS (SELECT FROM {table}) THEN\n        RAISE EXCEPTION 'rows stand in the table \
         and no slot would bring them: print the script with --existing=publish or --existing=skip';\n    \
         END IF;\nEND\n$do$;\n"
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// What comes next.
pub fn farewell(plans: &[(&Settings, Plan)]) -> String {
    let mut lines = String::from("\nNext:\n");
    if plans.iter().any(|(settings, _)| is_contract(settings)) {
        let _ = writeln!(lines, "  GRANT {} TO <the role of your service>;", sql::PRODUCER_ROLE);
    }
    lines += if plans.iter().any(|(_, plan)| plan.slot_by_run) {
        "  outbox-relay run --existing=publish\n"
    } else {
        "  outbox-relay run\n"
    };
    lines
}
