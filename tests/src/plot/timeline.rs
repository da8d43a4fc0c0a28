//! Lanes of faults above lines over time, one axis for all.

use super::canvas::{Canvas, Layout, Point, text_width};
use super::figure::{Entry, Form, Plot};
use super::scale::{Scale, short_label, ticks, time, time_ticks, whole_ticks};

/// Height of a lane and of what is drawn in it.
const LANE: (f64, f64) = (18.0, 12.0);
/// Height of one line's panel, and of one with several.
const PANEL: (f64, f64) = (92.0, 140.0);
/// Room for a panel's title.
const TITLE: f64 = 26.0;
/// Room for an axis.
const AXIS: f64 = 20.0;
/// Room at the right: half of the last tick's figure.
const MARGIN: f64 = 22.0;

/// The whole of it.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    /// Seconds that are shown.
    pub until_s: f64,
    /// When the last fault was over; what follows is the time to settle.
    pub faults_until_s: f64,
    /// Groups of lanes, such as all faults of one part.
    pub groups: Vec<Group>,
    /// Lines below them.
    pub panels: Vec<Panel>,
}

/// Lanes under one name and in one colour.
#[derive(Debug, Clone)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its lanes.
    pub lanes: Vec<Lane>,
}

/// What happened of one kind.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// What stands at its end: how many.
    pub note: String,
    /// What happened.
    pub bars: Vec<Bar>,
}

/// Something that lasted.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Seconds from the beginning.
    pub from_s: f64,
    /// The same, of its end.
    pub until_s: f64,
    /// Whether it is drawn filled; hollow and dashed otherwise.
    pub filled: bool,
    /// Shown to who points at it.
    pub says: String,
}

/// Lines with an axis of their own.
#[derive(Debug, Clone)]
pub struct Panel {
    /// What is shown, with its unit.
    pub title: String,
    /// Whether there are only whole figures.
    pub whole: bool,
    /// At most three lines.
    pub series: Vec<Series>,
}

/// A line.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Seconds and figures; a gap where there is none.
    pub points: Vec<(f64, Option<f64>)>,
}

impl Plot for Timeline {
    fn draw(&self, layout: Layout, canvas: &mut Canvas) -> f64 {
        let notes = self.lanes().map(|lane| text_width(&lane.note)).fold(MARGIN, f64::max);
        let gutter = match layout {
            Layout::Wide => layout.gutter(self.lanes().map(|lane| lane.name.as_str())),
            // The figures of the axes stand here, and the names above.
            Layout::Narrow => 38.0,
        };
        let area = (gutter, layout.width() - notes.max(MARGIN) - 4.0);
        let x = Scale::linear(self.until_s, area.0, area.1);
        let mut y = 4.0;
        if !self.groups.is_empty() {
            y = self.lanes_below(canvas, layout, &x, area, y);
            y = self.axis(canvas, layout, &x, y);
        }
        for panel in &self.panels {
            y = self.panel(canvas, layout, panel, &x, area, y);
        }
        y = self.axis(canvas, layout, &x, y);
        canvas.text("axis middle", (f64::midpoint(area.0, area.1), y + 10.0), "minutes from the beginning");
        y + 16.0
    }

    fn legend(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let groups = self.groups.iter().enumerate();
        entries
            .extend(groups.map(|(n, group)| {
                Entry::new(Form::Block, format!("bar c{n}"), format!("at {}", group.name))
            }));
        if self.lanes().any(|lane| lane.bars.iter().any(|bar| !bar.filled)) {
            entries.push(Entry::new(Form::Block, "hollow", "effect not seen: not counted"));
        }
        let longest = self.panels.iter().max_by_key(|panel| panel.series.len());
        let named = longest.filter(|panel| panel.series.len() > 1);
        for (n, series) in named.iter().flat_map(|panel| &panel.series).enumerate() {
            entries.push(Entry::new(Form::Line, format!("line s{n}"), series.name.as_str()));
        }
        if self.panels.iter().any(|panel| panel.series.iter().any(|series| !series.gaps().is_empty())) {
            entries.push(Entry::new(Form::Block, "gap", "nobody could say"));
        }
        if self.faults_until_s < self.until_s {
            entries.push(Entry::new(Form::Upright, "mark", "no more faults from here on"));
        }
        entries
    }
}

