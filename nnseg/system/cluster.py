"""`connected`: the machines of a Ray cluster, with what `launch` and `outcomes_of_children` are on one machine.

Ray is imported here alone, once a cluster is asked for. No file is sent: all machines see the same folders by the same paths, and
have the same version of nnseg. A machine may be lost and others may come at any time.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Generic, Self, TypeVar, cast

from nnseg.core.errors import NnsegError, RunError
from nnseg.core.processors import default_workers
from nnseg.system.activity import TIMEOUT_VARIABLE, time_limit
from nnseg.system.extras import check_extra
from nnseg.system.isolation import Outcome, outcome_of, use_one_thread
from nnseg.system.parallel import computed_by
from nnseg.system.process import EndSignal, end_with, launch

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

LOCAL = "local"
"""The address of a cluster that is started on this machine, and ended with the command."""

OBJECT_STORE = 200 * 2**20
"""Bytes of shared memory for a local cluster: what is sent are names, settings and numbers, not images."""

MAX_ATTEMPTS = 3
"""Processes that an item may end, or be lost with, before it is set aside."""

LOST = 255
"""The exit code of a process that was lost with its machine."""

BATCH_SECONDS, MOST_IN_BATCH = 1.0, 1000
"""Work that is sent to a process at a time: to send it takes about a millisecond (benchmarks/RESULTS.md)."""

AHEAD = 2
"""Batches that a process has at a time: the one that it works on, and the next."""

POLL_INTERVAL = 0.5
"""Seconds between two checks whether an item takes too long."""

ANSWER_SECONDS = 10.0
"""For an answer about a process on another machine, besides what the question itself takes."""

THREADS = 6
"""Of the process that relays another one's pipes: more than there are calls at a time."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What a process takes of its machine.

    Args:
        cores, gpus: of the machine's.
        of_machine: its share of the machine's RAM.
        count: of such processes that the cluster has place for.
    """

    cores: int
    gpus: int
    of_machine: float
    count: int

    @classmethod
    def of(cls, machines: Sequence[Mapping[str, float]], *, gpus: bool = True) -> Self:
        """One process for each GPU, or where there is none, or none is wanted, one for each machine.

        Args:
            machines: the resources of each, as Ray names them.

        Raises:
            RunError: no machine has a processor for use.
        """
        having = [m for m in machines if m.get("CPU", 0) >= 1]
        with_gpus = [m for m in having if m.get("GPU", 0) >= 1] if gpus else []
        counts = [int(m["GPU"]) for m in with_gpus] or [1 for _ in having]
        if not counts:
            raise RunError("no machine of the cluster has processor cores for use; start one by ray start")
        cores = min(max(1, int(m["CPU"]) // count) for m, count in zip(with_gpus or having, counts, strict=True))
        return cls(cores=cores, gpus=int(bool(with_gpus)), of_machine=1 / max(counts), count=sum(counts))


@contextmanager
def connected(address: str | None) -> Iterator[Cluster | None]:
    """A cluster, to which this process is connected meanwhile; what it has started there ends with it. None without an address.

    Args:
        address: "auto" on a machine of the cluster, HOST:PORT of its head, or "local" to start one on this machine.

    Raises:
        NnsegError: Ray is not installed, or there is no such cluster.
    """
    if address is None:
        yield None
        return
    check_extra("cluster", "clusters")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to the makers of Ray
    import ray  # noqa: PLC0415 (optional)

    own = {"num_cpus": default_workers(), "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **(own if address == LOCAL else {}))
    except (OSError, ValueError, RuntimeError) as error:
        raise NnsegError(
            f"there is no Ray cluster at {address} ({error}); start one by ray start --head, or write local"
        ) from error
    ray._private.worker.print_to_stdstream = _log  # it prints to stdout, where our results go
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _log(said: Mapping[str, Any], ignore_prefix: bool = False) -> None:
    """What Ray says of processes that died, which are reported by those who miss them."""
    log.debug("%s", "\n".join(said["lines"]))


@contextmanager
def computed_on(address: str | None) -> Iterator[Cluster | None]:
    """Let `map_items` apply functions on the machines of a cluster, see `connected`; on this one without an address."""
    with connected(address) as cluster, computed_by(cluster.outcomes) if cluster else nullcontext():
        yield cluster


class Cluster:
    """The machines of a cluster, see `connected`.

    Args:
        ray: the library.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def share(self, *, gpus: bool = True) -> Share:
        """What a process with a network takes of its machine; without GPUs if these are not wanted."""
        return Share.of([node["Resources"] for node in self._ray.nodes() if node["Alive"]], gpus=gpus)

    def launch(self, module: str, share: Share, *, end_signal: EndSignal = "SIGKILL") -> subprocess.Popen[bytes]:
        """A process as of `nnseg.system.process.launch` on any machine that has its share free, now or later."""
        host = self._ray.remote(_Host).options(
            num_cpus=share.cores, num_gpus=share.gpus, max_concurrency=THREADS, scheduling_strategy="SPREAD"
        )
        return cast("subprocess.Popen[bytes]", _RemoteProcess(self._ray, host.remote(module, share.cores, end_signal)))

    def outcomes(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Outcome[Item, Result]]:
        """The outcomes in the order in which they finish, each item's once, from a process on each core of the cluster.

        The items of a process that ends are tried again, each apart from others; one with which three more end is set aside.

        Raises:
            RunError: no process can be started.
            WriteError: a file could not be written.
        """
        cores = sum(int(node["Resources"].get("CPU", 0)) for node in self._ray.nodes() if node["Alive"])
        with _Appliers(self._ray, function, items, workers=max(1, cores)) as appliers:
            yield from appliers.outcomes()


