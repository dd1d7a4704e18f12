"""Compiles the kernels to the PTX that is committed, and assembles it for every chip; run it through build.sh."""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["ptx", "tests/kernels"]
NVCC = "13.0.88"
FLAGS = ["-O3", "-std=c++17", "-lineinfo", "--Werror", "all-warnings"]
# The ISA that the drivers of CUDA 11.8 know; the compiler stamps its own, newer one.
VERSION = "7.8"
# The PTX of a target runs on its own chip and on all later ones.
CHIPS = {75: [75, 80, 86, 89, 90], 80: [80, 86, 89, 90]}


def fail(message):
    sys.exit(f"ptx/build.sh: {message}")


def run(command):
    # The tools take their words from the locale, and macros from nowhere else than here.
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TMPDIR": tempfile.gettempdir()}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def sources(kernel):
    """The kernel's file and the headers it includes, directly or not, as paths from the root; the headers sorted."""
    found, waiting = set(), [kernel]
    while waiting:
        text = (ROOT / waiting[0]).read_text()
        folder = waiting.pop(0).parent
        for name in re.findall(r'^#include "(.*)"$', text, re.M):
            header = Path(os.path.normpath(folder / name))
            if header not in found:
                found.add(header)
                waiting.append(header)
    return [kernel, *sorted(found)]


def digest(files):
    """SHA-256 over each file's path, its length and its bytes; a test computes it again."""
    state = hashlib.sha256()
    for file in files:
        content = (ROOT / file).read_bytes()
        state.update(f"{file.as_posix()} {len(content)}\n".encode())
        state.update(content)
    return state.hexdigest()


def tidied(ptx, kernel):
    """Lowers the version, drops the debug sections, and lets each line of the kernel's own file stand for what it called."""
    ptx, count = re.subn(r"^\.version .*$", f".version {VERSION}", ptx, flags=re.M)
    own = [n for n, path in re.findall(r'^\s*\.file\s+(\d+) "(.*)"$', ptx, re.M) if Path(path) == ROOT / kernel]
    if count != 1 or len(own) != 1:
        fail(f"{kernel}: the compiler's output is not of the known form")
    own = own[0]
    lines, callers, last = [], {}, None
    for line in ptx.splitlines():
        if re.match(r"\s*\.section\s", line):
            break
        if re.match(r"\s*\.file\s", line) or re.match(r"//\s*\S* has been demoted$", line):
            continue
        place = re.match(r"\s*\.loc\s+(\d+ \d+ \d+)(?:, function_name \S+, inlined_at (\d+ \d+ \d+))?$", line)
        if not place:
            lines.append(line.rstrip())
            # A label may be reached from elsewhere: what follows it says anew where it is from.
            if line.startswith("$"):
                last = None
            continue
        here, caller = place.groups()
        callers[here] = caller
        while here is not None and here.split()[0] != own:
            here = callers.get(here)
        # Line 0 is nobody's.
        if here is not None and here.split()[1] != "0" and here.split()[1] != last:
            last = here.split()[1]
            lines.append("\t.loc 1 {1} {2}".format(*here.split()))
    body = "\n".join(lines).strip("\n")
    body = body.replace(".address_size 64\n", f'.address_size 64\n\n.file 1 "{kernel.as_posix()}"\n', 1)
    if str(ROOT) in body:
        fail(f"{kernel}: the PTX names a path of this machine")
    return re.sub(r"\n{3,}", "\n\n", body) + "\n"


def arguments(preprocessed):
    """The names of each entry's arguments, as C++ calls them: PTX keeps their places only."""
    entries = {}
    form = r'extern "C" __attribute__\(\(global\)\) void (?:__attribute__\(\(.*?\)\)\s*)?(\w+)\s*\(([^()]*)\)\s*\{'
    for name, inside in re.findall(form, re.sub(r"\s+", " ", re.sub(r"^#.*$", "", preprocessed, flags=re.M))):
        entries[name] = [re.search(r"(\w+)$", part.strip()).group(1) for part in inside.split(",")]
    return entries


def resources(report, kernel):
    """(registers, static shared bytes, spilled bytes) of each entry, from the assembler's report."""
    found = {}
    for part in report.split("Compiling entry function '")[1:]:
        entry = part.split("'")[0]
        registers = int(re.search(r"Used (\d+) registers", part).group(1))
        shared = re.search(r"(\d+) bytes smem", part)
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        stack = int(re.search(r"(\d+) bytes stack frame", part).group(1))
        if spills or stack:
            fail(f"{kernel}: {entry} keeps {max(spills, stack)} bytes of registers or arrays in memory")
        found[entry] = (registers, int(shared.group(1)) if shared else 0, spills)
    return found


