//! `DYNAVIT_*` behind the flags: which flag has which variable, and which of the two a value came from.
#![forbid(unsafe_code)]

use std::ffi::OsString;

/// The variable of a flag, by its long name.
///
/// A variable means one thing everywhere: so `eval --split`, which names a part and not a policy, has none, and neither
/// have the lists of `flops` or the flags that say which run or file a single call is about.
fn variable(subcommand: &str, long: &str) -> Option<String> {
    match (subcommand, long) {
        ("flops" | "inspect" | "data" | "weights" | "completions" | "bench" | "report", _)
        | ("visualize" | "coverage" | "explain", _)
        | ("eval", "split" | "corrupt" | "report")
        | ("sweep", "keep" | "vary" | "eval-keep")
        | (_, "config" | "resume" | "run-name" | "seeds") => None,
        _ => Some(format!("DYNAVIT_{}", long.to_uppercase().replace('-', "_"))),
    }
}

/// `command` with variables behind the settings that a value is given to.
pub fn behind(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|subcommand| {
        let name = subcommand.get_name().to_owned();
        subcommand.mut_args(|arg| match arg.get_long() {
            Some(long) if arg.get_action().takes_values() => {
                let variable = variable(&name, long);
                // A negative number is a bad value of its flag, not an unknown flag.
                let arg = arg.allow_negative_numbers(true);
                match variable {
                    // The parser lives as long as the process.
                    Some(variable) => arg.env(&*variable.leak()).hide_env(true),
                    None => arg,
                }
            }
            // K is a place in the line here and a flag elsewhere.
            None if arg.get_id() == "keep" && matches!(&*name, "train" | "eval") => {
                arg.env("DYNAVIT_KEEP").hide_env(true)
            }
            _ => arg,
        })
    })
}

/// Variables that stand behind no flag: where a driver or compiler is, and what tests may do.
const OTHERS: [&str; 8] = [
    "DYNAVIT_CHROMIUM",
    "DYNAVIT_CUDA_SYNC",
    "DYNAVIT_LIBCUDA",
    "DYNAVIT_NVCC",
    "DYNAVIT_PTX_VM",
    "DYNAVIT_REAL_DATA",
    "DYNAVIT_REQUIRE_GPU",
    "DYNAVIT_TEST_INSIDE",
];

/// The variables that look like settings of ours and are none, in the order of their names.
pub fn unknown(command: &clap::Command, names: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let known = |name: &str| {
        let mut args = command.get_subcommands().flat_map(|subcommand| subcommand.get_arguments());
        OTHERS.contains(&name) || args.any(|arg| arg.get_env().is_some_and(|variable| variable == name))
    };
    let names = names.into_iter().map(|name| name.to_string_lossy().into_owned());
    let mut strange: Vec<String> = names.filter(|name| name.starts_with("DYNAVIT_") && !known(name)).collect();
    strange.sort();
    strange
}

/// The variable that the value of `flag` came from, when the words of the command line, of which the first is the
/// program, do not give it. `flag` begins with the long name, `--lr`, `--lr <F>`, or is a place, `[KEEP]`, with
/// the value `bad`.
pub fn origin(
    command: &clap::Command,
    words: impl IntoIterator<Item = OsString>,
    flag: &str,
    bad: Option<&str>,
) -> Option<String> {
    let words: Vec<String> = words.into_iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let subcommand = command.find_subcommand(words.first()?)?;
    let Some(long) = flag.split_whitespace().next()?.strip_prefix("--") else {
        let place = flag.trim_matches(|c| "[]<>".contains(c)).to_lowercase();
        let arg = subcommand.get_positionals().find(|arg| arg.get_id() == &*place)?;
        let variable = arg.get_env()?;
        // Places are not named in the line: a word that says the same is taken for the place's.
        let its = std::env::var_os(variable)? == bad? && !words.iter().any(|word| Some(word.as_str()) == bad);
        return its.then(|| variable.to_string_lossy().into_owned());
    };
    let arg = subcommand.get_arguments().find(|arg| arg.get_long() == Some(long))?;
    let variable = arg.get_env().filter(|variable| std::env::var_os(variable).is_some())?;
    let aliases = arg.get_all_aliases().unwrap_or_default();
    let given = |word: &String| {
        let name = word.strip_prefix("--").map(|word| word.split('=').next().unwrap_or(word));
        name.is_some_and(|name| name == long || aliases.contains(&name))
    };
    (!words.iter().any(given)).then(|| variable.to_string_lossy().into_owned())
}
