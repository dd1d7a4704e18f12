//! The subcommands: `run` and `check`.
#![forbid(unsafe_code)]

mod argument;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use argument::{Argument, Value};
use clap::{Args, Subcommand};
use ptx_vm::{Card, Kernel, LaunchShape, Limits, Module, Options};

/// Why the command ends with a code other than 0.
pub enum Trouble {
    /// It was reported already.
    Finding,
    Usage(String),
}

#[derive(Subcommand)]
pub enum Command {
    /// Launch one kernel and report findings and counters
    Run(Box<Run>),
    /// Parse a file and list its kernels with their parameters and resources
    Check(Check),
}

#[derive(Args)]
pub struct Check {
    /// PTX file
    file: PathBuf,
    /// Capability of the card, as 80 for sm_80 [default: the file's own target]
    #[arg(long, value_name = "NN")]
    sm: Option<u32>,
}

#[derive(Args)]
pub struct Run {
    /// PTX file
    file: PathBuf,
    /// Kernel to launch; may be left out if the file has one
    #[arg(long, value_name = "NAME")]
    entry: Option<String>,
    /// Blocks, as X or X,Y or X,Y,Z
    #[arg(long, value_name = "X,Y,Z", default_value = "1", value_parser = three)]
    grid: [u32; 3],
    /// Threads of a block
    #[arg(long, value_name = "X,Y,Z", value_parser = three)]
    block: [u32; 3],
    /// Bytes of dynamic shared memory
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    shared: u32,
    /// An argument, in order: `u32:5`, `f32:1e-6`, or `buf:TYPE:COUNT[=zeros|range|random:SEED|uninit|FILE]`
    #[arg(long = "arg", value_name = "ARG", value_parser = Argument::parse)]
    arguments: Vec<Argument>,
    /// Print a buffer after the run: its place among the arguments, from 0, and how many elements
    #[arg(long, value_name = "ARG[:COUNT]", value_parser = printed)]
    print: Vec<(usize, usize)>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Check nothing but bounds and alignment
    #[arg(long)]
    no_checks: bool,
    /// Watch global memory for races between blocks
    #[arg(long)]
    races: bool,
    /// Shuffles the order of blocks and warps
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// End with a finding after about N warp instructions, so that an endless loop ends
    #[arg(long, value_name = "N")]
    max_instructions: Option<u64>,
    /// Capability of the card, as 80 for sm_80 [default: the file's own target]
    #[arg(long, value_name = "NN")]
    sm: Option<u32>,
}

fn three(text: &str) -> Result<[u32; 3], String> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > 3 {
        return Err("at most three sizes".into());
    }
    let mut sizes = [1; 3];
    for (size, part) in sizes.iter_mut().zip(parts) {
        *size = part.parse().map_err(|_| format!("`{part}` is no size"))?;
    }
    Ok(sizes)
}

fn printed(text: &str) -> Result<(usize, usize), String> {
    let (place, count) = text.split_once(':').unwrap_or((text, "8"));
    let number = |part: &str| part.parse().map_err(|_| format!("`{part}` is no number"));
    Ok((number(place)?, number(count)?))
}

/// Reads and loads a file on a card that fits it.
fn load(file: &PathBuf, sm: Option<u32>, options: Options) -> Result<(Card, Arc<Module>), Trouble> {
    let bytes = std::fs::read(file).map_err(|e| Trouble::Usage(format!("{}: {e}", file.display())))?;
    let text = String::from_utf8(bytes).map_err(|_| Trouble::Usage(format!("{}: is no text", file.display())))?;
    // Without a word about the card, it is the one that the file was made for.
    let own = text.split(".target").nth(1).and_then(|rest| rest.trim_start().strip_prefix("sm_")).and_then(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).take(4).collect();
        digits.parse::<u32>().ok()
    });
    let sm = sm.or(own).unwrap_or(80);
    let card = Card::new(Limits::of_capability(sm / 10, sm % 10), options);
    match card.load(&file.display().to_string(), &text) {
        Ok(module) => Ok((card, module)),
        Err(error) => {
            eprintln!("{error}");
            Err(Trouble::Finding)
        }
    }
}

