"""The section on the dataset: size, labels, intensities and problems."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from statistics import median
from typing import Any

from nnseg.core.dataset import Finding, counted
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.scan_ranges import PERCENTILES
from nnseg.core.units import length_name, volume_name
from nnseg.reporting.charts.charts import Figure, axis_range, histogram_svg, spans_svg
from nnseg.reporting.content import ReportContent
from nnseg.reporting.formatting import by, short

MOST_FINDINGS = 30
"""Findings shown; a broken dataset has thousands, and ``nnseg check`` lists them all."""
MOST_LABELS = 12
"""Labels whose volumes are drawn; the table has all."""
MOST_SCANS = 2000
"""Scans whose intensities are drawn one by one."""

LEVELS = ("error", "warning", "note")


def summarize_data(content: ReportContent) -> dict[str, Any] | None:
    """Variables of ``data.html.j2``; None without measurements and problems."""
    fingerprint = content.fingerprint if content.fingerprint and content.fingerprint.cases else None
    if fingerprint is None and not content.findings:
        return None
    ordered = sorted(content.findings, key=lambda finding: LEVELS.index(finding.level))
    return {
        "findings": ordered[:MOST_FINDINGS],
        "more": len(ordered[MOST_FINDINGS:]),
        "counts": _count_levels(ordered),
        "measured": _summarize_measurements(content, fingerprint) if fingerprint else None,
    }


def _summarize_measurements(content: ReportContent, fingerprint: Fingerprint) -> dict[str, Any]:
    named = fingerprint.labels.named.items()
    return {
        "facts": _facts(fingerprint) | _pseudo_labels(content),
        "sizes": _draw_sizes(fingerprint),
        "labels": [(name, value, *_occurrence(fingerprint, name)) for name, value in named],
        "volumes": _draw_volumes(fingerprint),
        "channels": list(zip(fingerprint.channels, fingerprint.intensities, strict=False)),
        "intensities": _draw_intensities(content, fingerprint),
    }


def _facts(fingerprint: Fingerprint) -> dict[str, str]:
    cases, kind, axes = fingerprint.cases, "images" if fingerprint.is_2d else "volumes", _axes(fingerprint)
    unusable = f"; {len(fingerprint.unusable)} more could not be used" if fingerprint.unusable else ""
    kept, unit = fingerprint.relative_size_after_cropping, length_name(fingerprint.length_unit)
    spacing = by([median(size[a] for size in fingerprint.spacings_shown) for a in axes])
    facts = {
        "Cases": f"{len(cases)} {kind}{unusable}",
        "Size": f"{by([median(c.shape[a] for c in cases) for a in axes])} voxels in the median",
        "Voxel": f"{spacing} {unit} in the median"
        if fingerprint.has_spacing
        else f"none stored, 1 mm assumed: lengths are in {unit}",
    }
    return facts | ({"Around the body": f"{1 - kept:.0%} of a scan is empty and cut away"} if kept < 0.99 else {})


def _pseudo_labels(content: ReportContent) -> dict[str, str]:
    """What training took from the model that it began with; nothing if that is nothing."""
    counts = ", ".join(f"{name} in {counted(n, 'case')}" for name, n in content.pseudo_labels.items())
    return {"Pseudo-labels": f"{counts}, predicted by the model that training began with; not in scores"} if counts else {}


def _axes(fingerprint: Fingerprint) -> tuple[int, ...]:
    return tuple(a for a in range(3) if not fingerprint.is_2d or any(c.shape[a] > 1 for c in fingerprint.cases))


def _count_levels(findings: Sequence[Finding]) -> str:
    counts = {level: sum(f.level == level for f in findings) for level in LEVELS}
    return ", ".join(counted(n, level) for level, n in counts.items() if n)


def _draw_sizes(fingerprint: Fingerprint) -> list[Figure]:
    """Histograms of the sizes and spacings that vary between scans."""
    figures = []
    for what, unit, values in (
        ("Size", "voxels", [c.shape for c in fingerprint.cases]),
        ("Spacing", length_name(fingerprint.length_unit), fingerprint.spacings_shown),
    ):
        for axis in _axes(fingerprint):
            along = [float(v[axis]) for v in values]
            if max(along) - min(along) > 1e-3 * max(along):
                title = f"{what} along {'zyx'[axis]}"
                figures.append((title, histogram_svg(f"{title} in {unit}", along, label=unit)))
    return figures


def _occurrence(fingerprint: Fingerprint, name: str) -> tuple[int, str, float]:
    """Number of cases with a label, its size in words, and its share of their voxels."""
    here = [c for c in fingerprint.cases if c.voxels.get(name)]
    if not here:
        return 0, "in no case", 0.0
    share = sum(c.voxels[name] for c in here) / sum(prod(c.shape) for c in here)
    if fingerprint.is_2d:
        return len(here), f"{share:.2%} of the image", share
    volumes = fingerprint.volumes_of(name)
    spread = f" ({short(min(volumes))} to {short(max(volumes))})" if min(volumes) < max(volumes) else ""
    return len(here), f"{short(median(volumes))} {volume_name(fingerprint.length_unit)}{spread}", share


def _draw_volumes(fingerprint: Fingerprint) -> list[Figure]:
    names, unit = fingerprint.labels.names[1:], "% of the image" if fingerprint.is_2d else volume_name(fingerprint.length_unit)
    if fingerprint.is_2d:
        sizes = {n: [100 * c.voxels[n] / prod(c.shape) for c in fingerprint.cases if c.voxels.get(n)] for n in names}
    else:
        sizes = {n: fingerprint.volumes_of(n) for n in names}
    shown = [(name, values) for name, values in sizes.items() if values][:MOST_LABELS]
    return [(name, histogram_svg(f"{name} in {unit}", values, label=unit)) for name, values in shown]


def _draw_intensities(content: ReportContent, fingerprint: Fingerprint) -> list[Figure]:
    """Percentiles of each held-out scan after normalization, by channel."""
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
