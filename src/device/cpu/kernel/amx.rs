//! The micro-kernels for AMX: pairs of bf16, whose sums lie in tile registers of 16 x 16, with `tdpbf16ps`; and f32, each
//! element in three parts of bf16 whose sum it is, which takes six such products for one.
//!
//! An instruction adds the products of sixteen pairs to an element of the sum, in an order that is the same for every element
//! (Intel's manuals differ about which). Runs of the inner dimension end where an instruction ends, so the bits of a sum do not
//! depend on where they end, unless the sum is scaled in between.
//!
//! The parts are a = a1 + a2 + a3, exactly, with |a2| at most 2^-8 |a| and |a3| at most 2^-17 |a|: bf16 has the exponents of f32
//! and eight of its twenty-four digits. Of a b the products a2 b3, a3 b2 and a3 b3 are left out, together 2^-24 |a b| at most
//! (and a thousandth of that), the rounding of one addition in f32. To the instruction subnormal operands and results are zeros,
//! so elements below 2^-103 and products below about 2^-102 lose digits. An element that is infinite or, as bf16, rounds to
//! infinity (from 2^128 - 2^119 on) makes NaN; sums within 2^-7 of f32's largest may overflow early.
#![allow(unsafe_code)]

use super::{Work, cpuid};
use std::arch::asm;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::LazyLock;

/// Rows and columns of a tile register of sums, and words of a row of it: of operands, so many pairs.
const SIDE: usize = 16;
/// Rows of the rectangle: two tile registers.
pub(super) const MR: usize = 2 * SIDE;
/// Columns of the rectangle: two tile registers.
pub(super) const NR: usize = 2 * SIDE;
/// Words of the inner dimension that a product of tile registers takes, which lie side by side in the rows of a.
pub(super) const STEP: usize = super::PAIRS;

/// Whether the processor multiplies tiles of bf16 and the system lets this process use their registers.
pub(super) fn there() -> bool {
    static THERE: LazyLock<bool> = LazyLock::new(|| offered() && granted());
    *THERE
}

/// CPUID's word on AMX-TILE and AMX-BF16, and XCR0's on the system's part: saving the registers.
fn offered() -> bool {
    use std::arch::x86_64::_xgetbv;
    #[target_feature(enable = "xsave")]
    fn enabled() -> u64 {
        // SAFETY: the processor has XGETBV and the system allows it: OSXSAVE, checked by the caller.
        unsafe { _xgetbv(0) }
    }
    /// Bits of CPUID 1, ECX: XSAVE and OSXSAVE.
    const XSAVE: u32 = 0b11 << 26;
    /// Bits of CPUID 7, EDX: AMX-BF16 and AMX-TILE.
    const TILES: u32 = 1 << 22 | 1 << 24;
    /// Bits of XCR0: XTILECFG and XTILEDATA.
    const STATE: u64 = 0b11 << 17;
    if cpuid(0).eax < 7 || cpuid(1).ecx & XSAVE != XSAVE || cpuid(7).edx & TILES != TILES {
        return false;
    }
    // SAFETY: the processor has XSAVE, checked above.
    unsafe { enabled() & STATE == STATE }
}

/// Asks Linux for the tile registers, which it hands to a process only on request (arch_prctl(2), x86/xstate.rst).
#[cfg(target_os = "linux")]
fn granted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XTILEDATA: libc::c_long = 18;
    // SAFETY: the call reads no memory of ours; all threads of the process, later ones too, get the permission.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
}

/// Elsewhere nobody has tried it.
#[cfg(not(target_os = "linux"))]
fn granted() -> bool {
    false
}

/// What `ldtilecfg` reads: palette 1, and of each register the bytes of a row and the rows.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// All eight registers whole.
static WHOLE: Configuration = {
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    let mut register = 0;
    while register < 8 {
        (row_bytes[register], rows[register]) = (4 * SIDE as u16, SIDE as u8);
        register += 1;
    }
    Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
};

thread_local! {
    /// How many [`Configured`] live on this thread.
    static LIVING: Cell<usize> = const { Cell::new(0) };
}

/// While one lives, the tile registers of its thread are configured. To configure and to release them took 75 ns on
/// an Emerald Rapids, as long as a dozen `tdpbf16ps`; who calls a kernel often holds one.
pub(super) struct Configured(
    /// It belongs to its thread.
    PhantomData<*const ()>,
);

impl Configured {
    /// Panics where there are no tile registers.
    #[inline]
    pub fn new() -> Self {
        LIVING.with(|living| {
            if living.get() == 0 {
                assert!(there(), "a processor without tile registers");
                // SAFETY: the processor has the instruction and the process the permission, asserted above; the memory
                // is a valid configuration.
                unsafe {
                    asm!(
                        "ldtilecfg [{}]", in(reg) &WHOLE,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, readonly, preserves_flags)
                    );
                }
            }
            living.set(living.get() + 1);
        });
        Configured(PhantomData)
    }
}

