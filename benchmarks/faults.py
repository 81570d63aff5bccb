"""Does each command survive faults? Each call that changes a file fails once; random processes are killed; each file is damaged.

    python benchmarks/faults.py [--commands run,predict] [--kinds killed,...] [--every 1] [--places] [--kills 200] [--damage 6]

Needs Linux and a C compiler. What must hold, as `tests/faults.py` checks it: a file under its final name is complete, nothing
complete is lost, the same command then gives the same result, nothing hangs, and a failure names its cause in the last line and
exits non-zero.
Prints tables for RESULTS.md; exit code 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import faults

READS = {
    "run again": ("run/",),
    "distill again": ("run/distilled/",),
    "predict again": ("out/",),
    "run": ("balls/", "recipe.toml"),
    "import": (faults.NNUNET,),
    "check": ("balls/",),
    "distill": ("run/",),
    "predict": ("run/",),
    "evaluate": ("out/", "balls/labelsTr/"),
    "compare": ("run/scores.json",),
    "report": ("run/", "balls/"),
    "report of predictions": ("out/", "balls/"),
    "figure": ("run/", "balls/"),
    "export": ("run/",),
    "card": ("run/model.nnseg",),
    "verify": ("run/",),
    "audit": ("run/", "balls/"),
    "validate": ("run/", "others/"),
}
"""Commands, and beginnings of the paths that are damaged before them."""

Fault = tuple[str | int, ...]


class Record:
    """What became of each fault, in a file with a line of JSON for each, so that a command that was interrupted goes on.

    Args:
        file: may exist.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self._known: dict[Fault, list[str]] = {tuple(fault): became for fault, became in map(json.loads, lines)}

    def of(self, fault: Fault, inject: Callable[[], list[str]]) -> list[str]:
        """What became of a fault: from the file, or now."""
        if fault not in self._known:
            self._known[fault] = inject()
            with self._file.open("a") as file:
                print(json.dumps([fault, self._known[fault]]), file=file)
        return self._known[fault]


def main() -> int:
    """Inject all faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", default=",".join(faults.COMMANDS))
    parser.add_argument("--kinds", default=",".join(faults.KINDS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th call, and every n-th damage")
    parser.add_argument(
        "--places", action="store_true", help="of the calls only the first and the last from each place in the code"
    )
    parser.add_argument("--kills", type=int, default=0, help="processes killed at random moments")
    parser.add_argument("--damage", type=int, default=0, help="times that each file is damaged in each way")
    parser.add_argument("--record", type=Path, default=Path("faults.jsonl"), help="what became of each fault; repeated, it goes on")
    options = parser.parse_args()
    record = Record(options.record)
    with faults.rig() as rig:
        wrong = _calls(rig, [c for c in options.commands.split(",") if c], options.kinds.split(","), record, options)
        wrong += _kills(rig, options.kills, record) if options.kills else 0
        wrong += _damages(rig, options.damage, options.every, record) if options.damage else 0
    return int(wrong > 0)


def _calls(rig: faults.Rig, commands: Iterable[str], kinds: list[str], record: Record, options: argparse.Namespace) -> int:
    """Let each call fail; the number of those after which something does not hold."""
    print("faults injected (of which something did not hold) at the calls that open, write, sync, rename or remove a file")
    print(f"\n| command | calls | {' | '.join(kinds)} |\n|---|---|{'---|' * len(kinds)}", flush=True)
    total = Counter()
    for name in commands:
        cells = []
        for kind in kinds:
            done = bad = 0
            for at in _numbers(rig.reference(name), kind, options, seed=name + kind):
                became = record.of((name, kind, at), partial(_disturb, rig, name, kind, at))
                done += became != [NOT_REACHED]
                bad += became not in ([], [NOT_REACHED])
            cells.append(f"{done} ({bad})")
            total[kind] += done
            total["wrong"] += bad
        print(f"| {name} | {len(rig.reference(name).calls)} | {' | '.join(cells)} |", flush=True)
    print(f"| all | | {' | '.join(str(total[kind]) for kind in kinds)} |\n", flush=True)
    return total["wrong"]


def _numbers(reference: faults.Reference, kind: str, options: argparse.Namespace, *, seed: str) -> Iterable[int]:
    """Numbers of the calls that are to fail."""
    if options.places:
        return reference.places(kind)
    first = (options.every > 1) * (sum(map(ord, seed)) % options.every)
    return range(1 + first, reference.count(kind) + 1, options.every)


NOT_REACHED = "the call was not made"


def _disturb(rig: faults.Rig, name: str, kind: str, at: int) -> list[str]:
    """What does not hold after a call has failed."""
    ended, wrong = rig.disturb(name, kind, at)
    return wrong if ended.reached or wrong else [NOT_REACHED]


def _kills(rig: faults.Rig, count: int, record: Record) -> int:
    """Kill a process of commands at random moments."""
    found: Counter[str] = Counter()
    writing = [name for name in faults.COMMANDS if name not in ("check", "card", "verify")]
    for seed in range(count):
        outcome, *wrong = record.of(("kill", seed), partial(_kill, rig, writing, seed))
        found[outcome] += 1
        found["wrong"] += bool(wrong)
    print(f"{count} processes killed at random moments: {dict(found)}\n", flush=True)
    return found["wrong"]


def _kill(rig: faults.Rig, names: Sequence[str], seed: int) -> list[str]:
    """How a command ended of which a process was killed, and what does not hold then."""
    chance = random.Random(seed)
    name = chance.choice(names)
    ended, wrong = rig.kill(name, chance)
    outcome = "killed" if ended.code == -9 else "went on without the killed process, or had ended"
    return [outcome, *(f"{name}: {what}" for what in wrong)]


def _damages(rig: faults.Rig, count: int, every: int, record: Record) -> int:
    """Damage each file of a finished run, of predictions, of the dataset and of nnU-Net's model."""
    print("| command | files | damaged | refused by name | no other result | wrong |\n|---|---|---|---|---|---|")
    total = 0
    for name, beginnings in READS.items():
        folder = rig.state(faults.COMMANDS[name].state)
        paths = [p for p in sorted(faults.hashes(folder)) if p.startswith(beginnings) and (folder / p).stat().st_size]
        damages = [(p, how, seed) for p in paths for how in faults.DAMAGE for seed in range(1 if how == "unreadable" else count)]
        found: Counter[str] = Counter()
        for path, how, seed in damages[len(name) % every :: every]:
            (became,) = record.of((name, path, how, seed), partial(_damage, rig, path, how, name, seed))
            found["?" if "?" in became else became] += 1
        total += found["?"]
        counts = (len(paths), sum(found.values()), found["refused"], found["no other result"], found["?"])
        print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)
    return total


def _damage(rig: faults.Rig, path: str, how: str, name: str, seed: int) -> list[str]:
    return [rig.damage(path, how, name, random.Random(seed))]


if __name__ == "__main__":
    sys.exit(main())
