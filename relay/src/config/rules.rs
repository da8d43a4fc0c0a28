//! Rules for topic, key and headers: parsed and checked before anything runs.

use regex::Regex;

use super::ColumnNames;

/// What is made of a row by rule, in place of the default or beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The topic; `None`: prefix and aggregate type.
    pub topic: Option<TopicRule>,
    /// The key; `None`: the partition key, else the aggregate's id.
    pub key: Option<Template>,
    /// Further headers by name, in the order of their names.
    pub headers: Vec<(String, Template)>,
}

impl Rules {
    /// What the rules ask of the table.
    pub fn columns(&self) -> RuleColumns {
        let templates = self.topic.iter().map(|rule| &rule.template).chain(&self.key);
        let templates = templates.chain(self.headers.iter().map(|(_, template)| template));
        RuleColumns {
            topic: self.topic.is_some(),
            key: self.key.is_some(),
            named: templates.flat_map(Template::columns).map(str::to_owned).collect(),
        }
    }
}

/// The columns that rules name, and what they make superfluous.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleColumns {
    /// The topic is made by rule: the aggregate type is needed only where a rule names it.
    pub topic: bool,
    /// The key is made by rule: neither the aggregate's id nor the partition key is needed for it.
    pub key: bool,
    /// Columns that rules name.
    pub named: Vec<String>,
}

/// How a topic is made by rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRule {
    /// The topic, or what the rewriting begins with.
    pub template: Template,
    /// What becomes of a topic that matches.
    pub rewrite: Option<Rewrite>,
}

/// Text with columns in it: `orders.{region}`. A brace of the text itself is doubled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The pieces in order; no two literals follow each other.
    pub pieces: Vec<Piece>,
}

/// One piece of a [`Template`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Literal(String),
    /// What a column holds. By the part it plays until [`Template::resolve`], by its name from then on.
    Column(String),
}

impl Template {
    /// Takes a template apart.
    ///
    /// # Errors
    /// What is wrong with it, in words without the template.
    pub fn parse(text: &str) -> Result<Template, String> {
        if text.is_empty() {
            return Err("is empty".into());
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            if let Some(after) = from.strip_prefix("{{").or_else(|| from.strip_prefix("}}")) {
                literal.push_str(&from[..1]);
                rest = after;
                continue;
            }
            let inside =
                from.strip_prefix('{').ok_or("has a `}` without `{`; one of the text itself is doubled")?;
            let (name, after) =
                inside.split_once('}').ok_or("has a `{` without `}`; one of the text itself is doubled")?;
            if name.is_empty() || name.contains('{') {
                return Err("has a placeholder without a column's name; it is written `{column}`".into());
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Column(name.to_owned()));
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Template { pieces })
    }

    /// The template of `<prefix>{aggregatetype}`.
    pub fn prefixed(prefix: &str) -> Template {
        let literal = (!prefix.is_empty()).then(|| Piece::Literal(prefix.to_owned()));
        Template { pieces: literal.into_iter().chain([Piece::Column("aggregatetype".into())]).collect() }
    }

    /// Puts the columns' names in place of the parts they play. A name that is no part's, or that of a part
    /// without a column, is a column's own.
    #[must_use]
    pub fn resolve(mut self, names: &ColumnNames) -> Template {
        for piece in &mut self.pieces {
            if let Piece::Column(name) = piece
                && let Some(column) = names.of_part(name)
            {
                *name = column.to_owned();
            }
        }
        self
    }

    /// The columns it names.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// Its own text, without what columns hold.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Literal(text) => Some(text.as_str()),
            Piece::Column(_) => None,
        })
    }
}

/// A regular expression, and what becomes of a text that matches it as a whole.
#[derive(Debug, Clone)]
pub struct Rewrite {
    regex: Regex,
    replacement: Vec<Insert>,
}

/// By the texts they were made from.
impl PartialEq for Rewrite {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.replacement == other.replacement
    }
}

impl Eq for Rewrite {}

/// One piece of a replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Insert {
    Literal(String),
    /// A group by its number; 0 is the whole match.
    Group(usize),
}

impl Rewrite {
    /// Reads a replacement as Java's `Matcher` does: `$1` and `${name}` are groups, `\` makes the next
    /// character a plain one, and a number goes on for as long as there is such a group.
    ///
    /// # Errors
    /// What is wrong with the replacement, in words.
    pub fn new(regex: Regex, replacement: &str) -> Result<Rewrite, String> {
        let groups = regex.captures_len();
        let replacement = parse_replacement(replacement, Some(groups), |name| {
            regex.capture_names().position(|group| group == Some(name))
        })?;
        Ok(Rewrite { regex, replacement })
    }

    /// What becomes of a text. `None` where the text as a whole does not match: then it stays as it is.
    pub fn apply(&self, text: &str) -> Option<String> {
        let found = self.regex.captures(text)?;
        let insert = |insert: &'_ Insert| match insert {
            Insert::Literal(text) => text.clone(),
            // A group that took no part is empty.
            Insert::Group(number) => found.get(*number).map_or("", |group| group.as_str()).to_owned(),
        };
        Some(self.replacement.iter().map(insert).collect())
    }
}

/// Compiles a regular expression that has to match a text from its beginning to its end.
///
/// # Errors
/// What the compiler says; it quotes the expression.
pub fn whole(regex: &str) -> Result<Regex, String> {
    // Alone first: the message shall show what was written.
    Regex::new(regex).map_err(|error| error.to_string())?;
    Regex::new(&format!(r"\A(?:{regex})\z")).map_err(|error| error.to_string())
}