impl Timeline {
    fn lanes(&self) -> impl Iterator<Item = &Lane> {
        self.groups.iter().flat_map(|group| &group.lanes)
    }

    fn lanes_below(&self, canvas: &mut Canvas, layout: Layout, x: &Scale, area: (f64, f64), top: f64) -> f64 {
        let (high, bar_high) = LANE;
        // Names of lanes stand at the left or, on a phone, above.
        let above = if layout == Layout::Narrow { 14.0 } else { 0.0 };
        let heading = high + 4.0;
        let lanes = self.lanes().count() as f64;
        let bottom = top + heading * self.groups.len() as f64 + lanes * (high + above);
        self.grid(canvas, layout, x, top, bottom);
        let mut y = top;
        for (number, group) in self.groups.iter().enumerate() {
            canvas.text("heading", (0.0, y + heading - 6.0), &format!("at {}", group.name));
            y += heading;
            for lane in &group.lanes {
                match layout {
                    Layout::Wide => {
                        canvas.name("name end", (area.0 - 8.0, y + 13.0), &lane.name, area.0 - 8.0)
                    }
                    Layout::Narrow => canvas.name("name", (area.0, y + 11.0), &lane.name, area.1 - area.0),
                }
                y += above;
                canvas.rect("lane", (area.0, y + 3.0), (area.1 - area.0, bar_high), "");
                for bar in &lane.bars {
                    let class = if bar.filled { format!("bar c{number}") } else { "hollow".to_owned() };
                    let (from, to) = (x.at(bar.from_s), x.at(bar.until_s));
                    canvas.rect(&class, (from, y + 3.0), ((to - from).max(2.5), bar_high), &bar.says);
                }
                canvas.text("value", (area.1 + 6.0, y + 13.0), &lane.note);
                y += high;
            }
        }
        self.end_of_faults(canvas, x, top, bottom);
        bottom
    }

    fn panel(
        &self,
        canvas: &mut Canvas,
        layout: Layout,
        panel: &Panel,
        x: &Scale,
        area: (f64, f64),
        top: f64,
    ) -> f64 {
        let most = panel.series.iter().flat_map(|series| &series.points).filter_map(|(_, value)| *value);
        let most = most.fold(0.0, f64::max);
        let steps = if panel.whole { whole_ticks(most, 4) } else { ticks(most, 4) };
        let high = if panel.series.len() > 1 { PANEL.1 } else { PANEL.0 };
        let (top, bottom) = (top + TITLE, top + TITLE + high);
        let y = Scale::linear(steps.last().copied().unwrap_or(1.0), bottom, top);
        let left = if layout == Layout::Wide { area.0 } else { 0.0 };
        canvas.text("heading", (left, top - 8.0), &panel.title);
        for series in &panel.series {
            for (from, to) in series.gaps() {
                let (from, to) = (x.at(from), x.at(to));
                let says = "nobody could say";
                canvas.rect("gap", (from, top), ((to - from).max(1.0), bottom - top), says);
            }
        }
        self.grid(canvas, layout, x, top, bottom);
        for step in steps {
            canvas.line("grid", (area.0, y.at(step)), (area.1, y.at(step)));
            canvas.text("axis end", (area.0 - 6.0, y.at(step) + 4.0), &short_label(step));
        }
        for (number, series) in panel.series.iter().enumerate() {
            for stretch in series.stretches() {
                let places: Vec<Point> =
                    stretch.iter().map(|(at, value)| (x.at(*at), y.at(*value))).collect();
                match places.as_slice() {
                    // A line needs two points to be seen.
                    [alone] => canvas.circle(&format!("dot s{number}"), *alone, 1.5, ""),
                    places => canvas.path(&format!("line s{number}"), &thinned(places)),
                }
            }
        }
        self.end_of_faults(canvas, x, top, bottom);
        bottom + 4.0
    }

    fn grid(&self, canvas: &mut Canvas, layout: Layout, x: &Scale, top: f64, bottom: f64) {
        for tick in time_ticks(self.until_s, layout.steps()) {
            canvas.line("grid", (x.at(tick), top), (x.at(tick), bottom));
        }
    }

    fn end_of_faults(&self, canvas: &mut Canvas, x: &Scale, top: f64, bottom: f64) {
        if self.faults_until_s < self.until_s {
            let place = x.at(self.faults_until_s);
            canvas.line("mark", (place, top), (place, bottom));
        }
    }

