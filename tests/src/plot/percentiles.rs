//! Marks on a logarithmic axis.

use super::canvas::{Canvas, Layout};
use super::figure::{Entry, Form, Plot, diamond, triangle};
use super::scale::{Scale, label, logarithmic_ticks};
use crate::bench::results::Percentiles;

/// A row for each time that was measured.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Of the axis.
    pub unit: String,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Percentiles of one time.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// Where its marks are.
    pub percentiles: Percentiles,
    /// Whether it is one of those that the report is about.
    pub strong: bool,
}

/// Heights: of a row, of the two lines above it on a phone.
const ROW: (f64, f64) = (26.0, 30.0);

impl Plot for Marks {
    fn draw(&self, layout: Layout, canvas: &mut Canvas) -> f64 {
        let left = layout.gutter(self.rows.iter().map(|row| row.name.as_str())).max(12.0);
        let right = layout.width() - if layout == Layout::Wide { 215.0 } else { 16.0 };
        let all = || self.rows.iter().flat_map(|row| row.percentiles.all()).filter(|value| *value > 0.0);
        let (from, to) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
        let steps = if to > 0.0 { logarithmic_ticks(from, to) } else { vec![0.1, 1.0] };
        let x = Scale::logarithmic(steps[0], steps[steps.len() - 1], left, right);
        let (high, above) = ROW;
        let step = if layout == Layout::Narrow { high + above } else { high };
        let top = 4.0;
        let bottom = top + self.rows.len() as f64 * step;
        for tick in steps {
            canvas.line("grid", (x.at(tick), top), (x.at(tick), bottom));
            canvas.text("axis middle", (x.at(tick), bottom + 16.0), &label(tick));
        }
        for (number, row) in self.rows.iter().enumerate() {
            let y = top + number as f64 * step;
            let middle = if layout == Layout::Narrow { y + above + high / 2.0 } else { y + high / 2.0 };
            let Percentiles { p50, p90, p99, max } = row.percentiles;
            let says = format!("{p50:.2} / {p90:.2} / {p99:.2} / {max:.1}");
            let class = if row.strong { "name" } else { "name weak" };
            if layout == Layout::Wide {
                canvas.name(&format!("{class} end"), (left - 14.0, middle + 4.0), &row.name, left - 14.0);
                canvas.text("value", (right + 18.0, middle + 4.0), &says);
            } else {
                canvas.name(&format!("{class} strong"), (0.0, y + 14.0), &row.name, layout.width());
                canvas.text("value", (0.0, y + 30.0), &says);
            }
            row.marks(canvas, &x, middle);
        }
        canvas.text("axis middle", (f64::midpoint(left, right), bottom + 34.0), &self.unit);
        bottom + 42.0
    }

    fn legend(&self) -> Vec<Entry> {
        vec![
            Entry::new(Form::Circle, "point c0", "p50: half are below"),
            Entry::new(Form::Triangle, "point c1", "p90"),
            Entry::new(Form::Diamond, "point c2", "p99: one in a hundred is above"),
            Entry::new(Form::Upright, "longest", "the longest"),
        ]
    }
}

impl Row {
    fn marks(&self, canvas: &mut Canvas, x: &Scale, middle: f64) {
        let Percentiles { p50, p90, p99, max } = self.percentiles;
        let weak = if self.strong { "" } else { " weak" };
        canvas.line("between", (x.at(p50), middle), (x.at(max), middle));
        canvas.line("longest", (x.at(max), middle - 7.0), (x.at(max), middle + 7.0));
        let says = |name: &str, value: f64| format!("{}: {name} {value:.2}", self.name);
        canvas.shape(&format!("point c2{weak}"), &diamond((x.at(p99), middle)), &says("p99", p99));
        canvas.shape(&format!("point c1{weak}"), &triangle((x.at(p90), middle)), &says("p90", p90));
        canvas.circle(&format!("point c0{weak}"), (x.at(p50), middle), 4.5, &says("p50", p50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_says_its_figures() {
        let percentiles = Percentiles { p50: 0.47, p90: 0.91, p99: 4.88, max: 15.3 };
        let row = Row { name: "commit to received".to_owned(), percentiles, strong: true };
        let marks = Marks { unit: "ms".to_owned(), rows: vec![row] };
        for layout in [Layout::Wide, Layout::Narrow] {
            let mut canvas = Canvas::default();
            marks.draw(layout, &mut canvas);
            let svg = canvas.elements();
            assert!(svg.contains("0.47 / 0.91 / 4.88 / 15.3"));
            assert_eq!(svg.matches("class=\"point").count(), 3);
        }
    }

    #[test]
    fn a_run_without_events_is_drawn_without_numbers_that_are_none() {
        let row = Row { name: "none".to_owned(), percentiles: Percentiles::of(Vec::new()), strong: false };
        let mut canvas = Canvas::default();
        Marks { unit: "ms".to_owned(), rows: vec![row] }.draw(Layout::Wide, &mut canvas);
        assert!(!canvas.elements().contains("=\"NaN"));
    }
}
