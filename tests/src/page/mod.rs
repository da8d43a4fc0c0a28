//! Reports: Markdown, and one HTML file with plots that needs nothing beside it.
//!
//! Both are made of the same text, so that they cannot say different things. The text is Markdown; in the HTML every
//! tag comes from here, whatever the text holds.

use std::fmt::{self, Write};
use std::fs;
use std::path::Path;

use anyhow::Context;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd, html};

use crate::plot::Figure;
use crate::plot::canvas::escaped;

/// How elements look, light and dark, on a phone and on paper.
const STYLE: &str = include_str!("style.css");

/// Around a table: one that is wider than the page scrolls by itself.
const SCROLL: &str = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table\">\n";

/// A report in the making. What is written into it is Markdown; see [`plain`] for text that is none.
#[derive(Debug, Default)]
pub struct Page {
    title: String,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Verdict { holds: bool, says: String },
    Figure(Box<Figure>),
    Folded { summary: String, text: String },
}

impl Page {
    /// With this title as its first heading.
    pub fn new(title: &str) -> Page {
        Page { title: title.to_owned(), parts: vec![Part::Text(format!("# {}\n\n", plain(title)))] }
    }

    /// The sentence that a reader has to know.
    pub fn verdict(&mut self, holds: bool, says: &str) {
        self.parts.push(Part::Verdict { holds, says: says.to_owned() });
    }

    /// A plot. Markdown has none.
    pub fn figure(&mut self, figure: Figure) {
        self.parts.push(Part::Figure(Box::new(figure)));
    }

    /// Text that is shown to who asks for it.
    pub fn folded(&mut self, summary: &str, text: &str) {
        self.parts.push(Part::Folded { summary: summary.to_owned(), text: text.to_owned() });
    }

    /// Writes it as Markdown to `out`, and as HTML to the file of the same name with `.html`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, out: &Path) -> anyhow::Result<()> {
        for (path, text) in [(out.to_owned(), self.markdown()), (out.with_extension("html"), self.html())] {
            fs::write(&path, text).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out += text,
                Part::Verdict { says, .. } => out += &format!("{says}\n\n"),
                Part::Figure(_) => {}
                Part::Folded { summary, text } => {
                    let summary = escaped(summary);
                    out += &format!(
                        "<details><summary>{summary}</summary>\n\n{}\n\n</details>\n\n",
                        text.trim_end()
                    );
                }
            }
        }
        out.trim_end().to_owned() + "\n"
    }

    /// As one HTML file.
    pub fn html(&self) -> String {
        let mut body = String::new();
        for (number, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => rendered(&mut body, text),
                Part::Verdict { holds, says } => {
                    let (class, sign) = if *holds { ("held", "✓") } else { ("broken", "✗") };
                    body += &format!(
                        "<div class=\"verdict {class}\"><span class=\"sign\" aria-hidden=\"true\">{sign}</span>\n"
                    );
                    rendered(&mut body, says);
                    body += "</div>\n";
                }
                Part::Figure(figure) => body += &figure.html(number),
                Part::Folded { summary, text } => {
                    body += &format!("<details><summary>{}</summary>\n", escaped(summary));
                    rendered(&mut body, text);
                    body += "</details>\n";
                }
            }
        }
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
            escaped(&self.title)
        )
    }
}

impl Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self.parts.last_mut() {
            Some(Part::Text(before)) => before.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
        Ok(())
    }
}

/// Markdown as HTML.
fn rendered(out: &mut String, text: &str) {
    let events = Parser::new_ext(text, Options::ENABLE_TABLES).flat_map(|event| match event {
        Event::Start(Tag::Table(_)) => vec![Event::Html(SCROLL.into()), event],
        Event::End(TagEnd::Table) => vec![event, Event::Html("</div>\n".into())],
        // A tag in the text is text.
        Event::Html(tag) | Event::InlineHtml(tag) => vec![Event::Text(tag)],
        other => vec![other],
    });
    html::push_html(out, events);
}