    fn axis(&self, canvas: &mut Canvas, layout: Layout, x: &Scale, top: f64) -> f64 {
        for tick in time_ticks(self.until_s, layout.steps()) {
            canvas.text("axis middle", (x.at(tick), top + 14.0), &time(tick));
        }
        top + AXIS
    }
}

impl Series {
    /// What lies between the gaps.
    fn stretches(&self) -> Vec<Vec<(f64, f64)>> {
        let mut stretches = vec![Vec::new()];
        for (at, value) in &self.points {
            match (value, stretches.last_mut()) {
                (Some(value), Some(stretch)) => stretch.push((*at, *value)),
                _ => stretches.push(Vec::new()),
            }
        }
        stretches.retain(|stretch| !stretch.is_empty());
        stretches
    }

    /// From the last figure before each gap to the first behind it.
    fn gaps(&self) -> Vec<(f64, f64)> {
        let mut gaps = Vec::new();
        let mut before = self.points.first().map_or(0.0, |(at, _)| *at);
        let mut open = false;
        for (at, value) in &self.points {
            match value {
                None => open = true,
                Some(_) => {
                    if open {
                        gaps.push((before, *at));
                    }
                    (before, open) = (*at, false);
                }
            }
        }
        if let Some((last, None)) = self.points.last() {
            gaps.push((before, *last));
        }
        gaps
    }
}

/// Of the points that fall into one pixel the first, the lowest, the highest and the last: the picture is the same, and
/// a run of a day is no larger than one of an hour.
fn thinned(places: &[Point]) -> Vec<Point> {
    let mut thin: Vec<Point> = Vec::new();
    for pixel in places.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        if pixel.len() <= 4 {
            thin.extend_from_slice(pixel);
            continue;
        }
        let by_height = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let four =
            [pixel.first(), pixel.iter().min_by(by_height), pixel.iter().max_by(by_height), pixel.last()];
        thin.extend(four.into_iter().flatten());
    }
    thin
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[Option<f64>]) -> Series {
        let points = points.iter().enumerate().map(|(n, value)| (n as f64, *value)).collect();
        Series { name: "lag".to_owned(), points }
    }

    #[test]
    fn a_line_breaks_where_nobody_could_say() {
        let series = series(&[None, Some(1.0), Some(2.0), None, None, Some(3.0), None]);
        let found = series.stretches();
        assert_eq!(found, [vec![(1.0, 1.0), (2.0, 2.0)], vec![(5.0, 3.0)]]);
        assert_eq!(series.gaps(), [(0.0, 1.0), (2.0, 5.0), (5.0, 6.0)]);
        let panel = Panel { title: "Lag".to_owned(), whole: true, series: vec![series] };
        let timeline =
            Timeline { until_s: 6.0, faults_until_s: 6.0, panels: vec![panel], ..Timeline::default() };
        let mut canvas = Canvas::default();
        timeline.draw(Layout::Wide, &mut canvas);
        let svg = canvas.elements();
        assert_eq!(svg.matches("<path").count(), 1);
        assert_eq!(svg.matches("class=\"dot").count(), 1, "a figure between two gaps is seen");
        assert_eq!(svg.matches("class=\"gap\"").count(), 3);
        assert!(timeline.legend().iter().any(|entry| entry.says == "nobody could say"));
    }

    #[test]
    fn nothing_at_all_is_drawn_without_a_word_of_numbers_that_are_none() {
        let panel = Panel { title: "Lag".to_owned(), whole: false, series: vec![series(&[])] };
        let timeline = Timeline { panels: vec![panel], ..Timeline::default() };
        let mut canvas = Canvas::default();
        timeline.draw(Layout::Narrow, &mut canvas);
        assert!(!canvas.elements().contains("NaN"));
    }

    #[test]
    fn a_days_samples_keep_their_peaks() {
        let many: Vec<Point> = (0..10_000).map(|n| (f64::from(n) / 100.0, f64::from(n % 97))).collect();
        let thin = thinned(&many);
        assert!(thin.len() <= 400);
        assert!(thin.iter().any(|(_, y)| *y == 96.0) && thin.iter().any(|(_, y)| *y == 0.0));
    }
}
