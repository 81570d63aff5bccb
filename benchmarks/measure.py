"""Wall-clock, processor time and peak memory of a command and all its children. One JSON line.

    python benchmarks/measure.py [-o OUT.json] [-l LOG] -- COMMAND ...

Memory is sampled: the sum of resident sets over the process tree counts shared pages once a process, the proportional sum (PSS,
Linux) shares them out. Needs psutil. The sampler itself is not counted.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil

MEGABYTE = 1e6


def main() -> int:
    """Measure the command given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path)
    parser.add_argument("-l", "--log", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    found = measure(command, options.log)
    line = json.dumps(found)
    print(line)
    if options.out:
        options.out.write_text(line + "\n")
    return int(found["exit_code"])


def measure(command: list[str], log: Path | None = None) -> dict[str, float]:
    """Run a command to its end and report what it took. Long runs are sampled less often: reading PSS costs processor time."""
    output = log.open("w") if log else subprocess.DEVNULL
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    tree, shared = 0, 0
    while process.poll() is None:
        resident, proportional = memory_of(process.pid)
        tree, shared = max(tree, resident), max(shared, proportional)
        try:
            process.wait(min(3.0, 0.2 + 0.02 * (time.monotonic() - start)))
        except subprocess.TimeoutExpired:
            continue
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "exit_code": process.returncode,
        "wall_s": round(time.monotonic() - start, 2),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "peak_tree_rss_mb": round(tree / MEGABYTE, 1),
        "peak_tree_pss_mb": round(shared / MEGABYTE, 1),
    }


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes held by a process and its children: resident sets, and shared pages divided among those that share them."""
    resident = proportional = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0, 0
    for process in processes:
        try:
            resident += process.memory_info().rss
            rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            proportional += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024
        except (psutil.Error, OSError, StopIteration):
            continue
    return resident, proportional


if __name__ == "__main__":
    sys.exit(main())