pub fn execute(command: Command) -> Result<(), Trouble> {
    match command {
        Command::Check(check) => {
            let (_, module) = load(&check.file, check.sm, Options::default())?;
            for name in module.kernels() {
                if let Some(kernel) = module.kernel(&name) {
                    report::describe(&kernel);
                }
            }
            Ok(())
        }
        Command::Run(run) => launch(*run),
    }
}

fn pick(module: &Module, entry: Option<&str>) -> Result<Arc<Kernel>, Trouble> {
    let names = module.kernels();
    let name = match (entry, names.as_slice()) {
        (Some(name), _) => name,
        (None, [only]) => only,
        (None, []) => return Err(Trouble::Usage("the file has no kernel".into())),
        (None, _) => return Err(Trouble::Usage(format!("--entry names one of {}", names.join(", ")))),
    };
    module.kernel(name).ok_or_else(|| Trouble::Usage(format!("--entry {name}: the file has {}", names.join(", "))))
}

fn launch(run: Run) -> Result<(), Trouble> {
    let options = Options {
        checks: !run.no_checks,
        global_races: run.races,
        counters: true,
        seed: run.seed,
        max_instructions: run.max_instructions,
    };
    let (card, module) = load(&run.file, run.sm, options)?;
    let kernel = pick(&module, run.entry.as_deref())?;
    let params = kernel.params();
    if params.len() != run.arguments.len() {
        return Err(Trouble::Usage(format!(
            "{} takes {} arguments, {} are given with --arg",
            kernel.name(),
            params.len(),
            run.arguments.len()
        )));
    }
    let mut block = vec![0u8; kernel.param_bytes() as usize];
    let mut buffers = Vec::new();
    for (place, (argument, (offset, size))) in run.arguments.iter().zip(params).enumerate() {
        let bytes = match &argument.value {
            Value::Scalar(bytes) => bytes.clone(),
            Value::Buffer(buffer) => {
                let address = buffer.place(&card).map_err(|why| Trouble::Usage(format!("--arg {place}: {why}")))?;
                buffers.push((place, address, buffer));
                address.to_le_bytes().to_vec()
            }
        };
        if bytes.len() != *size as usize {
            return Err(Trouble::Usage(format!(
                "--arg {place} has {} bytes, the kernel's parameter has {size}",
                bytes.len()
            )));
        }
        block[*offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    for (place, _) in &run.print {
        if !buffers.iter().any(|(p, ..)| p == place) {
            return Err(Trouble::Usage(format!("--print {place}: this argument is no buffer")));
        }
    }
    let shape = LaunchShape { grid: run.grid, block: run.block, dynamic_shared: run.shared };
    let mut fault = None;
    if run.shared > 0 {
        fault = kernel.set_dynamic_shared_limit(run.shared).err();
    }
    let start = std::time::Instant::now();
    if fault.is_none() {
        fault = card.launch(&kernel, shape, &block).err();
    }
    let seconds = start.elapsed().as_secs_f64();
    let shown: Vec<(usize, String)> = run
        .print
        .iter()
        .filter_map(|(place, count)| {
            let (_, address, buffer) = buffers.iter().find(|(p, ..)| p == place)?;
            Some((*place, buffer.shown(&card, *address, *count)))
        })
        .collect();
    let counters = card.counters().remove(kernel.name()).unwrap_or_default();
    let text = std::fs::read_to_string(&run.file).unwrap_or_default();
    let found = report::Report {
        kernel: kernel.name(),
        shape,
        fault: fault.as_ref(),
        counters: &counters,
        seconds,
        printed: &shown,
        ptx: &text,
    };
    if run.json {
        found.json()
    } else {
        found.print()
    }
    if fault.is_some() { Err(Trouble::Finding) } else { Ok(()) }
}
