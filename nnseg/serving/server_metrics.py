"""`metrics_text`: counts of a server, in the text form of Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nnseg.serving.server_jobs import Jobs
from nnseg.system.machine import GIGABYTE, held_gb


def metrics_text(jobs: Jobs) -> str:
    """The counts of all jobs since the server began, and what it does now.

    Source: prometheus.io, exposition formats, text-based format 0.0.4.
    """
    models = jobs.models.items()
    states = [({"model": name, "state": state}, count) for name, model in models for state, count in model.states.items()]
    ended = [({"model": name, "outcome": kind}, count) for name, model in models for kind, count in model.outcomes.items()]
    seconds = [({"model": name, "stage": stage}, spent) for name, model in models for stage, spent in model.seconds.items()]
    blocks = (
        _block("nnseg_scans", "gauge", "Scans that wait or are being predicted.", states),
        _block("nnseg_scans_total", "counter", "Scans that were predicted, that failed, or were cancelled.", ended),
        _block("nnseg_scans_refused_total", "counter", "Scans that were refused because too many waited.", [({}, jobs.refused)]),
        _block("nnseg_stage_seconds_total", "counter", "Time of each stage of predictions.", seconds),
        _block(
            "nnseg_memory_bytes", "gauge", "RAM of the server without the processes of its models.", [({}, held_gb() * GIGABYTE)]
        ),
    )
    return "".join(blocks)


def _block(name: str, kind: str, meaning: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> str:
    lines = [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        lines.append(f"{name}{{{written}}} {value:.10g}" if written else f"{name} {value:.10g}")
    return "".join(f"{line}\n" for line in lines)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
