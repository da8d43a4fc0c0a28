//! What a session is called, and the settings it begins with.

/// `application_name` and settings of a connection.
///
/// Settings are part of the start-up, so they come before those of role and database, cost no round trip, and are
/// what `RESET` goes back to. A connection pooler in between has to let `options` pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    pub(crate) application_name: String,
    pub(crate) options: String,
}

impl Session {
    /// With this name and no settings. An `application_name` in the URL takes its place: who operates the
    /// program wrote it.
    pub fn named(application_name: impl Into<String>) -> Session {
        Session { application_name: application_name.into(), options: String::new() }
    }

    /// With one setting more, such as `search_path` and an empty text. The server refuses a name that it does
    /// not know, as it refuses a wrong value, when a connection is made.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Session {
        if !self.options.is_empty() {
            self.options.push(' ');
        }
        self.options.push_str("-c ");
        escape(name, &mut self.options);
        self.options.push('=');
        escape(value, &mut self.options);
        self
    }
}

/// Blanks part options unless a backslash stands before them (PostgreSQL's manual, "Parameter Settings" of libpq's
/// `options`).
fn escape(text: &str, into: &mut String) {
    for character in text.chars() {
        if character.is_ascii_whitespace() || character == '\u{b}' || character == '\\' {
            into.push('\\');
        }
        into.push(character);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_options() {
        let session =
            Session::named("orders").set("search_path", "").set("work_mem", "4 MB").set("x.y", "a\\b");
        assert_eq!(session.options, "-c search_path= -c work_mem=4\\ MB -c x.y=a\\\\b");
    }
}