def compile_kernel(tools, kernel, target, out, table):
    """Writes one PTX file and adds its rows to the table."""
    flags = [f"-arch=compute_{target}", *FLAGS]
    path = out / kernel.parent / f"{kernel.stem}.sm{target}.ptx"
    path.parent.mkdir(parents=True, exist_ok=True)
    run([tools / "nvcc", "-ptx", *flags, kernel, "-o", path])
    body = tidied(path.read_text(), kernel)
    names = arguments(run([tools / "nvcc", "-E", *flags, kernel]))
    entries = re.findall(r"^\.visible \.entry (\w+)\(", body, re.M)
    if sorted(entries) != sorted(names):
        fail(f"{kernel}: PTX has the entries {sorted(entries)}, the source {sorted(names)}")
    head = [f"// dynavit-ptx 1 sources={digest(sources(kernel))} nvcc={NVCC} flags={' '.join(flags)}"]
    path.write_text(body)
    for chip in CHIPS[target]:
        report = run([tools / "ptxas", f"-arch=sm_{chip}", "-v", path, "-o", out / "assembled"])
        for entry, (registers, shared, spill) in sorted(resources(report, kernel).items()):
            head.append(f"// resources {entry} sm_{chip} registers={registers} shared={shared} spill={spill}")
            if kernel.parent == Path("ptx"):
                table.setdefault((path.name, entry), {})[chip] = (registers, shared, spill)
    for entry in sorted(entries):
        head.append(f"// arguments {entry} {' '.join(names[entry])}")
    path.write_text("\n".join(head) + "\n" + body)
    (out / "assembled").unlink()
    return path.relative_to(out)


def resources_page(table):
    chips = CHIPS[75]
    lines = [
        "# What the kernels take of a multiprocessor",
        "",
        f"Registers a thread, as ptxas {NVCC} gives them out for each chip, static shared memory and spilled bytes.",
        "Written by `ptx/build.sh`; a driver's own assembler may differ by a few registers.",
        "",
        f"| file | entry | {' | '.join(f'sm_{chip}' for chip in chips)} | shared | spill |",
        f"|---|---|{'---|' * len(chips)}---|---|",
    ]
    for (file, entry), rows in sorted(table.items()):
        registers = [str(rows[chip][0]) if chip in rows else "-" for chip in chips]
        shared, spill = max(row[1] for row in rows.values()), max(row[2] for row in rows.values())
        lines.append(f"| {file} | {entry} | {' | '.join(registers)} | {shared} | {spill} |")
    return "\n".join(lines) + "\n"


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--tools", type=Path, required=True, help="folder of nvcc and ptxas")
    options.add_argument("--check", action="store_true", help="write nothing; fail when the committed files differ")
    options = options.parse_args()
    if f"V{NVCC}" not in run([options.tools / "nvcc", "--version"]):
        fail(f"{options.tools} holds another compiler than {NVCC}; remove that folder, or name another in DYNAVIT_NVCC")
    kernels = [file.relative_to(ROOT) for folder in FOLDERS for file in sorted((ROOT / folder).glob("*.cu"))]
    with tempfile.TemporaryDirectory() as scratch:
        scratch, table = Path(scratch), {}
        made = [compile_kernel(options.tools, kernel, target, scratch, table) for kernel in kernels for target in CHIPS]
        (scratch / "ptx/RESOURCES.md").write_text(resources_page(table))
        made.append(Path("ptx/RESOURCES.md"))
        there = {file.relative_to(ROOT) for folder in FOLDERS for file in (ROOT / folder).glob("*.ptx")}
        differ = sorted(there - set(made))
        for file in made:
            text = (scratch / file).read_text()
            if (ROOT / file).exists() and (ROOT / file).read_text() == text:
                continue
            differ.append(file)
            if not options.check:
                (ROOT / file).write_text(text)
        if not options.check:
            for file in there - set(made):
                (ROOT / file).unlink()
    for file in differ:
        print(f"{'differs' if options.check else 'written'}: {file}")
    if differ and options.check:
        fail("the committed PTX is not what the sources give; run ptx/build.sh")


main()
