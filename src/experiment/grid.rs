//! The grid of a sweep: which runs there are, what each is called, and in which order they go.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::prune::Keep;

/// Options that do not matter when every patch is kept.
const OF_CHOICE: [&str; 4] = ["scorer", "saliency-domain", "entropy-bins", "round"];

/// What a sweep varies. Every combination is a run; K = 100 comes once for all scorers.
#[derive(Clone, Debug)]
pub struct Grid {
    pub keeps: Vec<Keep>,
    /// By the names that `--scorer` takes.
    pub scorers: Vec<String>,
    pub seeds: Vec<u64>,
    /// Other options of `train`, each with its values as its flag takes them.
    pub varied: Vec<(String, Vec<String>)>,
}

/// One run of the grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The name of its folder; there is no time in it.
    pub name: String,
    pub keep: Keep,
    pub seed: u64,
    /// The options that set it apart, beside K and seed.
    pub options: Vec<(String, String)>,
}

impl Cell {
    /// What it adds to the words of `train`'s command line, K apart.
    pub fn words(&self) -> Vec<String> {
        let options = self.options.iter().map(|(key, value)| format!("--{key}={value}"));
        options.chain([format!("--seed={}", self.seed)]).collect()
    }
}

impl Grid {
    /// The runs in order. Seed by seed, so that a sweep that is stopped has whole rows of one seed rather than bits of all.
    pub fn cells(&self, dataset: &str) -> Result<Vec<Cell>> {
        let mut cells: Vec<Cell> = Vec::new();
        for &seed in &self.seeds {
            for varied in self.combinations() {
                for &keep in &self.keeps {
                    for scorer in &self.scorers {
                        let all = [&[("scorer".to_string(), scorer.clone())], &varied[..]].concat();
                        let matters = |key: &str| keep != Keep::ALL || !OF_CHOICE.contains(&key);
                        let options = all.into_iter().filter(|(key, _)| matters(key)).collect();
                        let cell = named(dataset, keep, seed, options);
                        match cells.iter().find(|other| other.name == cell.name) {
                            None => cells.push(cell),
                            Some(other) if *other == cell => {}
                            Some(_) => {
                                let reason = format!("two of its runs would both be called {}", cell.name);
                                let remedy = "give values whose letters and digits differ";
                                return Err(Error::usage("--vary", reason, remedy));
                            }
                        }
                    }
                }
            }
        }
        Ok(cells)
    }

    /// Every choice of one value for each varied option.
    fn combinations(&self) -> Vec<Vec<(String, String)>> {
        self.varied.iter().fold(vec![Vec::new()], |chosen, (key, values)| {
            let with = |c: &Vec<_>, value: &String| [&c[..], &[(key.clone(), value.clone())]].concat();
            chosen.iter().flat_map(|c| values.iter().map(move |value| with(c, value))).collect()
        })
    }
}

fn named(dataset: &str, keep: Keep, seed: u64, options: Vec<(String, String)>) -> Cell {
    let mut name = format!("{dataset}-k{keep}");
    for (key, value) in &options {
        name += &match key.as_str() {
            "scorer" => format!("-{value}"),
            _ => format!("-{key}-{}", plain(value)),
        };
    }
    Cell { name: format!("{name}-s{seed}"), keep, seed, options }
}

/// A value as a part of a file's name; of a path its last part.
fn plain(value: &str) -> String {
    let last = value.rsplit('/').next().unwrap_or(value);
    last.chars().map(|c| if c.is_ascii_alphanumeric() || ".+-_".contains(c) { c } else { '_' }).collect()
}

/// Reads `option=value,value`; where a value itself has commas, semicolons part them.
pub fn varied(text: &str) -> std::result::Result<(String, Vec<String>), String> {
    let (key, values) = text.split_once('=').ok_or("OPTION=A,B is needed")?;
    let parting = if values.contains(';') { ';' } else { ',' };
    let values: Vec<String> = values.split(parting).map(|value| value.trim().to_string()).collect();
    if let Some(twice) = (1..values.len()).find(|&i| values[..i].contains(&values[i])) {
        return Err(format!("{} stands there twice", values[twice]));
    }
    match values.iter().any(String::is_empty) {
        true => Err("a value is empty".into()),
        false => Ok((key.trim().trim_start_matches("--").to_string(), values)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        Grid {
            keeps: ["50", "62.5", "100"].map(|k| k.parse().unwrap()).to_vec(),
            scorers: vec!["l2".into(), "random".into()],
            seeds: vec![42, 43],
            varied: Vec::new(),
        }
    }

    fn names(grid: &Grid) -> Vec<String> {
        grid.cells("voc").unwrap().into_iter().map(|cell| cell.name).collect()
    }

    #[test]
    fn runs_go_seed_by_seed_and_all_patches_are_kept_once() {
        assert_eq!(
            names(&grid())[..6],
            [
                "voc-k50-l2-s42",
                "voc-k50-random-s42",
                "voc-k62.5-l2-s42",
                "voc-k62.5-random-s42",
                "voc-k100-s42",
                "voc-k50-l2-s43"
            ]
        );
        assert_eq!(names(&grid()).len(), 10);
        assert_eq!(grid().cells("voc").unwrap()[0].words(), ["--scorer=l2", "--seed=42"]);
        assert_eq!(grid().cells("voc").unwrap()[4].words(), ["--seed=42"]);
    }

    #[test]
    fn anything_can_be_varied() {
        let varied = vec![varied("lr=1e-5,3e-5").unwrap(), varied("--weights=a/b.safetensors").unwrap()];
        let some = Grid { keeps: vec!["50".parse().unwrap()], scorers: vec!["l2".into()], seeds: vec![1], varied };
        assert_eq!(
            names(&some),
            ["voc-k50-l2-lr-1e-5-weights-b.safetensors-s1", "voc-k50-l2-lr-3e-5-weights-b.safetensors-s1"]
        );
        let clash = Grid { varied: vec![("weights".into(), vec!["a/x".into(), "b/x".into()])], ..some };
        assert!(clash.cells("voc").unwrap_err().to_string().contains("called"));
        let bins = Grid { varied: vec![("entropy-bins".into(), vec!["32".into(), "64".into()])], ..grid() };
        assert_eq!(names(&bins).iter().filter(|name| name.contains("k100")).count(), 2);
    }

    #[test]
    fn values_are_parted_by_commas_or_semicolons() {
        assert_eq!(varied("crop-scale=0.1,1;0.6,1").unwrap().1, ["0.1,1", "0.6,1"]);
        for bad in ["lr", "lr=", "lr=1,,2", "lr=1,1"] {
            assert!(varied(bad).is_err(), "{bad}");
        }
    }
}
