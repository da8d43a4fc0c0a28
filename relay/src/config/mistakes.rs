//! Everything that is wrong with a configuration, told in one run.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable, by its name.
    Variable(String),
    /// Nowhere: the key was not given.
    Nowhere,
    /// In more than one place, or in any of them.
    Several,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "file {}", path.display()),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Nowhere => f.write_str("not set"),
            Origin::Several => f.write_str("taken together"),
        }
    }
}

/// One mistake: which key, what it holds, where that stands, and what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Path of the key, such as `source.url`; a path that no key has, if that is the mistake.
    pub key: String,
    /// The value as it may be printed; `None` when there is none or its key is unknown (a misspelled key
    /// may well hold a password).
    pub value: Option<String>,
    /// Where the value stands.
    pub origin: Origin,
    /// What was expected, or what is wrong, in words.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = {value} ({}): {}", self.key, self.origin, self.problem),
            None => write!(f, "{} ({}): {}", self.key, self.origin, self.problem),
        }
    }
}

/// All mistakes of one configuration, in the order in which they were found. Never holds a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<Mistake>,
    looked_at: Option<String>,
}

impl Mistakes {
    /// Adds one.
    pub fn add(&mut self, mistake: Mistake) {
        self.list.push(mistake);
    }

    /// Says which file was read, or that none was; printed above the list.
    pub fn looked_at(&mut self, sentence: String) {
        self.looked_at = Some(sentence);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.list.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.list.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "{} {noun} in the configuration", self.list.len())?;
        if let Some(sentence) = &self.looked_at {
            write!(f, " ({sentence})")?;
        }
        f.write_str(":")?;
        for (index, mistake) in self.list.iter().enumerate() {
            write!(f, "\n{:>3}. {mistake}", index + 1)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
