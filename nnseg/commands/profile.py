"""``nnseg profile``: time and memory of predictions, each scan by a process that is started for it, as FLARE measures them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from nnseg.core.dataset import Case, Finding, Reading, counted
from nnseg.core.frozen import FrozenModel
from nnseg.core.names import CaseName
from nnseg.interop.challenges.rules import Limits
from nnseg.serving.messages import PredictionOrder, PredictionTask
from nnseg.serving.pool import WorkerPool
from nnseg.storage.datasets.find_scans import find_scans
from nnseg.storage.files import write_json
from nnseg.storage.images.read import read_header
from nnseg.storage.overwrite import check_overwrite
from nnseg.system.extras import has_extra, how_to_install
from nnseg.system.machine import versions
from nnseg.system.progress import progress
from nnseg.system.usage import INTERVAL, SampledUsage, area, sampled_usage

PROFILE, FIGURE = "profile.json", "profile"

log = logging.getLogger(__name__)

Curve = tuple[float, ...]


class CaseProfile(FrozenModel):
    """What the prediction of a scan took.

    Args:
        name: of the case.
        shape: voxels of the scan (z, y, x).
        seconds: from the start of the process that predicts to its end, the loading of libraries and model included.
        peak_ram_gb: most RAM of all processes together, shared pages counted once.
        peak_device_gb: most memory of the device, above what was held before.
        ram_area, device_area: area under the curve of RAM, and of the device's memory, by time, in GB times seconds.
        times, ram_gb, device_gb: the curves.
        reason: why it failed; "" if it did not.
    """

    name: CaseName
    shape: tuple[int, ...]
    seconds: float
    peak_ram_gb: float
    peak_device_gb: float
    ram_area: float
    device_area: float
    times: Curve
    ram_gb: Curve
    device_gb: Curve
    reason: str = ""


class Profile(FrozenModel):
    """Time and memory of predictions.

    Args:
        nnseg: version.
        model: its paths.
        device: that was used.
        interval: seconds between two samples of memory.
        cases: in order.
        findings: limits that are exceeded, and scans that could not be predicted.
    """

    nnseg: str
    model: tuple[Path, ...]
    device: str
    interval: float
    cases: tuple[CaseProfile, ...]
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)

    def describe(self) -> Iterator[str]:
        """Lines for users: one for each scan, and the means of all."""
        for case in self.cases:
            yield f"{case.name} ({' x '.join(map(str, case.shape))}): {_line(case)}"
        if len(self.cases) > 1:
            count, last = len(self.cases), self.cases[-1]
            means = {name: sum(getattr(case, name) for case in self.cases) / count for name in MEASURES}
            yield f"mean of {counted(count, 'scan')}: {_line(last.model_copy(update=means))}"


MEASURES = ("seconds", "peak_ram_gb", "peak_device_gb", "ram_area", "device_area")


def profile(
    scans: Path, out: Path, order: PredictionOrder, reading: Reading, *, limits: Limits | None = None, force: bool = False
) -> Profile:
    """Predict scans one after the other, each by processes of its own, and measure time and memory; label maps are not kept.

    Args:
        scans: as for ``nnseg predict``.
        out: folder for ``profile.json`` and its figure.
        order: how to predict; its folder is not used.
        reading: which files are scans.
        limits: of a challenge, which are compared with.
        force: also overwrite files that nnseg did not make.

    Raises:
        DatasetError: there is no scan.
        RunError: the files cannot be written.
        ModelError: the model cannot be loaded.
    """
    check_overwrite(out / PROFILE, "profile", force=force)
    for suffix in (".png", ".pdf"):
        check_overwrite(out / f"{FIGURE}{suffix}", "picture", force=force)
    with WorkerPool(order) as workers:  # once before, to know the channels; then files are in the system's cache
        ready = workers.ready()
    found = find_scans(scans.absolute(), channels=ready.channels, names=ready.channel_names, reading=reading)
    profiles = (_profile_case(case, order, ready.device) for case in found.cases)
    cases = tuple(progress(profiles, total=len(found.cases), label="profiling"))
    made = Profile(
        nnseg=versions()["nnseg"],
        model=tuple(model.absolute() for model in order.models),
        device=ready.device,
        interval=INTERVAL,
        cases=cases,
        findings=(*_failures(cases), *_beyond(cases, ready.device, limits or Limits())),
    )
    write_json(out / PROFILE, made)
    _draw(cases, out / FIGURE)
    return made


def _profile_case(case: Case, order: PredictionOrder, device: str) -> CaseProfile:
    with (
        tempfile.TemporaryDirectory() as folder,
        sampled_usage(device) as usage,
        WorkerPool(order.model_copy(update={"out": Path(folder)})) as workers,
    ):
        workers.ready()
        ((_, record),) = workers.predict([PredictionTask(case=case)])
    ends = [sample.seconds for sample in usage.samples]
    ram, held = _curve(usage, "ram_gb"), _curve(usage, "device_gb")
    shape = read_header(case.images, repair=True, spacing=case.spacing or order.spacing).grid.shape if not record.reason else ()
    return CaseProfile(
        name=case.name,
        shape=shape,
        seconds=round(usage.seconds, 2),
        peak_ram_gb=max(ram),
        peak_device_gb=max(held),
        ram_area=round(area([*ends, usage.seconds], ram), 2),
        device_area=round(area([*ends, usage.seconds], held), 2),
        times=tuple(round(seconds, 2) for seconds in ends),
        ram_gb=ram,
        device_gb=held,
        reason=record.reason,
    )


def _curve(usage: SampledUsage, what: str) -> Curve:
    return tuple(round(getattr(sample, what), 3) for sample in usage.samples)


def _failures(cases: Sequence[CaseProfile]) -> Iterator[Finding]:
    return (Finding.read(case.reason, "NS-S001", case=case.name) for case in cases if case.reason)


def _beyond(cases: Sequence[CaseProfile], device: str, limits: Limits) -> Iterator[Finding]:
    """What exceeds the limits of a challenge."""
    if limits.device and limits.device != device.partition(":")[0]:
        message = f"was measured on {device}; expected {limits.device}, on which the challenge runs it; see --device"
        yield Finding.of("NS-C001", message)
    for case in cases:
        for found, most, unit in (
            (case.seconds, limits.seconds, "seconds"),
            (case.peak_ram_gb, limits.ram_gb, "GB of RAM"),
            (case.peak_device_gb, limits.device_gb, "GB of the device's memory"),
        ):
            if most is not None and found > most:
                yield Finding.of("NS-C001", f"takes {found:g} {unit}; expected at most {most:g}", case=case.name)


def _line(case: CaseProfile) -> str:
    ram = f"{case.seconds:.1f} s, peak {case.peak_ram_gb:.2f} GB of RAM, area {case.ram_area:.1f} GB s"
    if not case.peak_device_gb:
        return ram
    return f"{ram}; of the device's memory peak {case.peak_device_gb:.2f} GB, area {case.device_area:.1f} GB s"


def _draw(cases: Sequence[CaseProfile], stem: Path) -> None:
    if not has_extra("figures"):
        log.info("no figure is drawn without matplotlib: %s", how_to_install("figures"))
        return
    from nnseg.reporting.paper import memory_figure, write_figure  # noqa: PLC0415 (an extra)

    curves = {case.name: (case.times, case.ram_gb, case.device_gb) for case in cases}
    write_figure(lambda: memory_figure(curves), stem)
