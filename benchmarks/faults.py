"""Does each command survive faults? Each call that changes a file fails once; random processes are killed; each file is damaged.

    python benchmarks/faults.py [--commands run,predict] [--kinds killed,"no space"] [--every 1] [--kills 200] [--damage 6]

Needs Linux and a C compiler. What must hold, as `tests/faults.py` checks it: a file under its final name is complete, nothing
complete is lost, the same command then gives the same result, nothing hangs, and a failure names its cause in the last line and
exits non-zero.
Prints tables for RESULTS.md; exit code 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import faults

READ_BY = {"run/": "run again", "out/": "predict again", "balls/": "run", "recipe.toml": "run", faults.NNUNET: "import"}
"""Beginnings of paths, and the command that reads what is damaged there."""


def main() -> int:
    """Inject all faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(faults.COMMANDS))
    parser.add_argument("--kinds", default=",".join(faults.KINDS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th call")
    parser.add_argument("--kills", type=int, default=0, help="processes killed at random moments")
    parser.add_argument("--damage", type=int, default=0, help="times that each file is damaged in each way")
    parser.add_argument("--log", type=Path, default=Path("faults.log"), help="file for all that is wrong")
    options = parser.parse_args()
    with faults.rig() as rig, options.log.open("a") as log:
        wrong = _calls(rig, [c for c in options.commands.split(",") if c], options.kinds.split(","), options.every, log)
        wrong += _kills(rig, options.kills, log) if options.kills else 0
        wrong += _damages(rig, options.damage, log) if options.damage else 0
    return int(wrong > 0)


def _calls(rig: faults.Rig, commands: Iterable[str], kinds: list[str], every: int, log: TextIO) -> int:
    """Let each call fail; the number of those after which something does not hold."""
    print("faults injected (of which something did not hold) at the calls that open, write, sync, rename or remove a file")
    print(f"\n| command | calls | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}", flush=True)
    total = Counter()
    for name in commands:
        cells = []
        for kind in kinds:
            done = bad = 0
            for at in range(1 + (every > 1) * (sum(map(ord, name + kind)) % every), rig.reference(name).count(kind) + 1, every):
                ended, wrong = rig.disturb(name, kind, at)
                done += ended.reached
                bad += bool(wrong)
                for what in wrong:
                    print(f"{name}, {kind} at call {at}: {what}", file=log, flush=True)
            cells.append(f"{done} ({bad})")
            total[kind] += done
            total["wrong"] += bad
        print(f"| {name} | {len(rig.reference(name).calls)} | {' | '.join(cells)} |", flush=True)
    print(f"| all | | {' | '.join(str(total[kind]) for kind in kinds)} |\n", flush=True)
    return total["wrong"]


def _kills(rig: faults.Rig, count: int, log: TextIO) -> int:
    """Kill a process of commands at random moments."""
    found: Counter[str] = Counter()
    writing = [name for name in faults.COMMANDS if name not in ("check", "card")]
    for seed in range(count):
        chance = random.Random(seed)
        name = chance.choice(writing)
        ended, wrong = rig.kill(name, chance)
        found["killed" if ended.code == -9 else "went on without the killed process, or had ended"] += 1
        found["wrong"] += bool(wrong)
        for what in wrong:
            print(f"kill {seed}, {name}: {what}", file=log, flush=True)
    print(f"{count} processes killed at random moments: {dict(found)}\n", flush=True)
    return found["wrong"]


def _damages(rig: faults.Rig, count: int, log: TextIO) -> int:
    """Damage each file of a finished run, of predictions, of the dataset and of nnU-Net's model."""
    print("| file | command | damaged | refused by name | no other result | wrong |\n|---|---|---|---|---|---|")
    total = 0
    for path in sorted(faults.hashes(rig.state("done"))):
        name = next((READ_BY[start] for start in READ_BY if path.startswith(start)), "")
        if not name or not (rig.state(faults.COMMANDS[name].state) / path).stat().st_size:
            continue
        found: Counter[str] = Counter()
        for how in faults.DAMAGE:
            for seed in range(count):
                became = rig.damage(path, how, name, random.Random(seed))
                found["?" if "?" in became else became] += 1
                if "?" in became:
                    print(f"{path}, {how} {seed}, {name}: {became}", file=log, flush=True)
        total += found["?"]
        print(
            f"| {path} | {name} | {sum(found.values())} | {found['refused']} | {found['no other result']} | {found['?']} |",
            flush=True,
        )
    return total


if __name__ == "__main__":
    sys.exit(main())
