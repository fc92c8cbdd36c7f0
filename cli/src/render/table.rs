//! Columns that line up, whatever the characters and colours in them.

use unicode_width::UnicodeWidthStr;

/// What is listed by `deputy fleet`.
pub(crate) fn access_table(headings: &[&str], rows: Vec<Vec<String>>) -> Vec<String> {
    table(headings, &rows)
}

/// Rows under headings; the last column is not padded.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let width = |text: &str| anstream::adapter::strip_str(text).to_string().width();
    let columns = headings.len();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| width(cell))
                .chain([width(headings[column])])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if column + 1 < columns {
                line.push_str(&" ".repeat(widths[column].saturating_sub(width(cell)) + 2));
            }
        }
        line.trim_end().to_owned()
    };
    let head = std::iter::once(line(headings.to_vec()));
    head.chain(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())))
        .collect()
}
