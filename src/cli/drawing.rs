//! How trees and tables look on a terminal, whichever command prints them.
//!
//! Knows nothing of nodes but that some stand below others. What it is given is fit for a terminal already.

use std::collections::{HashMap, HashSet};

/// The lines before the names of a tree's nodes.
#[derive(Debug, Default)]
pub struct Branches {
    /// Of each level above the next line, whether more nodes come there.
    open: Vec<bool>,
}

impl Branches {
    /// What stands before a node so far below the first. The nodes come depth first.
    pub fn start(&mut self, depth: usize, has_siblings: bool) -> String {
        let above = depth.saturating_sub(1);
        self.open.truncate(above);
        if depth == 0 {
            return String::new();
        }
        let mut start = String::new();
        for open in &self.open {
            start.push_str(if *open { "│  " } else { "   " });
        }
        start.push_str(if has_siblings { "├─ " } else { "└─ " });
        self.open.push(has_siblings);
        start
    }
}

/// A node's place in a drawing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed<'a> {
    /// Which one.
    pub id: &'a str,
    /// How far below the first of its tree.
    pub depth: usize,
    /// Whether another one with the same parent comes after it.
    pub has_siblings: bool,
}

/// All nodes below these, depth first, each once even where nodes stand below themselves.
pub fn depth_first<'a>(
    first: &[&'a str],
    children: &HashMap<&'a str, Vec<&'a str>>,
) -> Vec<Placed<'a>> {
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let start = |&id| Placed {
        id,
        depth: 0,
        has_siblings: false,
    };
    let mut waiting: Vec<_> = first.iter().rev().map(start).collect();
    // Ends: each node is followed once.
    while let Some(placed) = waiting.pop() {
        if !seen.insert(placed.id) {
            continue;
        }
        order.push(placed);
        let below = children.get(placed.id).map_or(&[][..], Vec::as_slice);
        let last_first = below.iter().rev().enumerate();
        waiting.extend(last_first.map(|(after, &id)| Placed {
            id,
            depth: placed.depth + 1,
            has_siblings: after > 0,
        }));
    }
    order
}

/// On which side a column's cells end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Rows of cells, the first row of which is the heading.
#[derive(Debug)]
pub struct Table {
    sides: Vec<Side>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With a heading, column by column.
    pub fn new(columns: &[(&str, Side)]) -> Table {
        let (heading, sides) = columns
            .iter()
            .map(|&(name, side)| (name.to_string(), side))
            .unzip();
        Table {
            sides,
            rows: vec![heading],
        }
    }

    /// Appends a row.
    pub fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Appends the lines, columns two spaces apart, without spaces at their ends.
    pub fn write(&self, out: &mut Vec<u8>) {
        let width = |column: usize| {
            // A line of one cell may be longer than the column.
            let rows = self.rows.iter().filter(|row| row.len() > 1);
            let cells = rows.filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.sides.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, &width), side) in row.iter().zip(&widths).zip(&self.sides) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match side {
                    Side::Left => line.push_str(&format!("{cell:<width$}")),
                    Side::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            out.extend_from_slice(line.trim_end().as_bytes());
            out.push(b'\n');
        }
    }
}

/// `1 node`, `2 nodes`.
pub fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(first: &[&str], below: &[(&'static str, &[&'static str])]) -> String {
        let children = below
            .iter()
            .map(|&(id, children)| (id, children.to_vec()))
            .collect();
        let mut branches = Branches::default();
        let lines = depth_first(first, &children).into_iter().map(|placed| {
            let start = branches.start(placed.depth, placed.has_siblings);
            format!("{start}{}\n", placed.id)
        });
        lines.collect()
    }

    #[test]
    fn branches_lead_from_each_node_to_its_children() {
        let tree: [(&str, &[&str]); 3] = [("a", &["b", "e"]), ("b", &["c", "d"]), ("e", &["f"])];
        let expected = "a\n├─ b\n│  ├─ c\n│  └─ d\n└─ e\n   └─ f\ng\n";
        assert_eq!(drawn(&["a", "g"], &tree), expected);
    }

    #[test]
    fn nodes_in_a_circle_are_drawn_once() {
        assert_eq!(drawn(&["a"], &[("a", &["b"]), ("b", &["a"])]), "a\n└─ b\n");
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut table = Table::new(&[("node", Side::Left), ("n", Side::Right), ("", Side::Left)]);
        table.push(vec!["└─ a".into(), "100".into(), "x".into()]);
        table.push(vec!["bergen".into(), "7".into(), String::new()]);
        table.push(vec!["└─ ... 37 more nodes below".into()]);
        let mut out = Vec::new();
        table.write(&mut out);
        let expected = "node      n\n└─ a    100  x\nbergen    7\n└─ ... 37 more nodes below\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
