//! The report as one page: no script, nothing fetched, light and dark, for narrow screens and for paper.
#![forbid(unsafe_code)]

use super::report::{Report, Section};
use crate::chart::escaped;
use crate::error::Result;

const STYLE: &str = include_str!("page.css");

/// The page. It is XML as well as HTML.
pub fn html(report: &Report) -> Result<String> {
    let mut body = format!("<h1>{}</h1>\n", escaped(&report.title));
    for section in &report.sections {
        body += &part(section)?;
    }
    body += &list("Left out", &report.left_out);
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <main>\n{body}</main>\n</body>\n</html>\n",
        escaped(&report.title)
    ))
}

fn part(section: &Section) -> Result<String> {
    let mut text = match section.title.as_str() {
        "" => String::new(),
        title => format!("<h2>{}</h2>\n", escaped(title)),
    };
    text += &list("What the numbers say", &section.findings);
    if !section.charts.is_empty() {
        text += "<div class=\"charts\">\n";
        for told in &section.charts {
            text += &format!("<figure>{}</figure>\n", told.chart.inline(&told.words)?);
        }
        text += &format!("</div>\n<p class=\"small\">{}</p>\n", escaped(section.bars));
    }
    section.tables.iter().for_each(|table| text += &table.html());
    text += &list("Missing", &section.missing);
    Ok(text)
}

fn list(title: &str, items: &[String]) -> String {
    let items: String = items.iter().map(|item| format!("<li>{}</li>\n", escaped(item))).collect();
    if items.is_empty() { items } else { format!("<h3>{title}</h3>\n<ul>\n{items}</ul>\n") }
}
