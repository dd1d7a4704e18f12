"""Times the steps that follow a pause of a running `dynavit bench`: the first ones of ten pauses, by medians, in ms.

    python pause.py 0.3 target/release/dynavit bench infer --turns --keep 70 --batch-size 1 --threads 2 --precision bf16
"""
import statistics
import subprocess
import sys
import time

pause, command = float(sys.argv[1]), sys.argv[2:]
with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
    print(process.stdout.readline().strip())

    def step():
        process.stdin.write("\n")
        process.stdin.flush()
        return 1e3 * float(process.stdout.readline())

    for _ in range(5):
        step()
    turns = []
    for _ in range(10):
        time.sleep(pause)
        turns.append([step() for _ in range(3)])
    for number, times in enumerate(zip(*turns), 1):
        print(f"step {number} after a pause: {statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})")
