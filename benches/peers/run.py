"""Times dynavit beside its rivals in one sitting, turn by turn, and prints the ratios of the medians.

    python benches/peers/run.py --binary target/release/dynavit --cases infer:70,infer:100,train:70 --output RESULTS

Each program is a worker that stays alive: at each newline on its stdin it does one step and answers with its seconds
(`dynavit bench --turns`). The machine must be otherwise idle. What the rivals need is in requirements.txt beside this
file; candle is built with `cargo build --release` in candle_vit.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
WORKERS = {
    "torch-f32": [sys.executable, str(HERE / "torch_vit.py"), "f32"],
    "torch-bf16": [sys.executable, str(HERE / "torch_vit.py"), "bf16"],
    "openvino-f32": [sys.executable, str(HERE / "onnx_vit.py"), "openvino-f32"],
    "openvino-bf16": [sys.executable, str(HERE / "onnx_vit.py"), "openvino-bf16"],
    "onnxruntime-f32": [sys.executable, str(HERE / "onnx_vit.py"), "onnxruntime-f32"],
    "candle-f32": [str(HERE / "candle_vit/target/release/candle_vit")],
}


class Worker:
    """A program that does a step when asked."""

    def __init__(self, engine, case, args):
        mode, keep = case
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
        sizes = [str(args.batch_size), str(args.threads)]
        if engine.startswith("dynavit-"):
            command = [args.binary, "bench", mode, "--model", args.model, "--keep", keep, "--turns"]
            command += ["--batch-size", sizes[0], "--threads", sizes[1], "--precision", engine.removeprefix("dynavit-")]
        else:
            command = WORKERS[engine] + [mode, args.model, keep, *sizes]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
        except (FileNotFoundError, PermissionError) as error:
            ours = engine.startswith("dynavit-")
            remedy = "build it, or name it with --binary" if ours else "run cargo build --release in candle_vit"
            raise SystemExit(f"error: {command[0]}: {error.strerror}; {remedy}") from None
        self.version = self.process.stdout.readline().strip()
        if not self.version:
            raise SystemExit(f"error: {' '.join(command)} did not start; see its message above")

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"error: {self.version} stopped; see its message above")
        return float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def processor():
    """The name that the system gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    return f"{fields.get('model name', '?')}, family {fields.get('cpu family', '?')}, model {fields.get('model', '?')}"


def measure(case, engines, args):
    """Seconds of every engine's timed steps, and its version."""
    running = {engine: Worker(engine, case, args) for engine in engines}
    for engine in running.values():
        engine.step()
    seconds = {engine: [] for engine in engines}
    for _ in range(args.rounds):
        for name, engine in running.items():
            # A program's threads may spin for a while after their step.
            time.sleep(args.pause)
            seconds[name].append(sum(engine.step() for _ in range(args.steps)) / args.steps)
    for engine in running.values():
        engine.close()
    return seconds, {name: engine.version for name, engine in running.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/dynavit", help="the dynavit to time")
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--cases", default="infer:70,infer:100,train:70,train:100", help="mode:K, comma-separated")
    parser.add_argument("--infer", default="dynavit-f32,torch-f32,openvino-f32", help="engines of the infer cases")
    parser.add_argument("--train", default="dynavit-f32,torch-f32", help="engines of the train cases")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn; its time is their mean")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between turns")
    parser.add_argument("--output", type=Path, help="folder for results.json and results.md")
    args = parser.parse_args()

    report = {"command": sys.argv, "processor": processor(), "threads": args.threads, "cases": []}
    lines = [f"{processor()}; {args.threads} threads; {args.model}, batch {args.batch_size}", ""]
    lines += ["| case | engine | images/s, median (least to most) | ours over it |", "|---|---|---|---|"]
    for text in args.cases.split(","):
        mode, keep = text.split(":")
        engines = (args.infer if mode == "infer" else args.train).split(",")
        seconds, versions = measure((mode, keep), engines, args)
        rate = lambda t: args.batch_size / t
        base = statistics.median(seconds[engines[0]])
        for engine in engines:
            times = seconds[engine]
            median = statistics.median(times)
            spread = f"{rate(median):.2f} ({rate(max(times)):.2f} to {rate(min(times)):.2f})"
            lines.append(f"| {mode} K={keep} | {versions[engine]} | {spread} | {median / base:.2f} |")
        report["cases"].append({"mode": mode, "keep": keep, "seconds": seconds, "versions": versions})
        print("\n".join(lines[-len(engines):]), flush=True)
        # Saved case by case: an hour's sitting that is broken off keeps what it has.
        if args.output:
            args.output.mkdir(parents=True, exist_ok=True)
            (args.output / "results.json").write_text(json.dumps(report, indent=1) + "\n")
            (args.output / "results.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