/// Checks a replacement as far as that is possible without its expression; answers its own text.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_replacement(text: &str) -> Result<String, String> {
    let pieces = parse_replacement(text, None, |_| Some(0))?;
    let literal = |insert: &Insert| match insert {
        Insert::Literal(text) => Some(text.clone()),
        Insert::Group(_) => None,
    };
    Ok(pieces.iter().filter_map(literal).collect())
}

fn parse_replacement(
    text: &str,
    groups: Option<usize>,
    named: impl Fn(&str) -> Option<usize>,
) -> Result<Vec<Insert>, String> {
    const LONE: &str = "has a `$` that names no group: `$1` and `${name}` do, `\\$` is a plain one";
    let mut inserts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars().peekable();
    while let Some(char) = rest.next() {
        let group = match char {
            '\\' => {
                literal.push(rest.next().ok_or("ends with a `\\` that has nothing to make plain")?);
                continue;
            }
            '$' => match rest.next() {
                Some('{') => {
                    let name: String = rest.by_ref().take_while(|char| *char != '}').collect();
                    named(&name)
                        .ok_or_else(|| format!("names the group `{name}`, which route.regex does not have"))?
                }
                Some(digit) => {
                    let mut number = digit.to_digit(10).ok_or(LONE)? as usize;
                    if groups.is_some_and(|groups| number >= groups) {
                        return Err(format!("names group {number}, which route.regex does not have"));
                    }
                    while let Some(digit) = rest.peek().and_then(|char| char.to_digit(10)) {
                        let longer = number.saturating_mul(10).saturating_add(digit as usize);
                        if groups.is_some_and(|groups| longer >= groups) {
                            break;
                        }
                        number = longer;
                        rest.next();
                    }
                    number
                }
                None => return Err(LONE.into()),
            },
            plain => {
                literal.push(plain);
                continue;
            }
        };
        if !literal.is_empty() {
            inserts.push(Insert::Literal(std::mem::take(&mut literal)));
        }
        inserts.push(Insert::Group(group));
    }
    if !literal.is_empty() {
        inserts.push(Insert::Literal(literal));
    }
    if inserts.is_empty() {
        return Err("is empty".into());
    }
    Ok(inserts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rewritten(regex: &str, replacement: &str, text: &str) -> Option<String> {
        Rewrite::new(whole(regex).unwrap(), replacement).unwrap().apply(text)
    }

    #[test]
    fn templates_are_taken_apart() {
        let literal = |text: &str| Piece::Literal(text.into());
        let column = |name: &str| Piece::Column(name.into());
        for (text, pieces) in [
            ("all", vec![literal("all")]),
            ("{type}", vec![column("type")]),
            ("a.{b}{日付}-c", vec![literal("a."), column("b"), column("日付"), literal("-c")]),
            ("{{x}}{a b}", vec![literal("{x}"), column("a b")]),
            ("{{{a}}}", vec![literal("{"), column("a"), literal("}")]),
        ] {
            assert_eq!(Template::parse(text), Ok(Template { pieces }), "{text}");
        }
        for text in ["", "{", "}", "{a", "a}", "{}", "{a{b}", "{{a}"] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    /// As Java's `Matcher.matches` and `replaceFirst`, which Debezium uses.
    #[test]
    fn texts_are_rewritten_as_a_whole() {
        for (regex, replacement, text, expected) in [
            ("(.*)", "t-$1", "User", Some("t-User")),
            ("^(User)$", "t-$1", "User", Some("t-User")),
            ("User", "t", "SuperUser", None),
            ("User", "t", "Users", None),
            ("a|ab", "t", "ab", Some("t")),
            ("(?i)user", "t-user", "USER", Some("t-user")),
            (r"(?<ns>[a-z]+)\.(?<what>.*)", "${what}.${ns}", "shop.User", Some("User.shop")),
            (".*", "all-$0", "User", Some("all-User")),
            ("(U)(s)er", "$10-$2", "User", Some("U0-s")),
            ("(a)?(b)", "x$1$2", "b", Some("xb")),
            ("(.*)", r"a\$1\\", "b", Some(r"a$1\")),
            ("(größe)", "$1", "größe", Some("größe")),
            (".*", "t", "a\nb", None),
        ] {
            assert_eq!(rewritten(regex, replacement, text).as_deref(), expected, "{regex} {replacement}");
        }
    }

    #[test]
    fn what_refers_to_nothing_is_refused() {
        for (regex, replacement, word) in [
            ("(.*)", "t-$2", "group 2"),
            ("(.*)", "${name}", "`name`"),
            ("(.*)", "t-$", "names no group"),
            ("(.*)", "$x", "names no group"),
            ("(.*)", "t\\", "nothing to make plain"),
            ("(.*)", "", "empty"),
        ] {
            let refused = Rewrite::new(whole(regex).unwrap(), replacement).unwrap_err();
            assert!(refused.contains(word), "{refused}");
        }
        assert!(whole("(unclosed").unwrap_err().contains("(unclosed"));
        assert!(whole(r"(a)\1").is_err() && whole("(?=a)").is_err());
        assert_eq!(check_replacement("a$1.${x}-b").as_deref(), Ok("a.-b"));
        assert!(check_replacement("a$").is_err());
    }

    proptest! {
        #[test]
        fn literals_come_back(text in "[a-z{}]{1,20}") {
            let doubled = text.replace('{', "{{").replace('}', "}}");
            prop_assert_eq!(Template::parse(&doubled), Ok(Template { pieces: vec![Piece::Literal(text)] }));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a{}$0-9\\\\]{0,12}") {
            let _ = Template::parse(&text);
            let _ = Rewrite::new(whole("(.)(.)?").unwrap(), &text);
        }
    }
}