def _end_with_machine() -> None:
    """End this process when its machine's own of Ray ends; else it would compute what is done again elsewhere."""
    threading.Thread(target=end_with, args=(os.getppid(), "SIGKILL"), daemon=True, name="machine").start()


class _Host:
    """In a process of Ray: starts a process of nnseg, and relays its pipes. It ends with this one."""

    def __init__(self, module: str, threads: int, end_signal: EndSignal) -> None:
        _end_with_machine()
        self._process = launch(module, threads=threads, end_signal=end_signal)
        self._lines: dict[str, SimpleQueue[bytes | None]] = {"stdout": SimpleQueue(), "stderr": SimpleQueue()}
        for name, lines in self._lines.items():
            threading.Thread(target=_collect, args=(getattr(self._process, name), lines), daemon=True).start()

    def write(self, lines: bytes) -> None:
        """Write to its stdin; b"" closes it."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which its other pipes tell
            self._process.stdin.write(lines)
            self._process.stdin.flush() if lines else self._process.stdin.close()

    def read(self, stream: str) -> list[bytes | None]:
        """The lines that it has written, at least one; the last one of all is None."""
        lines = self._lines[stream]
        found = [lines.get()]
        while found[-1] is not None and not lines.empty():
            found.append(lines.get())
        return found

    def wait(self) -> int:
        """Its exit code, once it has ended."""
        return self._process.wait()

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)


def _collect(stream: IO[bytes], lines: SimpleQueue[bytes | None]) -> None:
    with suppress(ValueError, OSError):
        for line in stream:
            lines.put(line)
    lines.put(None)


class _RemoteProcess:
    """The members of `subprocess.Popen` that `ChildProcess` uses, for a process on another machine."""

    pid = None
    """It cannot be inspected from here: its heartbeats tell whether it computes."""

    def __init__(self, ray: Any, host: Any) -> None:
        self._ray, self._host, self._ended = ray, host, cast("int | None", None)
        self._code = host.wait.remote()
        self.stdin = _Input(self)
        self.stdout, self.stderr = closing(self._read("stdout")), closing(self._read("stderr"))

    def call(self, method: str, *given: object) -> Any:
        """What a method of its host returns.

        Raises:
            BrokenPipeError: the host is lost.
        """
        return self._answer(getattr(self._host, method).remote(*given))

    def _answer(self, call: Any, timeout: float | None = None) -> Any:
        """What a call of a method of its host returns.

        Raises:
            BrokenPipeError: the host is lost.
            TimeoutError: it has not answered in so many seconds.
        """
        try:
            return self._ray.get(call, timeout=timeout)
        except self._ray.exceptions.GetTimeoutError:
            raise
        except self._ray.exceptions.RayError as error:
            if self._ended is None:
                self._ended = 1 if getattr(error, "actor_init_failed", False) else LOST
            raise BrokenPipeError(_why(error)) from error

    def _read(self, stream: str) -> Generator[bytes, None, None]:
        line: bytes | None
        while True:
            was_running = self._ended is None
            try:
                for line in self.call("read", stream):
                    if line is None:
                        return
                    yield line
            except BrokenPipeError as error:
                if was_running and stream == "stderr" and self._ended in (1, LOST):
                    yield f"{error}\n".encode()
                return

    def wait(self, timeout: float) -> int:
        """Its exit code; `LOST` if it was lost with its machine.

        Raises:
            TimeoutExpired: it still runs, or has no machine yet.
        """
        if self._ended is None:
            with suppress(BrokenPipeError, TimeoutError):
                self._ended = self._answer(self._code, timeout + (ANSWER_SECONDS if timeout else 0))
        if self._ended is None:
            raise subprocess.TimeoutExpired("", timeout)
        return self._ended

    def send_signal(self, number: int) -> None:
        """Send it a signal, without waiting until it has it."""
        self._host.send_signal.remote(number)

    def kill(self) -> None:
        """End it, and its host."""
        self._ended = -9 if self._ended is None else self._ended
        self._ray.kill(self._host)


class _Input:
    """The stdin of a process on another machine."""

    def __init__(self, process: _RemoteProcess) -> None:
        self._process, self._lines = process, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.call("write", b"")

    def write(self, lines: bytes) -> None:
        """Keep bytes for `flush`."""
        self._lines += lines

    def flush(self) -> None:
        """Send what was written."""
        lines, self._lines = self._lines, b""
        self._process.call("write", lines)


def _why(error: Exception) -> str:
    """What Ray says of a process that was lost, in one line."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    where = next((line.removeprefix("ip: ") for line in said if line.startswith("ip: ")), "")
    if getattr(error, "actor_init_failed", False):
        return f"no process can be started on the cluster: {said[-1]}; the same version of nnseg must be installed on all machines"
    return f"the connection to its machine{f' {where}' if where else ''} was lost, or its process there was killed"


