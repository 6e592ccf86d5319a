//! Pieces of Markdown that every part of the report is put together from.

/// A table of Markdown: its heads, and the cells of each line.
pub fn table(header: &[&str], lines: Vec<Vec<String>>) -> String {
    let mut text = format!(
        "| {} |\n|{}",
        header.join(" | "),
        "---|".repeat(header.len())
    );
    for line in lines {
        text.push_str("\n|");
        for cell in line {
            let gap = if cell.is_empty() { "" } else { " " };
            text += &format!("{gap}{cell} |");
        }
    }
    text
}

/// Text from a record as it can stand in a paragraph or a table's cell.
pub fn text(text: &str) -> String {
    one_line(text).replace('|', "\\|").replace('<', "&lt;")
}

/// Without line ends, and with single blanks.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
