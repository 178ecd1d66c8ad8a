//! Tables for people: columns as wide as their widest cell, two spaces between them.

/// Lines of `rows` beneath `head`; the last column is not padded.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(shown(cell).chars().count());
        }
    }
    let mut text = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", shown(cell)));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A cell on one line: names come from other clients of the daemon, and a terminal obeys what it is sent.
fn shown(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["app".to_owned(), "1".to_owned()], ["log\u{1b}collector".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "N"], &rows), "NAME           N\napp            1\nlog?collector\n");
        assert_eq!(table(["NAME", "N"], &[]), "NAME  N\n");
    }
}
