//! Bars made of parts.

use super::canvas::{Canvas, Layout, text_width};
use super::figure::{Entry, Form, Plot};
use super::scale::{Scale, label, ticks};

/// Bars from 0, each of parts that follow one another.
#[derive(Debug, Clone, Default)]
pub struct Stack {
    /// Of the axis.
    pub unit: String,
    /// Behind the point, in figures of parts and sums.
    pub digits: usize,
    /// Names of the parts.
    pub parts: Vec<String>,
    /// The bars.
    pub rows: Vec<Row>,
}

/// One bar.
#[derive(Debug, Clone)]
pub struct Row {
    /// What it is of.
    pub name: String,
    /// A figure for each part, in the order of the parts.
    pub figures: Vec<f64>,
}

/// Heights: of a row, of its bar, of the line above it on a phone.
const ROW: (f64, f64, f64) = (34.0, 20.0, 18.0);

impl Plot for Stack {
    fn draw(&self, layout: Layout, canvas: &mut Canvas) -> f64 {
        let left = layout.gutter(self.rows.iter().map(|row| row.name.as_str()));
        let right = layout.width() - if layout == Layout::Wide { 60.0 } else { 12.0 };
        let most = self.rows.iter().map(|row| row.figures.iter().sum()).fold(0.0, f64::max);
        let steps = ticks(most, layout.steps());
        let x = Scale::linear(steps.last().copied().unwrap_or(1.0), left, right);
        let (high, thick, above) = ROW;
        let step = if layout == Layout::Narrow { high + above } else { high };
        let (top, digits) = (4.0, self.digits);
        let bottom = top + self.rows.len() as f64 * step;
        for tick in steps {
            canvas.line("grid", (x.at(tick), top), (x.at(tick), bottom));
            canvas.text("axis middle", (x.at(tick), bottom + 16.0), &label(tick));
        }
        for (number, row) in self.rows.iter().enumerate() {
            let mut y = top + number as f64 * step;
            let sum: f64 = row.figures.iter().sum();
            let total = format!("{sum:.digits$}");
            if layout == Layout::Wide {
                canvas.name("name end", (left - 10.0, y + high / 2.0 + 4.0), &row.name, left - 10.0);
                canvas.text("value", (x.at(sum) + 8.0, y + high / 2.0 + 4.0), &total);
            } else {
                canvas.name("name", (left, y + 14.0), &row.name, layout.width() - 60.0);
                canvas.text("value end", (layout.width() - 2.0, y + 14.0), &total);
                y += above;
            }
            let mut before = 0.0;
            for (part, figure) in row.figures.iter().enumerate() {
                let (from, to) = (x.at(before), x.at(before + figure));
                let value = format!("{figure:.digits$}");
                let says = format!("{}: {} {value}", row.name, self.parts[part]);
                canvas.rect(
                    &format!("bar part c{part}"),
                    (from, y + (high - thick) / 2.0),
                    (to - from, thick),
                    &says,
                );
                if text_width(&value) + 8.0 < to - from {
                    canvas.text("inside middle", (f64::midpoint(from, to), y + high / 2.0 + 4.0), &value);
                }
                before += figure;
            }
        }
        canvas.text("axis middle", (f64::midpoint(left, right), bottom + 34.0), &self.unit);
        bottom + 42.0
    }

    fn legend(&self) -> Vec<Entry> {
        let parts = self.parts.iter().enumerate();
        parts.map(|(n, part)| Entry::new(Form::Block, format!("bar part c{n}"), part.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_one_another_and_the_sum_is_said() {
        let stack = Stack {
            digits: 1,
            parts: vec!["relay".to_owned(), "broker".to_owned()],
            rows: vec![Row { name: "us".to_owned(), figures: vec![2.0, 1.5] }],
            ..Stack::default()
        };
        let mut canvas = Canvas::default();
        stack.draw(Layout::Wide, &mut canvas);
        let svg = canvas.elements();
        assert!(svg.contains(">3.5<") && svg.contains("us: broker 1.5"));
        assert_eq!(stack.legend().len(), 2);
    }
}