/// Text that stands in Markdown, in a table too, and is nothing but text.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = ' ';
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        // An underscore within a word is one: `x86_64`.
        let within = before.is_alphanumeric() && letters.peek().is_some_and(|next| next.is_alphanumeric());
        before = letter;
        match letter {
            '_' if within => out.push(letter),
            '\n' | '\r' => out.push(' '),
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' => out.extend(['\\', letter]),
            _ => out.push(letter),
        }
    }
    out
}

/// Text between backquotes, in a table too.
pub fn code(text: &str) -> String {
    let text = text.replace(['\n', '\r'], " ").replace('|', "\\|");
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

/// A table of Markdown cells. A heading that begins with `>` has its figures at the right.
pub fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let names: Vec<&str> = headings.iter().map(|name| name.trim_start_matches('>')).collect();
    let sides: Vec<&str> =
        headings.iter().map(|name| if name.starts_with('>') { "---:" } else { "---" }).collect();
    let mut out = format!("| {} |\n|{}|\n", names.join(" | "), sides.join("|"));
    for row in rows {
        out += &format!("| {} |\n", row.join(" | "));
    }
    out + "\n"
}

/// `1 run`, `2 runs`: of names whose plural takes an s.
pub fn count(number: usize, name: &str) -> String {
    let number = number as u64;
    if number == 1 { format!("1 {name}") } else { format!("{} {name}s", grouped(number)) }
}

/// A figure whose thousands can be told apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::bars::Bars;

    #[test]
    fn nothing_in_the_text_is_a_tag() {
        let mut page = Page::new("<b>");
        let evil = "<script>alert(1)</script> [x](http://x) `a` |b| *c* _d_ e_f\n\n# g";
        page.write_str(&table(&["what"], [vec![plain(evil)]])).unwrap();
        page.write_str("\nraw <img src=x> and\n\n<div>\n").unwrap();
        page.folded("<i>", &plain(evil));
        page.figure(Figure::of("<u>", "<s>", &Bars::default()));
        page.verdict(false, &plain(evil));
        let html = page.html();
        for tag in ["<script", "<b>", "<img", "<i>", "<u>", "<s>", "<a ", "<em>", "<div>", "<code>"] {
            assert!(!html.contains(tag), "{tag}");
        }
        assert!(html.contains(
            "<td>&lt;script&gt;alert(1)&lt;/script&gt; [x](http://x) `a` |b| *c* _d_ e_f  # g</td>"
        ));
        assert!(html.contains("&lt;div&gt;"));
    }

    #[test]
    fn nothing_comes_from_elsewhere() {
        let mut page = Page::new("a");
        page.figure(Figure::of("b", "c", &Bars::default()));
        let html = page.html();
        for word in ["http", "src=", "<link", "<script", "url(//", "@import"] {
            assert!(!html.contains(word), "{word}");
        }
    }

    #[test]
    fn both_say_the_same_and_only_one_has_plots() {
        let mut page = Page::new("Report");
        page.verdict(true, "**Held.**");
        page.figure(Figure::of("b", "c", &Bars::default()));
        page.folded("more", "text");
        assert_eq!(
            page.markdown(),
            "# Report\n\n**Held.**\n\n<details><summary>more</summary>\n\ntext\n\n</details>\n"
        );
        let html = page.html();
        assert!(html.contains("<strong>Held.</strong>") && html.contains("<details><summary>more</summary>"));
        assert_eq!(html.matches("role=\"img\"").count(), 2, "one for the screen, one for the phone");
    }

    #[test]
    fn figures_can_be_read() {
        assert_eq!([grouped(7), grouped(1_000), grouped(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!(
            [count(1, "run"), count(0, "run"), count(1_200, "run")],
            ["1 run", "0 runs", "1,200 runs"]
        );
        assert_eq!([code("a|b"), code("a`b")], ["`a\\|b`", "`` a`b ``"]);
    }
}