impl Drop for Configured {
    #[inline]
    fn drop(&mut self) {
        LIVING.with(|living| {
            living.set(living.get() - 1);
            if living.get() == 0 {
                // SAFETY: registers that are in use were configured by `new`, so the instruction is there.
                unsafe {
                    asm!(
                        "tilerelease",
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, nomem, preserves_flags)
                    );
                }
            }
        });
    }
}

/// The whole rectangle: four registers of sums, two of a and two of b.
///
/// # Safety
/// See [`super::Run`]; k is a multiple of PARTS times [`STEP`], and the words of a row of a lie side by side.
pub(super) unsafe fn run<const PARTS: usize>(work: &Work) {
    // SAFETY: the caller's promise.
    unsafe { scaled::<MR, PARTS>(work) }
}

/// The upper sixteen rows of the rectangle alone.
///
/// # Safety
/// As [`run`], of half as many rows of a and of c.
pub(super) unsafe fn run_upper<const PARTS: usize>(work: &Work) {
    // SAFETY: the caller's promise.
    unsafe { scaled::<SIDE, PARTS>(work) }
}

/// [`sums`] on the output itself, or, where they are to be multiplied first, on room beside it.
///
/// # Safety
/// As [`run`] or [`run_upper`], whichever has so many ROWS.
#[inline(always)]
unsafe fn scaled<const ROWS: usize, const PARTS: usize>(work: &Work) {
    let _configured = Configured::new();
    let Work { c, c_row, alpha, add, .. } = *work;
    if alpha == 1.0 {
        // SAFETY: the caller's promise; the registers are configured.
        return unsafe { sums::<ROWS, PARTS>(work) };
    }
    let mut room = [[0.0f32; NR]; ROWS];
    let beside = Work { c: room.as_flattened_mut().as_mut_ptr(), c_row: NR, add: false, ..*work };
    // SAFETY: as above; `room` holds ROWS rows of NR elements.
    unsafe { sums::<ROWS, PARTS>(&beside) };
    for (i, sums) in room.iter().enumerate() {
        // SAFETY: the caller's promise.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(i * c_row), NR) };
        for (c, &sum) in c.iter_mut().zip(sums) {
            *c = if add { *c + alpha * sum } else { alpha * sum };
        }
    }
}

/// Text for the whole rectangle alone.
macro_rules! whole {
    ($($text:expr),*) => { concat!("\n.if {rows} == 32\n", $($text, "\n",)* ".endif\n") };
}

/// Asks the first cache for a line of four rows of a from `ahead` on, which moves to the four below. Such questions, for both operands
/// between the loads and the products, took 14 to 27 % off a step of training or inference on an Emerald Rapids with runs of 24 steps; in
/// one place they did little.
macro_rules! ask_rows {
    () => {
        "prefetcht0 [{ahead}]
        prefetcht0 [{ahead} + {a_row}]
        prefetcht0 [{ahead} + 2*{a_row}]
        prefetcht0 [{ahead} + {a_row_3}]
        lea {ahead}, [{ahead} + 4*{a_row}]\n"
    };
}

/// Asks the first cache for four lines of b from so many bytes on.
macro_rules! ask_lines {
    ($first:expr) => {
        concat!(".irp line, 0, 64, 128, 192\nprefetcht0 [{b} + ", $first, " + \\line]\n.endr\n")
    };
}

/// Asks the second cache for two lines of what is read soon.
macro_rules! ask_next {
    ($first:expr) => {
        concat!("prefetcht1 [{next} + ", $first, "]\nprefetcht1 [{next} + ", $first, " + 64]\n")
    };
}

/// The step of operands in one part. The next one's lines lie 64 bytes on in a; those of b stay in the first cache where a panel serves
/// several strips.
macro_rules! step {
    () => {
        concat!(
            "lea {ahead}, [{a} + 64]\n",
            "tileloadd tmm4, [{a} + {a_row}]\n",
            ask_rows!(),
            "tileloadd tmm6, [{b} + {b_row}]\n",
            ask_rows!(),
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            ask_rows!(),
            ask_next!("0"),
            "tileloadd tmm7, [{b} + {b_row} + 64]\n",
            ask_rows!(),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            ask_next!("128"),
            whole!(
                ask_rows!(),
                "tileloadd tmm5, [{a_low} + {a_row}]",
                ask_rows!(),
                "tdpbf16ps tmm2, tmm5, tmm6",
                ask_rows!(),
                "tdpbf16ps tmm3, tmm5, tmm7",
                ask_rows!()
            ),
            "add {next}, 256\n",
        )
    };
}

/// The rows of a part of a, so many bytes from the first one's.
macro_rules! load_a {
    ($at:literal) => {
        concat!(
            "tileloadd tmm4, [{a} + {a_row} + ",
            $at,
            "]\n",
            whole!(concat!("tileloadd tmm5, [{a_low} + {a_row} + ", $at, "]"))
        )
    };
}