class _Applier:
    """In a process of Ray: applies a function to batches of items."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        _end_with_machine()
        use_one_thread()  # the processes fill the cores
        self._function = function

    def apply(self, items: Sequence[Any]) -> tuple[list[Outcome[None, Any]], float]:
        """The outcomes, without the items, and the seconds that they took."""
        start = time.perf_counter()
        outcomes = [cast("Outcome[None, Any]", replace(outcome_of(self._function, item), item=None)) for item in items]
        return outcomes, time.perf_counter() - start


@dataclass(kw_only=True, eq=False)
class _Process:
    """A process that applies the function, and the batches that it has, the first one being worked on.

    Args:
        actor: its handle.
        batches: what Ray will return for each, with the indices of the items.
        since: when it began the first.
    """

    actor: Any
    batches: deque[tuple[Any, Sequence[int]]] = field(default_factory=deque)
    since: float = 0.0
    is_ready: bool = False

    def send(self, indices: Sequence[int], items: Sequence[Any]) -> None:
        """Send a batch."""
        if not self.batches:
            self.since = time.monotonic()
        self.batches.append((self.actor.apply.remote([items[index] for index in indices]), indices))


class _Appliers(Generic[Item, Result]):
    """Processes of a cluster that apply one function to items. A context: at its end all are ended."""

    def __init__(self, ray: Any, function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> None:
        self._ray, self._items, self._limit = ray, items, time_limit()
        self._function, self._kind = ray.put(function), ray.remote(_Applier).options(num_cpus=1, scheduling_strategy="SPREAD")
        self._next, self._waiting = 0, deque[Sequence[int]]()
        self._lost: dict[int, int] = {}
        self._finished, self._seconds = 0, 0.0
        self._processes = [self._start() for _ in range(min(workers, len(items)))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self._processes:
            self._ray.kill(process.actor)

    def outcomes(self) -> Iterator[Outcome[Item, Result]]:
        """The outcome of each item, as they finish."""
        while self._finished < len(self._items):
            self._assign()
            calls = [call for process in self._processes for call, _ in process.batches]
            self._ray.wait(calls, num_returns=1, timeout=POLL_INTERVAL)
            ready = set(self._ray.wait(calls, num_returns=len(calls), timeout=0)[0])
            for process in list(self._processes):
                for outcome in self._ended(process, ready):
                    self._finished += 1
                    yield outcome

    def _start(self) -> _Process:
        process = _Process(actor=self._kind.remote(self._function))
        process.send((), self._items)  # until it answers it may wait for a machine
        return process

    def _assign(self) -> None:
        """Give each process its next batches."""
        for process in self._processes:
            while process.is_ready and len(process.batches) < AHEAD and (indices := self._batch()):
                process.send(indices, self._items)

    def _batch(self) -> Sequence[int]:
        """The indices of the next items: one at first, then as many as take a second, and fewer towards the end."""
        if self._waiting:
            return self._waiting.popleft()
        left = len(self._items) - self._next
        fair = left // (2 * AHEAD * len(self._processes)) + 1
        each = self._seconds / self._finished if self._finished else BATCH_SECONDS
        size = min(left, fair, MOST_IN_BATCH, int(BATCH_SECONDS / max(each, BATCH_SECONDS / MOST_IN_BATCH)) or 1)
        self._next += size
        return range(self._next - size, self._next)

    def _ended(self, process: _Process, ready: set[Any]) -> Iterator[Outcome[Item, Result]]:
        """The outcomes of the batches of a process that have ended, in any way."""
        while process.batches and process.batches[0][0] in ready:
            call, indices = process.batches[0]
            try:
                outcomes, seconds = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.RayError as error:
                if getattr(error, "actor_init_failed", False):
                    raise RunError(_why(error)) from error
                yield from self._replace(process, _why(error))
                return
            process.batches.popleft()
            process.is_ready, process.since, self._seconds = True, time.monotonic(), self._seconds + seconds
            yield from (replace(outcome, item=self._items[index]) for index, outcome in zip(indices, outcomes, strict=True))
        if process.batches and (items := len(process.batches[0][1])) and time.monotonic() - process.since > self._limit * items:
            reason = f"was not done after {time.monotonic() - process.since:.0f} s and was ended ({TIMEOUT_VARIABLE} sets the time)"
            yield from self._replace(process, reason)

    def _replace(self, process: _Process, reason: str) -> Iterator[Outcome[Item, Result]]:
        """Start another process in place of one that is lost; the outcomes of items that were lost too often."""
        self._ray.kill(process.actor)
        self._processes[self._processes.index(process)] = self._start()
        (_, begun), *queued = process.batches
        self._waiting.extendleft(indices for _, indices in reversed(queued))
        if len(begun) > 1:  # any of them may be the reason
            self._waiting.extend((index,) for index in begun)
            return
        for index in begun:
            self._lost[index] = self._lost.get(index, 0) + 1
            if self._lost[index] < MAX_ATTEMPTS:
                self._waiting.append(begun)
            else:
                yield Outcome(item=self._items[index], reason=f"{reason} ({MAX_ATTEMPTS} times)")
