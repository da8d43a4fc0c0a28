//! A bar for each median, with its spread.

use super::canvas::{Canvas, Layout, Point, text_width};
use super::figure::{Entry, Form, Plot};
use super::scale::{Scale, label, ticks};
use crate::bench::figures::Spread;

/// Bars from 0.
#[derive(Debug, Clone, Default)]
pub struct Bars {
    /// Of the axis.
    pub unit: String,
    /// Behind the point, in figures beside the bars.
    pub digits: usize,
    /// What the figures are of.
    pub rows: Vec<Row>,
    /// A figure to compare with, and what it means.
    pub reference: Option<(f64, String)>,
}

/// A bar, or a heading of those that follow.
#[derive(Debug, Clone)]
pub enum Row {
    /// A heading.
    Heading(String),
    /// A bar.
    Bar {
        /// What it is of.
        name: String,
        /// Its colour's class.
        class: &'static str,
        /// The figures; `None` where it was not measured.
        spread: Option<Spread>,
        /// What is required of it.
        limit: Option<Limit>,
    },
}

/// What is required of the median.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// This or more.
    Least(f64),
    /// This or less.
    Most(f64),
}

impl Limit {
    /// The figure.
    pub fn value(self) -> f64 {
        match self {
            Limit::Least(value) | Limit::Most(value) => value,
        }
    }

    /// Whether a median meets it, with a sign for those to whom colours say nothing.
    fn judged(self, median: f64) -> (&'static str, String) {
        let (met, sign, value) = match self {
            Limit::Least(value) => (median >= value, "≥", value),
            Limit::Most(value) => (median <= value, "≤", value),
        };
        if met {
            ("met", format!("✓ {sign} {value}"))
        } else {
            ("unmet", format!("✗ not {sign} {value}"))
        }
    }
}

impl Row {
    /// A bar of which nothing is required.
    pub fn bar(name: impl Into<String>, class: &'static str, spread: Option<Spread>) -> Row {
        Row::Bar { name: name.into(), class, spread, limit: None }
    }

    fn name(&self) -> &str {
        match self {
            Row::Heading(name) | Row::Bar { name, .. } => name,
        }
    }
}

/// Heights: of a row, of its bar, of the two lines above it on a phone.
const ROW: (f64, f64, f64) = (28.0, 14.0, 32.0);

impl Plot for Bars {
    fn draw(&self, layout: Layout, canvas: &mut Canvas) -> f64 {
        let bars = self.rows.iter().filter(|row| matches!(row, Row::Bar { .. }));
        let left = layout.gutter(bars.map(Row::name));
        let right = match layout {
            Layout::Wide => layout.width() - self.values_width() - 14.0,
            Layout::Narrow => layout.width() - 12.0,
        };
        let steps = ticks(self.most(), layout.steps());
        let x = Scale::linear(steps.last().copied().unwrap_or(1.0), left, right);
        let (high, _, above) = ROW;
        let step = if layout == Layout::Narrow { high + above } else { high };
        let top = 4.0;
        let headings = self.rows.iter().filter(|row| matches!(row, Row::Heading(_))).count() as f64;
        let bottom = top + headings * high + (self.rows.len() as f64 - headings) * step;
        for tick in steps {
            canvas.line("grid", (x.at(tick), top), (x.at(tick), bottom));
            canvas.text("axis middle", (x.at(tick), bottom + 16.0), &label(tick));
        }
        if let Some((value, _)) = &self.reference {
            canvas.line("reference", (x.at(*value), top), (x.at(*value), bottom));
        }
        let mut y = top;
        for row in &self.rows {
            match row {
                Row::Heading(name) => {
                    canvas.text("heading", (0.0, y + high - 8.0), name);
                    y += high;
                }
                bar @ Row::Bar { .. } => {
                    self.bar(canvas, layout, &x, bar, (left, right, y));
                    y += step;
                }
            }
        }
        canvas.text("axis middle", (f64::midpoint(left, right), bottom + 34.0), &self.unit);
        bottom + 42.0
    }

    fn legend(&self) -> Vec<Entry> {
        let mut entries = vec![
            Entry::new(Form::Block, "bar c0", "median"),
            Entry::new(Form::Whisker, "", "half of the runs (thick), all of them (thin)"),
        ];
        if let Some((_, says)) = &self.reference {
            entries.push(Entry::new(Form::Upright, "reference", says.as_str()));
        }
        if self.rows.iter().any(|row| matches!(row, Row::Bar { limit: Some(_), .. })) {
            entries.push(Entry::new(Form::Upright, "limit", "what is required of the median"));
        }
        entries
    }
}

