//! The elements of an SVG.

use std::fmt::{Display, Write};

use pulldown_cmark_escape::escape_html;

/// A place, from the upper left corner.
pub type Point = (f64, f64);

/// How wide a drawing is. A page holds both and shows the one that fits: what is scaled down to a phone
/// cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// For a screen and for paper: names stand at the left.
    Wide,
    /// For a phone: names stand above what they name.
    Narrow,
}

impl Layout {
    /// Width of the drawing in pixels.
    pub fn width(self) -> f64 {
        match self {
            Layout::Wide => 920.0,
            Layout::Narrow => 360.0,
        }
    }

    /// Most steps of an axis from left to right.
    pub fn steps(self) -> usize {
        match self {
            Layout::Wide => 8,
            Layout::Narrow => 5,
        }
    }

    /// Its class.
    pub fn class(self) -> &'static str {
        match self {
            Layout::Wide => "wide",
            Layout::Narrow => "narrow",
        }
    }

    /// Room at the left for the longest of these names; none where they stand above.
    pub fn gutter<'a>(self, names: impl Iterator<Item = &'a str>) -> f64 {
        match self {
            Layout::Wide => (names.map(text_width).fold(60.0, f64::max) + 14.0).min(340.0),
            Layout::Narrow => 4.0,
        }
    }
}

/// Width of a letter: of wide fonts, since the reader's is not known.
const LETTER: f64 = 7.0;

/// About how wide a text is.
pub fn text_width(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

/// A text that takes at most so much room, with an ellipsis where it was cut.
pub fn fitting(text: &str, room: f64) -> String {
    if text_width(text) <= room {
        return text.to_owned();
    }
    let most = (room / LETTER).max(2.0) as usize;
    text.chars().take(most - 1).chain(['…']).collect()
}

/// Text that may stand in an element or between double quotes.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // A string takes everything.
    let _ = escape_html(&mut out, text);
    out
}

/// A drawing in the making. Elements have classes; the page's style says what they look like.
#[derive(Debug, Default)]
pub struct Canvas {
    body: String,
}

impl Canvas {
    /// A straight line.
    pub fn line(&mut self, class: &str, (x1, y1): Point, (x2, y2): Point) {
        self.push(format_args!(
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        ));
    }

    /// A rectangle; what it says is shown to who points at it.
    pub fn rect(&mut self, class: &str, (x, y): Point, (width, height): Point, says: &str) {
        let open = format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\"",
            width.max(0.0)
        );
        self.titled(&open, "rect", says);
    }

    /// A line through these points.
    pub fn path(&mut self, class: &str, points: &[Point]) {
        let mut places = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            // A string takes everything.
            let _ = write!(places, "{}{x:.1} {y:.1}", if number == 0 { "M" } else { "L" });
        }
        self.push(format_args!("<path class=\"{class}\" d=\"{places}\"/>"));
    }

    /// A closed shape through these points.
    pub fn shape(&mut self, class: &str, points: &[Point], says: &str) {
        let places: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let open = format!("<polygon class=\"{class}\" points=\"{}\"", places.join(" "));
        self.titled(&open, "polygon", says);
    }

    /// A circle.
    pub fn circle(&mut self, class: &str, (x, y): Point, radius: f64, says: &str) {
        let open = format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"");
        self.titled(&open, "circle", says);
    }

    /// Text on its base line; the class says at which side of the place it stands.
    pub fn text(&mut self, class: &str, (x, y): Point, text: &str) {
        self.push(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(text)));
    }

    /// A name, cut to the room that there is; the whole of it is shown to who points at it.
    pub fn name(&mut self, class: &str, (x, y): Point, name: &str, room: f64) {
        let open = format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\"");
        let shown = fitting(name, room);
        let title = if shown == name { String::new() } else { format!("<title>{}</title>", escaped(name)) };
        self.push(format_args!("{open}>{}{title}</text>", escaped(&shown)));
    }

    /// The whole drawing. `id` is its own in the page.
    pub fn finish(self, layout: Layout, height: f64, id: &str, (title, describes): (&str, &str)) -> String {
        let (class, width) = (layout.class(), layout.width());
        format!(
            "<svg class=\"plot {class}\" viewBox=\"0 0 {width} {height:.0}\" role=\"img\" \
             aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{}</title><desc id=\"{id}-d\">{}</desc>\n{}</svg>\n",
            escaped(title),
            escaped(describes),
            self.body
        )
    }

    /// The elements alone.
    pub fn elements(self) -> String {
        self.body
    }

    fn titled(&mut self, open: &str, name: &str, says: &str) {
        if says.is_empty() {
            self.push(format_args!("{open}/>"));
        } else {
            self.push(format_args!("{open}><title>{}</title></{name}>", escaped(says)));
        }
    }

    fn push(&mut self, element: impl Display) {
        // A string takes everything.
        let _ = writeln!(self.body, "{element}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_can_be_an_element() {
        let mut canvas = Canvas::default();
        canvas.text("name", (0.0, 0.0), "<script>&\"");
        canvas.rect("bar", (0.0, 0.0), (1.0, 1.0), "</title><b>");
        let svg = canvas.finish(Layout::Wide, 10.0, "a", ("<t>", "<d>"));
        assert!(svg.contains("&lt;script&gt;&amp;"));
        assert!(
            !svg.contains("<script") && !svg.contains("<b>") && !svg.contains("<t>") && !svg.contains("<d>")
        );
    }

    #[test]
    fn a_long_name_is_cut_and_its_whole_is_kept() {
        let mut canvas = Canvas::default();
        canvas.name("name", (0.0, 0.0), "a name that is much too long", 64.0);
        assert!(canvas.body.contains(">a name t…<title>a name that is much too long</title>"));
        assert_eq!(fitting("short", 64.0), "short");
    }
}
