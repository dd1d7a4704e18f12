//! A table, whatever it is written as: Markdown, CSV or part of a page.
#![forbid(unsafe_code)]

use crate::chart::escaped;
use serde::Serialize;

/// Rows under a head. Every row is as long as the head.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// The name of its CSV file.
    pub id: String,
    pub title: String,
    /// What must be known to read it.
    pub note: String,
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(id: &str, title: impl Into<String>, head: &[&str]) -> Self {
        let head = head.iter().map(|name| (*name).to_string()).collect();
        Table { id: id.into(), title: title.into(), note: String::new(), head, rows: Vec::new() }
    }

    /// Takes the columns whose head tells a time away.
    pub fn without_times(mut self) -> Self {
        let keep: Vec<bool> = self.head.iter().map(|name| !is_time(name)).collect();
        for row in std::iter::once(&mut self.head).chain(&mut self.rows) {
            let mut kept = keep.iter();
            row.retain(|_| *kept.next().unwrap_or(&true));
        }
        self
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        debug_assert!(self.rows.iter().all(|row| row.len() == self.head.len()), "{}: a row unlike its head", self.id);
        let rule = format!("|{}\n", "---|".repeat(self.head.len()));
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("\n{}\n", self.note) };
        format!("### {}\n\n{}{rule}{rows}{note}", self.title, line(&self.head))
    }

    /// As CSV (RFC 4180, line feeds).
    pub fn csv(&self) -> String {
        let cell = |text: &String| match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text.clone(),
        };
        let line = |cells: &Vec<String>| cells.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
        std::iter::once(&self.head).chain(&self.rows).map(line).collect()
    }

    /// As an element of a page; it scrolls on its own where the page is narrow.
    pub fn html(&self) -> String {
        let number =
            |text: &str| text.starts_with(|c: char| c.is_ascii_digit() || "+-<".contains(c)) || text.is_empty();
        let cells = |row: &[String], tag: &str| -> String {
            let cell = |(i, text): (usize, &String)| {
                let numbers = self.rows.iter().all(|row| row.get(i).is_none_or(|cell| number(cell)));
                let class = if numbers { " class=\"n\"" } else { "" };
                let scope = if tag == "th" { " scope=\"col\"" } else { "" };
                format!("<{tag}{scope}{class}>{}</{tag}>", escaped(text))
            };
            row.iter().enumerate().map(cell).collect()
        };
        let rows: String = self.rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row, "td"))).collect();
        let note = if self.note.is_empty() { String::new() } else { format!("<p>{}</p>\n", escaped(&self.note)) };
        format!(
            "<h3 id=\"{}\">{}</h3>\n<div class=\"wide\"><table>\n<thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
             </table></div>\n{note}",
            escaped(&self.id),
            escaped(&self.title),
            cells(&self.head, "th")
        )
    }
}

/// Whether a column of that name holds times or rates.
fn is_time(name: &str) -> bool {
    ["s/epoch", "img/s", "ms/image", "time"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("t", "A <b>", &["run", "val %", "s/epoch"]);
        table.rows.push(["a|b, \"c\"", "75.0", "1.5"].map(String::from).to_vec());
        table
    }

    #[test]
    fn each_form_escapes_what_it_must() {
        assert_eq!(table().csv(), "run,val %,s/epoch\n\"a|b, \"\"c\"\"\",75.0,1.5\n");
        assert!(table().markdown().contains("| a\\|b, \"c\" | 75.0 | 1.5 |"));
        let html = format!("<div>{}</div>", table().html());
        let tree = roxmltree::Document::parse(&html).unwrap();
        assert!(tree.descendants().any(|node| node.text() == Some("A <b>")));
        assert!(html.contains("<td class=\"n\">75.0</td>") && html.contains("<td>a|b"));
    }

    #[test]
    fn times_can_be_left_out() {
        let bare = table().without_times();
        assert_eq!((bare.head.len(), bare.rows[0].len()), (2, 2));
        assert_eq!(bare.csv(), "run,val %\n\"a|b, \"\"c\"\"\",75.0\n");
    }
}