impl Bars {
    fn most(&self) -> f64 {
        let of = |row: &Row| match row {
            Row::Heading(_) => None,
            Row::Bar { spread, limit, .. } => {
                let limit = limit.map_or(0.0, Limit::value);
                Some(spread.map_or(limit, |spread| spread.max.max(limit)))
            }
        };
        let reference = self.reference.as_ref().map_or(0.0, |(value, _)| *value);
        self.rows.iter().filter_map(of).fold(reference, f64::max)
    }

    /// The figures in words: median and quartiles, and what was required.
    fn values(&self, spread: Option<Spread>) -> String {
        let digits = self.digits;
        match spread {
            None => "not measured".to_owned(),
            Some(Spread { lower, median, upper, .. }) if lower == upper => format!("{median:.digits$}"),
            Some(Spread { lower, median, upper, .. }) => {
                format!("{median:.digits$} ({lower:.digits$} – {upper:.digits$})")
            }
        }
    }

    fn values_width(&self) -> f64 {
        let of = |row: &Row| match row {
            Row::Heading(_) => 0.0,
            Row::Bar { spread, limit, .. } => {
                let limit =
                    limit.and_then(|limit| Some(text_width(&limit.judged(spread.as_ref()?.median).1)));
                text_width(&self.values(*spread)) + limit.map_or(0.0, |width| width + 24.0)
            }
        };
        self.rows.iter().map(of).fold(0.0, f64::max)
    }

    fn bar(
        &self,
        canvas: &mut Canvas,
        layout: Layout,
        x: &Scale,
        row: &Row,
        (left, right, mut y): (f64, f64, f64),
    ) {
        let Row::Bar { name, class, spread, limit } = row else { return };
        let (high, thick, above) = ROW;
        let values = self.values(*spread);
        let judged = limit.zip(*spread).map(|(limit, spread)| limit.judged(spread.median));
        // Figures stand behind the longest bar or, on a phone, above it under the name.
        let values_at: Point = match layout {
            Layout::Wide => {
                canvas.name("name end", (left - 10.0, y + high / 2.0 + 4.0), name, left - 10.0);
                (right + 12.0, y + high / 2.0 + 4.0)
            }
            Layout::Narrow => {
                canvas.name("name strong", (left, y + 14.0), name, layout.width() - left);
                y += above;
                (left, y - 2.0)
            }
        };
        canvas.text("value", values_at, &values);
        if let Some((class, says)) = judged {
            canvas.text(&format!("{class} end"), (layout.width() - 2.0, values_at.1), &says);
        }
        let middle = y + high / 2.0;
        if let Some(spread) = spread {
            let says = format!("{name}: {values}");
            canvas.rect(
                &format!("bar {class}"),
                (left, middle - thick / 2.0),
                (x.at(spread.median) - left, thick),
                &says,
            );
            if spread.min < spread.max {
                canvas.line("range", (x.at(spread.min), middle), (x.at(spread.max), middle));
                canvas.line("quartiles", (x.at(spread.lower), middle), (x.at(spread.upper), middle));
            }
        }
        if let Some(limit) = limit {
            let place = x.at(limit.value());
            canvas.line("limit", (place, middle - thick / 2.0 - 4.0), (place, middle + thick / 2.0 + 4.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(layout: Layout, bars: &Bars) -> String {
        let mut canvas = Canvas::default();
        bars.draw(layout, &mut canvas);
        canvas.elements()
    }

    #[test]
    fn a_bar_says_its_figures_and_whether_it_is_enough() {
        let limit = |limit, values: [f64; 3]| Row::Bar {
            name: "relay".to_owned(),
            class: "c0",
            spread: Spread::of(values),
            limit: Some(limit),
        };
        let rows = vec![limit(Limit::Least(1.4), [1.2, 1.3, 1.4]), limit(Limit::Most(1.4), [1.2, 1.3, 1.4])];
        let bars = Bars { digits: 2, rows, ..Bars::default() };
        for layout in [Layout::Wide, Layout::Narrow] {
            let svg = drawn(layout, &bars);
            assert!(svg.contains("1.30 (1.25 – 1.35)"));
            assert!(svg.contains("✗ not ≥ 1.4") && svg.contains("✓ ≤ 1.4"));
        }
    }

    #[test]
    fn what_was_not_measured_has_no_bar() {
        let bars = Bars { rows: vec![Row::bar("relay", "c0", None)], ..Bars::default() };
        let svg = drawn(Layout::Narrow, &bars);
        assert!(svg.contains("not measured") && !svg.contains("<rect") && !svg.contains("NaN"));
    }

    #[test]
    fn one_figure_has_no_spread() {
        let bars = Bars { rows: vec![Row::bar("other", "c1", Spread::of([2.0]))], ..Bars::default() };
        let svg = drawn(Layout::Wide, &bars);
        assert!(svg.contains(">2<") && !svg.contains("class=\"range\""));
    }
}
