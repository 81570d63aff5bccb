"""Does an audit find planted marks and same scans, and how often does it raise a false alarm?

    python benchmarks/audit.py RUN [--repeats 20] [--clean 100] [--copies 10] [--seed 0]

The run's scans are read once. In each repeat

- clean (more often than the others): the outcomes (Dice of held-out cases, volumes) are exchanged between patients, so that nothing
  explains them: any association with a corrected p of 0.01 or less is a false alarm;
- marked: a bright square, 6 % of the side, is burnt into a corner of half of the scans: of those with the lower Dice, or with the
  larger volume of the first label; "leaky" ones have it in 80 % of that half, and in 20 % of the other.

Then all scans are compared: a pair of different patients that is called the same is a false alarm. Last, changed copies, each of
another scan, are put beside the scans they are of, and the pairs that are found are counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from nnseg.commands.audit import DICE, associate, list_predictors
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.geometry import as_vector
from nnseg.core.image import Scan
from nnseg.core.scores import Scores
from nnseg.evaluation.audit_same_scans import (
    CELLS,
    FEW_CELLS,
    SAME,
    Cells,
    Resemblance,
    compare_scans,
    find_same_scans,
    measure_details,
)
from nnseg.evaluation.audit_tests import Values
from nnseg.evaluation.audit_traits import measure_traits
from nnseg.planning.run_folds import patients_of_run
from nnseg.storage.datasets.read_case import read_case_scan
from nnseg.storage.run import Run

MARK = 0.06


def burnt_in(scan: Scan) -> Scan:
    """The scan with a bright square near the first corner of its planes of y and x."""
    image, side = scan.image.copy(), max(3, round(MARK * min(scan.grid.shape[1:])))
    image[:, :, 1 : 1 + side, 1 : 1 + side] = image.max()
    return replace(scan, image=image)


def moved(scan: Scan, image: np.ndarray, spacing: Sequence[float] | None = None) -> Scan:
    grid = replace(scan.grid, shape=image.shape[1:], spacing=as_vector(spacing or scan.grid.spacing))
    return replace(scan, image=np.ascontiguousarray(image), grid=grid)


def cropped(scan: Scan, random: np.random.Generator) -> Scan:
    """Without up to a tenth of the voxels at each end, of axes of 16 and more."""
    ends = [(random.integers(0, n // 10 + 1), random.integers(0, n // 10 + 1)) if n >= 16 else (0, 0) for n in scan.grid.shape]
    return moved(scan, scan.image[(slice(None), *(slice(a, n - b) for (a, b), n in zip(ends, scan.grid.shape, strict=True)))])


def resampled(scan: Scan, factor: float, *, keep_spacing: bool = False) -> Scan:
    """In other voxels in the plane of y and x; with the spacing kept, as of a file without one."""
    image = ndimage.zoom(scan.image, (1, 1, factor, factor), order=1, grid_mode=True, mode="nearest")
    size = [n * s for n, s in zip(scan.grid.shape, scan.grid.spacing, strict=True)]
    return moved(scan, image, None if keep_spacing else [mm / n for mm, n in zip(size, image.shape[1:], strict=True)])


def mirrored(scan: Scan, random: np.random.Generator) -> Scan:
    axes = [axis for axis in (1, 2, 3) if scan.image.shape[axis] > 1]
    chosen = [axis for axis in axes if random.random() < 0.5] or [axes[-1]]
    return moved(scan, np.flip(scan.image, chosen))


KINDS: dict[str, Callable[[Scan, np.random.Generator], Scan]] = {
    "identical": lambda scan, random: scan,
    "other intensities": lambda scan, random: replace(scan, image=np.sign(scan.image) * np.abs(scan.image) ** 0.7 * 3 + 10),
    "1 % noise": lambda scan, random: replace(
        scan, image=scan.image + random.normal(0, 0.01 * np.ptp(scan.image), scan.image.shape).astype(np.float32)
    ),
    "mirrored": mirrored,
    "cropped": cropped,
    "mirrored and cropped": lambda scan, random: cropped(mirrored(scan, random), random),
    "resampled to 0.8": lambda scan, random: resampled(scan, 0.8),
    "resampled to 1.25": lambda scan, random: resampled(scan, 1.25),
    "resized, spacing unknown": lambda scan, random: resampled(scan, 0.8, keep_spacing=True),
    "mirrored, resampled, cropped": lambda scan, random: cropped(resampled(mirrored(scan, random), 0.8), random),
}


def alarms(
    fingerprint: Fingerprint, scores: Scores, predictors: Mapping[str, Values], patients: Mapping[str, str]
) -> dict[str, float]:
    """The least corrected p by predictor and kind of outcome."""
    found: dict[str, float] = {}
    for one in associate(fingerprint, fingerprint.cases, scores, predictors, patients):
        name = f"{one.predictor}|{'Dice' if one.outcome == DICE else 'volume'}"
        found[name] = min(found.get(name, 1.0), one.p_adjusted)
    return found


def exchanged(
    scores: Scores, fingerprint: Fingerprint, patients: Mapping[str, str], random: np.random.Generator
) -> tuple[Scores, Fingerprint]:
    """The same scores and volumes of other patients: whole patients with equally many cases are exchanged."""
    units: dict[str, list[str]] = {}
    for case in fingerprint.cases:
        units.setdefault(patients.get(case.name, case.name), []).append(case.name)
    scored = {case.name for case in scores.cases}
    kinds: dict[tuple[int, int], list[list[str]]] = {}
    for unit in units.values():
        kinds.setdefault((len(unit), sum(name in scored for name in unit)), []).append(unit)
    giver: dict[str, str] = {}
    for those in kinds.values():
        for unit, other in zip(those, random.permutation(len(those)), strict=True):
            giver |= dict(zip(unit, those[other], strict=True))
    of_case = {case.name: case for case in fingerprint.cases}
    cases = tuple(case.model_copy(update={"voxels": of_case[giver[case.name]].voxels}) for case in fingerprint.cases)
    score_of = {case.name: case for case in scores.cases}
    told = tuple(score_of[giver[case.name]].model_copy(update={"name": case.name}) for case in scores.cases)
    return scores.model_copy(update={"cases": told}), fingerprint.model_copy(update={"cases": cases})


def test_marks(run: Run, scans: Mapping[str, Scan], repeats: int, clean: int, seed: int) -> None:
    fingerprint, scores, patients = run.fingerprint, run.scores, patients_of_run(run)
    plain = {name: measure_traits(scan) for name, scan in scans.items()}
    marked = {name: measure_traits(burnt_in(scan)) for name, scan in scans.items()}
    print(f"marks on {sum(bool(t.marks) for t in plain.values())} of {len(plain)} scans as they are; burnt in and seen on "
          f"{sum('front right' in t.marks for t in marked.values())}")  # fmt: skip
    as_is = alarms(fingerprint, scores, list_predictors(fingerprint.cases, plain, {}), patients)
    print("as it is, p <= 0.05:", {name: round(p, 4) for name, p in as_is.items() if p <= 0.05} or "nothing")
    false = []
    for repeat in range(clean):
        told, measured = exchanged(scores, fingerprint, patients, np.random.default_rng(1000 + seed + repeat))
        false.append(min(alarms(measured, told, list_predictors(measured.cases, plain, {}), patients).values()))
    found, first, weak = (sum(p <= end for p in of) for of, end in ((false, 0.01), (false[:repeats], 0.01), (false, 0.05)))
    print(f"clean, {clean} repeats: {found} with p <= .01 ({first} of the first {repeats}), {weak} with p <= .05", flush=True)
    rows: dict[str, list[float]] = {}
    dice = {case.name: case.mean_dice or 0.0 for case in scores.cases}
    label = fingerprint.labels.names[1]
    volume = {case.name: case.voxels[label] * float(np.prod(case.spacing)) for case in fingerprint.cases}
    for repeat in range(repeats):
        random = np.random.default_rng(seed + repeat)
        for outcome, values in (("Dice", dice), ("volume", volume)):
            middle = np.median(list(values.values()))
            half = {name for name, value in values.items() if (value < middle if outcome == "Dice" else value > middle)}
            for kind, (inside, outside) in (("full", (1.0, 0.0)), ("leaky", (0.8, 0.2))):
                chosen = {name for name in values if random.random() < (inside if name in half else outside)}
                traits = {name: marked[name] if name in chosen else plain[name] for name in plain}
                p = alarms(fingerprint, scores, list_predictors(fingerprint.cases, traits, {}), patients)
                rows.setdefault(f"{outcome}, {kind}", []).append(
                    min(v for n, v in p.items() if "mark" in n and n.endswith(outcome))
                )
    for name, ps in rows.items():
        print(f"mark on {name}: p < .01 in {sum(p < 0.01 for p in ps)} of {len(ps)}, largest {max(ps):.4f}")


def test_same_scans(run: Run, scans: Mapping[str, Scan], copies: int, seed: int) -> None:
    fingerprint, patients = run.fingerprint, patients_of_run(run)
    cells = [Cells.of(fingerprint.cases, most) for most in (CELLS, FEW_CELLS)]
    names = list(scans)
    start = time.perf_counter()
    details = {name: measure_details(scan, *cells) for name, scan in scans.items()}
    measured = time.perf_counter() - start
    found = list(compare_scans(list(details.values())))
    seconds = time.perf_counter() - start

    def of_one(one: Resemblance) -> bool:
        first, second = (patients.get(names[i], names[i]) for i in (one.first, one.second))
        return first == second

    apart = sorted((one.correlation for one in found if not of_one(one)), reverse=True)
    own = sorted(one.correlation for one in found if of_one(one))
    pairs = len(names) * (len(names) - 1) // 2
    false = sum(one.correlation >= SAME for one in found if not of_one(one))
    print(f"{len(names)} scans, {pairs} pairs: details {measured:.0f} s, compared {seconds - measured:.0f} s; different patients: "
          f"{false} called the same; highest correlations {[round(c, 3) for c in apart[:5]]}")  # fmt: skip
    if own:
        print(f"scans of one patient: {len(own)} compared, correlations {own[0]:.2f} to {own[-1]:.2f}")
    random, kinds = np.random.default_rng(seed), list(KINDS)
    chosen = random.permutation(len(names))[: copies * len(kinds)].tolist()
    originals = [details[names[i]] for i in chosen]
    kind_of = [kinds[k % len(kinds)] for k in range(len(chosen))]
    planted = [measure_details(KINDS[kind](scans[names[i]], random), *cells) for i, kind in zip(chosen, kind_of, strict=True)]
    same = {(one.first, one.second): one.correlation for one in find_same_scans([*originals, *planted])}
    for kind in kinds:
        hits = [same.get((k, len(chosen) + k), 0.0) for k in range(len(chosen)) if kind_of[k] == kind]
        print(f"{kind}: {sum(hit > 0 for hit in hits)} of {len(hits)} found, least correlation {min(hits):.3f}", flush=True)
    every = sum((k, len(chosen) + k) in same for k in range(len(chosen)))
    print(f"all kinds: {every} of {len(chosen)} found")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--clean", type=int, default=100)
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    run = Run(given.run)
    scans = {case.name: read_case_scan(case, None) for case in run.dataset.cases}
    test_marks(run, scans, given.repeats, given.clean, given.seed)
    test_same_scans(run, scans, given.copies, given.seed)


if __name__ == "__main__":
    main()
