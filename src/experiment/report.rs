//! A report: tables, sentences and charts of all studies, as Markdown, CSV and one page.
#![forbid(unsafe_code)]

use super::charts::{self, Told};
use super::record::{Record, without_k};
use super::study::Study;
use super::table::Table;
use super::{page, tables, words};
use crate::error::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A report on any number of runs.
#[derive(Serialize)]
pub struct Report {
    pub title: String,
    pub sections: Vec<Section>,
    /// Runs that do not count, and why.
    pub left_out: Vec<String>,
}

/// One study of it, or one document beside.
#[derive(Serialize)]
pub struct Section {
    /// Empty where the report has one study only, and of it.
    pub title: String,
    pub findings: Vec<String>,
    pub tables: Vec<Table>,
    pub missing: Vec<String>,
    pub comparisons: Vec<super::study::Comparison>,
    #[serde(skip)]
    pub charts: Vec<Told>,
    /// What the bars of its charts are.
    #[serde(skip)]
    pub bars: &'static str,
}

impl Report {
    /// Sorts the runs that are finished into studies and says what can be said of each; without times, two reports of
    /// the same runs, repeated at another speed, are equal to the byte.
    pub fn of(records: Vec<Record>, without_times: bool) -> Result<Self> {
        let (by_k, others): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|run| without_k(&run.config).is_none());
        let reasons = others.iter().filter_map(|run| Some(format!("{}: {}", run.name, without_k(&run.config)?)));
        let mut left_out: Vec<String> = reasons.collect();
        let (done, open): (Vec<Record>, Vec<Record>) = by_k.into_iter().partition(Record::finished);
        left_out.extend(
            open.iter().map(|run| format!("{}: {} of {} epochs are done", run.name, run.rows.len(), run.config.epochs)),
        );
        let studies = Study::sort(done);
        let mut sections = Vec::new();
        for (i, study) in studies.iter().enumerate() {
            left_out.extend(study.notes.iter().cloned());
            let suffix = if studies.len() > 1 { format!("-{}", i + 1) } else { String::new() };
            let mut tables = tables::all(study, &suffix)?;
            if without_times {
                tables = tables.into_iter().map(Table::without_times).collect();
            }
            sections.push(Section {
                title: study.title.clone(),
                findings: words::findings(study, without_times)?,
                tables,
                missing: words::missing(study),
                comparisons: [super::assess::Split::Val, super::assess::Split::Test]
                    .iter()
                    .flat_map(|split| study.comparisons(*split))
                    .collect(),
                charts: charts::all(study, without_times)?,
                bars: "Bars, where there are some, are one sample deviation over seeds on either side.",
            });
        }
        let runs: usize = studies.iter().map(|study| study.runs().count()).sum();
        Ok(Report { title: format!("Token pruning before the encoder: {runs} runs"), sections, left_out })
    }

    /// Adds a section; files that would have the names of others get numbers.
    pub fn add(&mut self, mut section: Section) {
        for table in &mut section.tables {
            let taken = |id: &str| self.sections.iter().flat_map(|other| &other.tables).any(|other| other.id == id);
            let numbered = (1..).map(|i| if i == 1 { table.id.clone() } else { format!("{}-{i}", table.id) });
            table.id = numbered.into_iter().find(|id| !taken(id)).expect("numbers do not end");
        }
        self.sections.push(section);
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let list = |title: &str, items: &[String]| {
            let items: String = items.iter().map(|item| format!("- {item}\n")).collect();
            if items.is_empty() { items } else { format!("### {title}\n\n{items}\n") }
        };
        let mut text = format!("# {}\n\n", self.title);
        for section in &self.sections {
            if !section.title.is_empty() {
                text += &format!("## {}\n\n", section.title);
            }
            text += &list("What the numbers say", &section.findings);
            section.tables.iter().for_each(|table| text += &(table.markdown() + "\n"));
            text += &list("Missing", &section.missing);
        }
        (text + &list("Left out", &self.left_out)).trim_end().to_string() + "\n"
    }

    /// Writes report.md, report.html and a CSV file for each table into `folder`; returns what was written.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, &e))?;
        let mut files =
            vec![("report.md".to_string(), self.markdown()), ("report.html".to_string(), page::html(self)?)];
        let tables = self.sections.iter().flat_map(|section| &section.tables);
        files.extend(tables.map(|table| (format!("{}.csv", table.id), table.csv())));
        let mut written = Vec::new();
        for (name, text) in files {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(|e| Error::io(&path, &e))?;
            written.push(path);
        }
        Ok(written)
    }
}
