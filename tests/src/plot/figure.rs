//! A plot in both widths with its words and its legend.

use super::canvas::{Canvas, Layout, escaped};

/// Something that can be drawn.
pub trait Plot {
    /// Draws itself, and says how high that is.
    fn draw(&self, layout: Layout, canvas: &mut Canvas) -> f64;

    /// What its marks mean.
    fn legend(&self) -> Vec<Entry>;
}

/// A line of a legend.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Classes of the mark.
    pub class: String,
    /// Its form.
    pub form: Form,
    /// What it means.
    pub says: String,
}

/// What a mark looks like in a legend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A box.
    Block,
    /// A line from left to right.
    Line,
    /// A line from top to bottom.
    Upright,
    /// A thin line with a thick one on it.
    Whisker,
    /// A circle.
    Circle,
    /// A triangle.
    Triangle,
    /// A diamond.
    Diamond,
}

impl Entry {
    /// A line of a legend.
    pub fn new(form: Form, class: impl Into<String>, says: impl Into<String>) -> Entry {
        Entry { class: class.into(), form, says: says.into() }
    }
}

/// A plot as it stands in a page.
#[derive(Debug, Clone)]
pub struct Figure {
    title: String,
    describes: String,
    drawings: [(Layout, String); 2],
    legend: Vec<Entry>,
}

impl Figure {
    /// Draws it. `describes` is for those who do not see it: what is shown, and what is to be seen.
    pub fn of(title: impl Into<String>, describes: impl Into<String>, plot: &impl Plot) -> Figure {
        let (title, describes) = (title.into(), describes.into());
        let drawings = [Layout::Wide, Layout::Narrow].map(|layout| {
            let mut canvas = Canvas::default();
            let height = plot.draw(layout, &mut canvas);
            (layout, canvas.finish(layout, height, ID, (&title, &describes)))
        });
        let legend = plot.legend();
        Figure { title, describes, drawings, legend }
    }

    /// As HTML; `number` is its own in the page.
    pub fn html(&self, number: usize) -> String {
        let drawings: String = self
            .drawings
            .iter()
            .map(|(layout, svg)| svg.replace(ID, &format!("f{number}{}", layout.class())))
            .collect();
        let legend: String = self.legend.iter().map(swatch).collect();
        let legend = if legend.is_empty() { legend } else { format!("<ul class=\"legend\">{legend}</ul>\n") };
        format!(
            "<figure>\n<figcaption><span class=\"title\">{}</span> {}</figcaption>\n{legend}{drawings}</figure>\n",
            escaped(&self.title),
            escaped(&self.describes)
        )
    }
}

/// Stands for the figure's id until it has its place in a page.
const ID: &str = "\u{1}";

/// The mark and what it means.
fn swatch(entry: &Entry) -> String {
    let mut canvas = Canvas::default();
    let class = entry.class.as_str();
    match entry.form {
        Form::Block => canvas.rect(class, (1.0, 2.0), (20.0, 10.0), ""),
        Form::Line => canvas.line(class, (0.0, 7.0), (22.0, 7.0)),
        Form::Upright => canvas.line(class, (11.0, 0.0), (11.0, 14.0)),
        Form::Whisker => {
            canvas.line("range", (1.0, 7.0), (21.0, 7.0));
            canvas.line("quartiles", (6.0, 7.0), (16.0, 7.0));
        }
        Form::Circle => canvas.circle(class, (11.0, 7.0), 4.5, ""),
        Form::Triangle => canvas.shape(class, &triangle((11.0, 7.0)), ""),
        Form::Diamond => canvas.shape(class, &diamond((11.0, 7.0)), ""),
    }
    format!(
        "<li><svg class=\"swatch\" viewBox=\"0 0 22 14\" aria-hidden=\"true\">{}</svg>{}</li>",
        canvas.elements(),
        escaped(&entry.says)
    )
}

/// The corners of a triangle around a place.
pub fn triangle((x, y): (f64, f64)) -> [(f64, f64); 3] {
    [(x - 5.0, y + 4.0), (x + 5.0, y + 4.0), (x, y - 5.0)]
}

/// The corners of a diamond around a place.
pub fn diamond((x, y): (f64, f64)) -> [(f64, f64); 4] {
    [(x - 5.5, y), (x, y + 5.5), (x + 5.5, y), (x, y - 5.5)]
}
