//! Tables for people: columns as wide as what stands in them.

use super::output::Paint;

/// A table, one line per row; empty without any. `painted` is the column with colours, and the colour of each row.
pub fn table<const N: usize>(
    head: [&str; N],
    rows: &[[String; N]],
    paint: Paint,
    painted: Option<(usize, &dyn Fn(usize) -> &'static str)>,
) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([head[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let pad = |text: &str, column: usize| match column + 1 == N {
        true => text.to_owned(),
        false => format!("{text:<width$}", width = widths[column]),
    };
    let titles: Vec<String> = head.iter().enumerate().map(|(column, name)| pad(name, column)).collect();
    let mut page = format!("{}\n", titles.join("  "));
    for (at, row) in rows.iter().enumerate() {
        let cells = row.iter().enumerate().map(|(column, text)| match painted {
            Some((which, colour)) if which == column => paint.colour(colour(at), &pad(text, column)),
            Some(_) | None => pad(text, column),
        });
        page += &format!("{}\n", cells.collect::<Vec<_>>().join("  "));
    }
    page
}