/// The columns of a part of b, so many bytes from the first one's.
macro_rules! load_b {
    ($at:literal) => {
        concat!("tileloadd tmm6, [{b} + {b_row} + ", $at, "]\n", "tileloadd tmm7, [{b} + {b_row} + ", $at, " + 64]\n")
    };
}

/// The products of the parts at hand, and a sixth of the questions for the next step and for what is read soon: `$turn` says which
/// sixth, from 0, `$rows` are those for four rows of a.
macro_rules! products {
    ($turn:literal, $rows:expr) => {
        concat!(
            "tdpbf16ps tmm0, tmm4, tmm6\n",
            $rows,
            ask_lines!(concat!("6144 + 1024*", $turn)),
            "tdpbf16ps tmm1, tmm4, tmm7\n",
            $rows,
            ask_lines!(concat!("6400 + 1024*", $turn)),
            whole!("tdpbf16ps tmm2, tmm5, tmm6"),
            $rows,
            ask_lines!(concat!("6656 + 1024*", $turn)),
            whole!("tdpbf16ps tmm3, tmm5, tmm7"),
            $rows,
            ask_lines!(concat!("6912 + 1024*", $turn)),
            ask_next!(concat!("192*", $turn)),
            "prefetcht1 [{next} + 192*",
            $turn,
            " + 128]\n"
        )
    };
}

/// The step of operands in three parts: the largest product last, the others in an order that loads little. The parts of a lie 64
/// bytes apart, those of b 2 KiB. Of what is read soon so much is asked for that six rectangles ask for a whole panel.
macro_rules! step_of_three {
    () => {
        concat!(
            "lea {ahead}, [{a} + 192]\n",
            load_a!("128"),
            load_b!("0"),
            products!("0", ask_rows!()),
            load_a!("64"),
            products!("1", whole!(ask_rows!())),
            "lea {ahead}, [{a} + 256]\n",
            load_b!("2048"),
            products!("2", ask_rows!()),
            load_a!("0"),
            products!("3", whole!(ask_rows!())),
            "lea {ahead}, [{a} + 320]\n",
            load_b!("4096"),
            products!("4", ask_rows!()),
            load_b!("0"),
            products!("5", whole!(ask_rows!())),
            "add {next}, 1152\n",
        )
    };
}

/// The sums of ROWS rows.
///
/// # Safety
/// As [`run`] or [`run_upper`], whichever has so many; the registers are configured.
#[inline]
unsafe fn sums<const ROWS: usize, const PARTS: usize>(work: &Work) {
    const { assert!((ROWS == MR || ROWS == SIDE) && (PARTS == 1 || PARTS == 3) && STEP == SIDE) };
    let Work { k, a, a_row, b, next, c, c_row, add, .. } = *work;
    // SAFETY: by the caller's promise rows of a hold k words, b holds k rows of NR, c reaches ROWS rows of NR elements; each load
    // and each store covers sixteen rows of sixteen of those. What is prefetched may be any address.
    unsafe {
        asm!(
            "test {add:e}, {add:e}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            whole!("tilezero tmm2", "tilezero tmm3"),
            "jmp 4f",
            "3:",
            "tileloadd tmm0, [{c} + {c_row}]",
            "tileloadd tmm1, [{c} + {c_row} + 64]",
            whole!("tileloadd tmm2, [{c_low} + {c_row}]", "tileloadd tmm3, [{c_low} + {c_row} + 64]"),
            "4:",
            "test {steps}, {steps}",
            "jz 5f",
            "2:",
            ".if {parts} == 1",
            step!(),
            ".else",
            step_of_three!(),
            ".endif",
            "add {a}, 64*{parts}",
            "add {a_low}, 64*{parts}",
            "add {b}, 2048*{parts}",
            "dec {steps}",
            "jnz 2b",
            "5:",
            "tilestored [{c} + {c_row}], tmm0",
            "tilestored [{c} + {c_row} + 64], tmm1",
            whole!("tilestored [{c_low} + {c_row}], tmm2", "tilestored [{c_low} + {c_row} + 64], tmm3"),
            rows = const ROWS,
            parts = const PARTS,
            add = in(reg) u32::from(add),
            steps = inout(reg) k / (PARTS * STEP) => _,
            a = inout(reg) a => _,
            a_low = inout(reg) a.wrapping_add(SIDE * a_row) => _,
            a_row = in(reg) 4 * a_row,
            a_row_3 = in(reg) 12 * a_row,
            ahead = out(reg) _,
            b = inout(reg) b => _,
            b_row = in(reg) 4 * NR,
            next = inout(reg) next => _,
            c = in(reg) c,
            c_low = in(reg) c.wrapping_add(SIDE * c_row),
            c_row = in(reg) 4 * c_row,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
