"""Is an answer of ``nnseg serve`` lost or given twice under load, and does its memory grow?

    python benchmarks/load_serve.py [--requests 500] [--clients 8] [--model demo]

Clients send small scans, each with the label map that it must get. Every tenth client is a process of its own that is killed
while it sends or waits. Then the server's counts must agree with those of the clients, its folder must be empty, and its memory is
compared.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from queue import Empty, Queue

import httpx
import nibabel as nib
import numpy as np
import psutil

SCANS = 20
"""Different scans."""

KILLED = """
import socket, sys, time
body = open(sys.argv[2], "rb").read()
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
head = f"POST /predict?suffix=.zip HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n".encode()
connection.sendall(head + body[: int(len(body) * float(sys.argv[3]))])
print("sent", flush=True)
time.sleep(1000)
"""
"""A client that sends a share of a scan, and is killed."""


def write_scans(folder: Path) -> list[Path]:
    """Small scans with balls at different places."""
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"))
    files = []
    for number in range(SCANS):
        draw = np.random.default_rng(number)
        centre = draw.uniform(7, 17, 3)[:, None, None, None]
        image = 100.0 * (((grid - centre) ** 2).sum(0) < draw.uniform(9, 36)) + draw.normal(100, 10, grid.shape[1:])
        with zipfile.ZipFile(folder / f"{number}.zip", "w") as archive:  # the demonstration's model takes two channels
            for channel in range(2):
                scan = nib.Nifti1Image((image * (1 + channel)).astype(np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
                archive.writestr(f"scan_{channel:04d}.nii", scan.to_bytes())
        files.append(folder / f"{number}.zip")
    return files


def digest(answer: bytes) -> str:
    return hashlib.sha256(gzip.decompress(answer)).hexdigest()


class Load:
    """The clients, with what they were answered."""

    def __init__(self, url: str, files: list[Path], requests: int) -> None:
        self.url, self.files = url, files
        self.numbers: Queue[int] = Queue()
        for number in range(requests):
            self.numbers.put(number)
        self.outcomes: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()
        self.expected = [digest(self.ask(client, file)) for client in [httpx.Client(timeout=600)] for file in files]

    def ask(self, client: httpx.Client, file: Path) -> bytes:
        while True:
            answer = client.post(f"{self.url}/predict", params={"suffix": ".zip"}, content=file.read_bytes())
            if answer.status_code != 503:
                return answer.raise_for_status().content
            self.outcomes["refused, offered again"] += 1
            time.sleep(0.5)

    def kill_one(self, number: int) -> None:
        """Send a half or a whole scan from a process, and kill it a moment later."""
        share = 0.5 if number % 20 < 10 else 1.0
        file = self.files[number % SCANS]
        command = [sys.executable, "-S", "-c", KILLED, self.url.rpartition(":")[2], str(file), str(share)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            assert client.stdout
            client.stdout.readline()
            time.sleep(random.Random(number).uniform(0.0, 0.2))
            client.kill()
        self.outcomes[f"killed {'while it sent' if share < 1 else 'while it waited'}"] += 1

    def work(self) -> None:
        with httpx.Client(timeout=600) as client:
            while True:
                try:
                    number = self.numbers.get_nowait()
                except Empty:
                    return
                if number % 10 == 9:
                    self.kill_one(number)
                    continue
                right = digest(self.ask(client, self.files[number % SCANS])) == self.expected[number % SCANS]
                self.outcomes["right" if right else "WRONG"] += 1
                self.answered[number] += 1


def memory_mb(server: psutil.Process) -> tuple[float, float]:
    """RAM of the server, and of the processes of its model."""
    children = sum(child.memory_info().rss for child in server.children(recursive=True))
    return server.memory_info().rss / 1e6, children / 1e6


def counts(url: str) -> dict[str, int]:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    return {key: int(value) for key, value in re.findall(r'(?:outcome|state)="(\w+)"} (\d+)', text)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--model", default="demo")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = write_scans(place)
        (place / "tmp").mkdir()
        command = [sys.executable, "-m", "nnseg", "serve", "--model", chosen.model, "--port", "0", "--fast", "--queue", "6", "-q"]
        environment = os.environ | {"TMPDIR": str(place / "tmp")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout
            url, server = process.stdout.readline().split()[-1], psutil.Process(process.pid)
            load = Load(url, files, chosen.requests)
            threads = [threading.Thread(target=load.work) for _ in range(chosen.clients)]
            start, samples = time.perf_counter(), [memory_mb(server)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(2)
                samples.append(memory_mb(server))
            seconds = time.perf_counter() - start
            while (left := counts(url))["waiting"] + left["predicting"]:
                time.sleep(0.2)
            remaining = [path for path in (place / "tmp").rglob("*") if path.is_file()]
            process.terminate()
            process.wait(60)
    print(dict(load.outcomes), f"{seconds:.1f} s")
    print("server:", left, "files left:", len(remaining))
    print("answered twice:", sum(count > 1 for count in load.answered.values()), "never:",
          sum(not load.answered[number] for number in range(chosen.requests) if number % 10 != 9))  # fmt: skip
    for what, values in zip(("server", "model"), zip(*samples, strict=True), strict=True):
        quarter = max(1, len(values) // 4)
        early, late = np.median(values[quarter : 2 * quarter]), np.median(values[-quarter:])
        print(
            f"{what}: {values[0]:.0f} MB at first, {early:.0f} in the 2nd quarter, {late:.0f} in the last; peak {max(values):.0f}"
        )


if __name__ == "__main__":
    main()
