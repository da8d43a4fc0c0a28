//! A password that stands in a file of its own.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

/// The file's content without the end of its line, if it has one.
///
/// # Errors
///
/// What is wrong with the file, in words that hold nothing of it, to be read behind its name.
pub fn from_file(path: &Path) -> Result<SecretString, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => SecretString::from(text),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let line = text.expose_secret();
    let line = line.strip_suffix('\n').unwrap_or(line);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err("holds no password".into());
    }
    Ok(SecretString::from(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_line_is_no_part_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        for (text, password) in [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), (" a\n\n", " a\n")] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(from_file(&path).unwrap().expose_secret(), password, "{text:?}");
        }
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(from_file(&path).unwrap_err(), "holds no password");
        assert!(from_file(&directory.path().join("none")).unwrap_err().starts_with("cannot be read: "));
    }
}
