"""What it costs to hand out items on a cluster, and whether each is done once while processes are killed; items are no work.

    python benchmarks/million.py 100000 [--kills 0.05] [--milliseconds 0] [--cores 2] [--batch 1000]

Processes that work are killed, as many in the end as the share ``--kills`` of all batches. A time in milliseconds makes each
item wait as a network of that speed would. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from collections.abc import Iterator

import psutil
import ray

from nnseg.system import cluster
from nnseg.system.parallel import map_items

WORKER = "ray::_Applier"
"""How Ray names the processes that work."""


def workers() -> Iterator[int]:
    """The numbers of the processes that work."""
    for process in psutil.process_iter(["cmdline"]):
        if any(WORKER in word for word in process.info["cmdline"] or ()):
            yield process.pid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", type=int)
    parser.add_argument("--kills", type=float, default=0.05)
    parser.add_argument("--milliseconds", type=float, default=0.0)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--batch", type=int, default=cluster.MOST_IN_BATCH)
    given = parser.parse_args()
    cluster.MOST_IN_BATCH = given.batch
    cluster.default_workers = lambda: given.cores  # type: ignore[assignment]
    seconds = given.milliseconds / 1000

    def work(number: int) -> int:
        if seconds:
            time.sleep(seconds)
        return number * 3

    every = max(1, round(given.batch / given.kills)) if given.kills else 0
    seen, killed, memory = bytearray(given.items), 0, []
    with cluster.computed_on("local"):
        start = first = time.perf_counter()
        for done, outcome in enumerate(map_items(work, range(given.items), workers=1), start=1):
            if done == 1:
                first = time.perf_counter()
            assert outcome.reason is None, outcome
            assert outcome.result == outcome.item * 3
            seen[outcome.item] += 1
            if every and done % every == 0 and (pids := list(workers())):
                os.kill(pids[killed % len(pids)], signal.SIGKILL)
                killed += 1
            if done % max(1, given.items // 10) == 0:
                memory.append(round(psutil.Process().memory_info().rss / 1e6, 1))
        took = time.perf_counter() - first
    result = {
        "items": given.items, "lost": seen.count(0), "doubled": sum(count > 1 for count in seen), "killed": killed,
        "start_s": round(first - start, 2), "seconds": round(took, 2), "us_an_item": round(took / given.items * 1e6, 1),
        "driver_mb": memory, "ray": ray.__version__, **vars(given),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
