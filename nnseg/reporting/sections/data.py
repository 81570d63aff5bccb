"""Section: the dataset as it was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from statistics import median

from nnseg.core.dataset import Finding
from nnseg.core.fingerprint import Fingerprint, Intensity
from nnseg.core.trust import PERCENTILES
from nnseg.reporting.charts.charts import axis_range, histogram_svg, spans_svg
from nnseg.reporting.charts.drawing import by, short
from nnseg.reporting.content import ReportContent

MOST_FINDINGS = 30
"""Findings shown; a broken dataset has thousands, and ``nnseg check`` lists them all."""
MOST_LABELS = 12
"""Labels whose volumes are drawn; the table has all."""
MOST_SCANS = 400
"""Scans whose intensities are drawn one by one."""

Figure = tuple[str, str]
"""Caption and drawing."""


@dataclass(frozen=True, kw_only=True)
class LabelRow:
    """One label of the dataset, in words.

    Args:
        value: that stands for it in label maps.
        cases: in how many it is.
        size: in the median and its range.
        share: of all voxels of those cases, 0 to 1.
    """

    name: str
    value: int
    cases: int
    size: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel's intensities where labels are, in words."""

    name: str
    median: str
    mean: str
    std: str
    middle: str


@dataclass(frozen=True, kw_only=True)
class Data:
    """What is told of the dataset.

    Args:
        facts: in words, by name.
        findings: the gravest first, not all of many.
        more: findings left out.
        counts: of findings, in words.
        sizes, intensities, volumes: drawings.
        labels, channels: rows of tables.
    """

    facts: dict[str, str]
    findings: Sequence[Finding]
    more: int
    counts: str
    sizes: Sequence[Figure]
    labels: Sequence[LabelRow]
    volumes: Sequence[Figure]
    channels: Sequence[Channel]
    intensities: Sequence[Figure]


def data(content: ReportContent) -> Data | None:
    """What is told of the dataset; None if nothing is known of it."""
    fingerprint = content.fingerprint if content.fingerprint and content.fingerprint.cases else None
    if fingerprint is None and not content.findings:
        return None
    ordered = sorted(content.findings, key=lambda f: ("error", "warning", "note").index(f.level))
    return Data(
        facts=_facts(fingerprint) if fingerprint else {},
        findings=ordered[:MOST_FINDINGS],
        more=len(ordered[MOST_FINDINGS:]),
        counts=_counts(ordered),
        sizes=_sizes(fingerprint) if fingerprint else [],
        labels=_labels(fingerprint) if fingerprint else [],
        volumes=_volumes(fingerprint) if fingerprint else [],
        channels=[_channel(n, i) for n, i in zip(fingerprint.channels, fingerprint.intensities, strict=False)]
        if fingerprint
        else [],
        intensities=_intensities(content, fingerprint) if fingerprint else [],
    )


def _facts(fingerprint: Fingerprint) -> dict[str, str]:
    cases, kind = fingerprint.cases, "images" if fingerprint.is_2d else "volumes"
    unusable = f"; {len(fingerprint.unusable)} more could not be used" if fingerprint.unusable else ""
    kept = fingerprint.relative_size_after_cropping
    facts = {
        "Cases": f"{len(cases)} {kind}{unusable}",
        "Size": f"{by([median(c.shape[a] for c in cases) for a in _axes(fingerprint)])} voxels in the median",
        "Voxel": f"{by([median(c.spacing[a] for c in cases) for a in _axes(fingerprint)])} mm in the median",
    }
    return facts | ({"Around the body": f"{1 - kept:.0%} of a scan is empty and cut away"} if kept < 0.99 else {})


def _axes(fingerprint: Fingerprint) -> tuple[int, ...]:
    return tuple(a for a in range(3) if not fingerprint.is_2d or any(c.shape[a] > 1 for c in fingerprint.cases))


def _counts(findings: Sequence[Finding]) -> str:
    counts = {level: sum(f.level == level for f in findings) for level in ("error", "warning", "note")}
    return ", ".join(f"{n} {level}{'s' if n != 1 else ''}" for level, n in counts.items() if n)


def _sizes(fingerprint: Fingerprint) -> list[Figure]:
    """Histograms of what varies between scans; what is the same in all is said in the caption of nothing."""
    figures = []
    for what, unit, values in (
        ("Size", "voxels", [c.shape for c in fingerprint.cases]),
        ("Spacing", "mm", [c.spacing for c in fingerprint.cases]),
    ):
        for axis in _axes(fingerprint):
            along = [float(v[axis]) for v in values]
            if max(along) - min(along) > 1e-3 * max(along):
                title = f"{what} along {'zyx'[axis]}"
                figures.append((title, histogram_svg(f"{title} in {unit}", along, label=unit)))
    return figures


def _labels(fingerprint: Fingerprint) -> list[LabelRow]:
    rows = []
    for name, value in zip(fingerprint.labels.names[1:], fingerprint.labels.values[1:], strict=True):
        here = [c for c in fingerprint.cases if c.voxels.get(name)]
        share = sum(c.voxels[name] for c in here) / max(1, sum(prod(c.shape) for c in here))
        volumes = _ml(fingerprint, name)
        size = "in no case"
        if volumes:
            size = f"{share:.2%} of the image" if fingerprint.is_2d else f"{short(median(volumes))} ml"
        if volumes and not fingerprint.is_2d and min(volumes) < max(volumes):
            size += f" ({short(min(volumes))} to {short(max(volumes))})"
        rows.append(LabelRow(name=name, value=value, cases=len(here), size=size, share=share))
    return rows


def _volumes(fingerprint: Fingerprint) -> list[Figure]:
    if fingerprint.is_2d:
        sizes = {
            n: [100 * c.voxels[n] / prod(c.shape) for c in fingerprint.cases if c.voxels.get(n)]
            for n in fingerprint.labels.names[1:]
        }
        unit = "% of the image"
    else:
        sizes, unit = {n: _ml(fingerprint, n) for n in fingerprint.labels.names[1:]}, "ml"
    shown = [(n, v) for n, v in sizes.items() if v][:MOST_LABELS]
    return [(name, histogram_svg(f"{name} in {unit}", values, label=unit)) for name, values in shown]


def _ml(fingerprint: Fingerprint, name: str) -> list[float]:
    return [c.voxels[name] * prod(c.spacing) / 1000 for c in fingerprint.cases if c.voxels.get(name)]


def _channel(name: str, of: Intensity) -> Channel:
    return Channel(
        name=name,
        median=short(of.median),
        mean=short(of.mean),
        std=short(of.std),
        middle=f"{short(of.percentile_00_5)} to {short(of.percentile_99_5)}",
    )


def _intensities(content: ReportContent, fingerprint: Fingerprint) -> list[Figure]:
    """Of each channel, each held-out scan's percentiles after normalization."""
    known = {p.name: p.facts for p in content.predicted if p.facts}
    chosen = list(known.items())[:: 1 + len(known) // MOST_SCANS]
    if len(chosen) < 2:
        return []
    percents = ", ".join(f"{p}" for p in PERCENTILES)
    figures = []
    for i, name in enumerate(fingerprint.channels):
        spans = {case: facts.intensities[i] for case, facts in chosen if len(facts.intensities) > i}
        middles = axis_range([v[2] for v in spans.values()])
        title = f"{name}: percentiles {percents} of each scan's intensities after normalization; their medians {middles}"
        figures.append((name, spans_svg(title, spans, label="normalized")))
    return figures
