//! What a run found and counted, for people and as JSON.
#![forbid(unsafe_code)]

use ptx_vm::{Counters, Fault, Kernel, LaunchShape};
use serde_json::json;

pub struct Report<'a> {
    pub kernel: &'a str,
    pub shape: LaunchShape,
    pub fault: Option<&'a Fault>,
    pub counters: &'a Counters,
    pub seconds: f64,
    pub printed: &'a [(usize, String)],
    /// The file's text, for lines to be shown.
    pub ptx: &'a str,
}

/// One kernel of `ptx-vm check`.
pub fn describe(kernel: &Kernel) {
    let sizes: Vec<String> = kernel.params().iter().map(|(offset, size)| format!("{size}@{offset}")).collect();
    println!("{}", kernel.name());
    println!("  parameters   {} bytes: {}", kernel.param_bytes(), sizes.join(" "));
    println!("  registers    {}", kernel.registers());
    println!("  shared       {} bytes static", kernel.static_shared());
    println!("  local        {} bytes a thread", kernel.local_bytes());
    println!("  threads      at most {} a block", kernel.threads_per_block());
}

impl Report<'_> {
    fn line_text(&self, line: u32) -> &str {
        self.ptx.lines().nth(line.saturating_sub(1) as usize).map_or("", str::trim)
    }

    pub fn print(&self) {
        let c = self.counters;
        let LaunchShape { grid, block, .. } = self.shape;
        println!("{} <<<{grid:?}, {block:?}, {}>>>", self.kernel, self.shape.dynamic_shared);
        match self.fault {
            None => println!("finding       none"),
            Some(fault) => println!("finding       {}", fault.message.replace('\n', "\n              ")),
        }
        println!("instructions  {} of warps, {} blocks, {:.3} s", c.warp_instructions, c.blocks, self.seconds);
        let least = |bytes: u64| bytes.div_ceil(32);
        println!(
            "global        read {} bytes in {} sectors (full sectors would be {}), written {} in {} ({})",
            c.global_read_bytes,
            c.global_read_sectors,
            least(c.global_read_bytes),
            c.global_write_bytes,
            c.global_write_sectors,
            least(c.global_write_bytes)
        );
        println!("shared        {} requests, {} passes lost to bank conflicts", c.shared_requests, c.bank_conflicts);
        println!("arithmetic    {} mma multiply-adds, {} fma lanes", c.mma_macs, c.fma_lanes);
        let mut opcodes: Vec<_> = c.opcodes.iter().collect();
        opcodes.sort_by_key(|(name, n)| (std::cmp::Reverse(**n), name.as_str()));
        let top: Vec<String> = opcodes.iter().take(8).map(|(name, n)| format!("{name} {n}")).collect();
        println!("opcodes       {}{}", top.join(", "), if opcodes.len() > 8 { ", …" } else { "" });
        for (line, counts) in c.by_line.iter().filter(|(_, n)| n.excess_passes + n.excess_sectors > 0) {
            println!(
                "line {line:<8} {} requests, {} passes and {} sectors beyond the least: {}",
                counts.requests,
                counts.excess_passes,
                counts.excess_sectors,
                self.line_text(*line)
            );
        }
        for (place, values) in self.printed {
            println!("argument {place:<4} {values}");
        }
    }

    pub fn json(&self) {
        let c = self.counters;
        let lines: Vec<_> = c
            .by_line
            .iter()
            .map(|(line, n)| {
                json!({
                    "line": line,
                    "requests": n.requests,
                    "excess_passes": n.excess_passes,
                    "excess_sectors": n.excess_sectors,
                })
            })
            .collect();
        let printed: Vec<_> =
            self.printed.iter().map(|(place, values)| json!({ "argument": place, "values": values })).collect();
        let report = json!({
            "kernel": self.kernel,
            "grid": self.shape.grid,
            "block": self.shape.block,
            "dynamic_shared": self.shape.dynamic_shared,
            "finding": self.fault.map(|f| json!({ "kind": format!("{:?}", f.kind), "message": f.message })),
            "seconds": self.seconds,
            "warp_instructions": c.warp_instructions,
            "blocks": c.blocks,
            "global_read_bytes": c.global_read_bytes,
            "global_read_sectors": c.global_read_sectors,
            "global_write_bytes": c.global_write_bytes,
            "global_write_sectors": c.global_write_sectors,
            "shared_requests": c.shared_requests,
            "bank_conflicts": c.bank_conflicts,
            "mma_macs": c.mma_macs,
            "fma_lanes": c.fma_lanes,
            "opcodes": c.opcodes,
            "lines": lines,
            "printed": printed,
        });
        println!("{report:#}");
    }
}
