"""Is a scan of another kind noticed? Foreign scans made of held-out ones, and how often scans of the same kind are called foreign.

    python benchmarks/foreign.py RUN [--together REGEX] [--other-body SCAN ...] [--other-modality SCAN ...] [--cases 40]
        [--no-network]

RUN is a finished run with one plan. Each held-out case is predicted by its fold's network, as it is and as each foreign scan made
of it. It is compared with four fifths of the dataset; ``--together`` names what belongs to one patient, whose cases are in one
fifth, by a group of a regular expression, such as (patient\\d+). Of scans of another body part and modality blocks of the case's
size are cut out, and given its grid, so that only intensities differ; without ``--other-modality`` intensities become their
distance from the median. Printed: how often scans of the dataset are called foreign, over random divisions; for each kind how
often the flag of foreign scans and that of the worst tenth are raised; the expected Dice without the comparison, and with it; the
true Dice where there is a reference; and what was named most often. With ``--no-network`` nothing is predicted, and no Dice is
printed.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.dataset import Case
from nnseg.core.geometry import as_shape
from nnseg.core.image import Integers, LabelMap, Scan
from nnseg.core.scan_ranges import ScanFacts, ScanRanges, find_ranges, measure_scan
from nnseg.core.trust import Confidence, Trust
from nnseg.crossval.scan_facts import measure_stored_cases
from nnseg.crossval.trust import HeldOutCase, fit_trust
from nnseg.evaluation.evaluate import case_score
from nnseg.evaluation.metrics import count
from nnseg.inference.predict import Predictor
from nnseg.network.bundle import load_model_file
from nnseg.storage.images.read import read_labels_of, read_scan
from nnseg.storage.run import Run

PARTS = 5
REPEATS = 10
SCALED, BLURRED, CLAIMED = 10.0, 3.0, 2.0
"""Factor of intensities, standard deviation in voxels, and factor of the spacing."""

Image = npt.NDArray[np.float32]
Changed = tuple[Image, Integers | None]
"""An image (C, Z, Y, X), and its reference where it is still known."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A held-out case, and the predictor of its fold."""

    case: Case
    scan: Scan
    reference: LabelMap
    predictor: Predictor
    fold: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was said of one scan: differences, and if it was predicted, with the comparison and without."""

    unlike: tuple[str, ...]
    confidence: Confidence | None = None
    plain: Confidence | None = None
    dice: float | None = None


def main() -> None:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--together", default="(.*)")
    parser.add_argument("--other-body", type=Path, nargs="*", default=[])
    parser.add_argument("--other-modality", type=Path, nargs="*", default=[])
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--no-network", action="store_true")
    options = parser.parse_args()
    run = Run(options.run)
    channels, facts, seen = run.plans[0].plan.channels, measure_stored_cases(run), list(read_held_out(run))
    patients = {name: match[1] if (match := re.search(options.together, name)) else name for name in facts}
    alarms = [_false_alarms(facts, patients, channels, np.random.default_rng(seed)) for seed in range(REPEATS)]
    print(f"{len(facts)} cases; of the same kind {np.mean(alarms):.1%} are called foreign")
    parts = _divide(patients, np.random.default_rng(0))
    ranges = {part: _ranges_without(part, facts, parts, patients, channels) for part in range(PARTS)}
    trusts = {part: Trust(ranges=of) for part, of in ranges.items()}
    if not options.no_network:
        held = [predict(one, one.scan, one.reference.labels) for one in seen]
        for part, of in ranges.items():
            others = [h for h in held if parts[h.score.name] != part]
            trusts[part] = fit_trust(others, ranges=of)
    body, modality = ([read_scan((path,), repair=True) for path in paths] for paths in (options.other_body, options.other_modality))
    header = ("kind", "scans", "foreign", "worst tenth", "plain", "expected", "true Dice")
    print("{:24}{:>8}{:>9}{:>13}{:>9}{:>10}{:>11}  named most often".format(*header))
    chosen = seen[:: max(1, -(-len(seen) // options.cases))]
    network = not options.no_network
    _print_row("none", [_found(one, one.scan, one.reference.labels, trusts[parts[one.case.name]], network) for one in chosen])
    for kind, make in kinds(body, modality).items():
        found = []
        for number, one in enumerate(chosen):
            scan, reference = foreign(one, kind, make, np.random.default_rng(number))
            found.append(_found(one, scan, reference, trusts[parts[one.case.name]], network))
        _print_row(kind, found)


def read_held_out(run: Run) -> Iterator[Seen]:
    """Each held-out case of a trained fold."""
    cases = {case.name: case for case in run.dataset.cases}
    (folder,) = run.final_plans.values()
    for fold in folder.trained_folds():
        predictor = Predictor(replace(load_model_file(fold.model_file), trust=None), device="cpu")
        for name in run.folds[fold.number].held_out:
            case = cases[name]
            scan = read_scan(case.images, repair=True, spacing=case.spacing)
            assert case.labels is not None
            reference = read_labels_of(case.labels, scan)
            yield Seen(case=case, scan=scan, reference=reference, predictor=predictor, fold=fold.number)


def predict(seen: Seen, scan: Scan, reference: Integers) -> HeldOutCase:
    """The case, or a scan made of it, predicted and scored."""
    prediction = seen.predictor.infer(seen.predictor.prepare(scan), uncertainty=True)
    counts = count(prediction.label_map.labels, reference, seen.predictor.model.labels, annotated=seen.case.annotated)
    assert prediction.confidence is not None
    return HeldOutCase(fold=seen.fold, confidence=prediction.confidence, score=case_score(seen.case.name, counts))


def facts_of(seen: Seen, scan: Scan) -> ScanFacts:
    """The properties of a scan, without predicting it."""
    (case,) = seen.predictor.prepare(scan).cases.values()
    return measure_scan(scan.grid, case.image.transpose(0, *(1 + axis for axis in case.placement.back)), scan.image)


def kinds(body: Sequence[Scan], modality: Sequence[Scan]) -> dict[str, Callable[[Seen, np.random.Generator], Changed]]:
    """How each kind of foreign scan is made of a held-out case."""
    made = {
        "pure noise": lambda s, r: (_like(r.normal(s.scan.image.mean(), s.scan.image.std(), s.scan.image.shape)), None),
        "constant": lambda s, _: (_like(np.full(s.scan.image.shape, max(1.0, float(s.scan.image.mean())))), None),
        "other body part": lambda s, r: (_cut_out(body[r.integers(len(body))], s.scan, r), None),
        "other modality": lambda s, r: (
            (_cut_out(modality[r.integers(len(modality))], s.scan, r), None)
            if modality
            else (_like(abs(s.scan.image - np.median(s.scan.image))), s.reference.labels)
        ),
        "rotated by 90": lambda s, _: tuple(np.rot90(a, axes=(-2, -1)) for a in (s.scan.image, s.reference.labels)),
        "cropped": lambda s, _: tuple(_half(a, s.scan.grid.shape) for a in (s.scan.image, s.reference.labels)),
        "inverted": lambda s, _: (_like(s.scan.image.max() + s.scan.image.min() - s.scan.image), s.reference.labels),
        "shuffled blocks": _shuffle,
        "scaled intensities": lambda s, _: (_like(s.scan.image * SCALED), s.reference.labels),
        "blurred strongly": lambda s, _: (_blur(s.scan.image), s.reference.labels),
        "other spacing claimed": lambda s, _: (s.scan.image, s.reference.labels),
        "mirrored": lambda s, _: tuple(np.flip(a, -2) for a in (s.scan.image, s.reference.labels)),
    }
    return {kind: make for kind, make in made.items() if body or kind != "other body part"}


def foreign(
    seen: Seen, kind: str, make: Callable[[Seen, np.random.Generator], Changed], random: np.random.Generator
) -> tuple[Scan, Integers | None]:
    """A foreign scan, and its reference where it is known."""
    image, reference = make(seen, random)
    z, y, x = seen.scan.grid.spacing
    if kind == "rotated by 90":
        y, x = x, y
    factor = CLAIMED if kind == "other spacing claimed" else 1.0
    grid = replace(seen.scan.grid, shape=as_shape(image.shape[1:]), spacing=(factor * z, factor * y, factor * x))
    known = None if reference is None else np.ascontiguousarray(reference)
    return replace(seen.scan, image=np.ascontiguousarray(image, np.float32), grid=grid), known


def _like(image: npt.NDArray[np.floating]) -> Image:
    return np.asarray(image, np.float32)


def _half(volume: npt.NDArray[np.generic], shape: Sequence[int]) -> npt.NDArray[np.generic]:
    """The first half of a volume along its longest axis."""
    axis = int(np.argmax(shape))
    return volume.take(range(max(1, shape[axis] // 2)), axis - 3)


def _blur(image: Image) -> Image:
    sigma = tuple(min(BLURRED, 0.25 * n) for n in image.shape[1:])
    return np.stack([ndimage.gaussian_filter(channel, sigma) for channel in image])


def _shuffle(seen: Seen, random: np.random.Generator) -> Changed:
    """Four blocks along each axis that has as many voxels, in another order."""
    image, labels = seen.scan.image, seen.reference.labels
    counts = [4 if n >= 8 else 1 for n in labels.shape]
    sizes = [n // c for n, c in zip(labels.shape, counts, strict=True)]
    places = [tuple(slice(i * s, (i + 1) * s) for i, s in zip(at, sizes, strict=True)) for at in np.ndindex(*counts)]
    shuffled, moved = image.copy(), labels.copy()
    for to, number in zip(places, random.permutation(len(places)), strict=True):
        shuffled[(slice(None), *to)], moved[to] = image[(slice(None), *places[number])], labels[places[number]]
    return shuffled, moved


def _cut_out(other: Scan, scan: Scan, random: np.random.Generator) -> Image:
    """A block of another scan, resampled to the case's spacing, of the case's size; mirrored at its ends where it is smaller."""
    factors = [a / b for a, b in zip(other.grid.spacing, scan.grid.spacing, strict=True)]
    volume = ndimage.zoom(other.image[0], factors, order=1)
    missing = [max(0, n - m) for n, m in zip(scan.grid.shape, volume.shape, strict=True)]
    volume = np.pad(volume, [(0, m) for m in missing], mode="symmetric")
    best = volume
    for _ in range(20):  # no block of air alone
        starts = [int(random.integers(m - n + 1)) for n, m in zip(scan.grid.shape, volume.shape, strict=True)]
        best = volume[tuple(slice(a, a + n) for a, n in zip(starts, scan.grid.shape, strict=True))]
        if best.std() > 0.5 * volume.std():
            break
    return np.repeat(best[np.newaxis], len(scan.image), 0)


def _found(seen: Seen, scan: Scan, reference: Integers | None, trust: Trust, network: bool) -> Found:
    if not network:
        assert trust.ranges is not None
        return Found(unlike=trust.ranges.differences(facts_of(seen, scan)))
    held = predict(seen, scan, np.zeros(scan.grid.shape, np.int16) if reference is None else reference)
    of = held.confidence
    found = trust.confidence(of.agreement, of.facts)
    plain = trust.model_copy(update={"ranges": None}).confidence(of.agreement)
    return Found(unlike=found.unlike, confidence=found, plain=plain, dice=None if reference is None else held.score.mean_dice)


def _print_row(kind: str, found: Sequence[Found]) -> None:
    reasons = Counter(_topic(reason) for f in found for reason in f.unlike)
    flagged = _mean([float(bool(f.confidence.flagged)) for f in found if f.confidence])
    qualities = (_mean([of.quality for f in found if (of := getattr(f, name))]) for name in ("plain", "confidence"))
    numbers = (*qualities, _mean([f.dice for f in found if f.dice is not None]))
    print(
        f"{kind:24}{len(found):8}{np.mean([bool(f.unlike) for f in found]):9.1%}{flagged:13.1%}"
        + "{:9.3f}{:10.3f}{:11.3f}  ".format(*numbers)
        + ", ".join(f"{topic} {number}" for topic, number in reasons.most_common(4))
    )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _topic(reason: str) -> str:
    """A difference without its numbers, in two words."""
    for words in ("spacing", "size", "after normalization", "before normalization", "neighbours", "changes by", "correlation"):
        if words in reason:
            return {"after normalization": "intensities", "before normalization": "spread", "changes by": "pose"}.get(words, words)
    return "other"


def _divide(patients: Mapping[str, str], random: np.random.Generator) -> dict[str, int]:
    """The part of each case, by its name; those of one patient are in one."""
    names = sorted(set(patients.values()))
    part_of = dict(zip(names, (random.permutation(len(names)) % PARTS).tolist(), strict=True))
    return {name: part_of[patient] for name, patient in patients.items()}


def _ranges_without(
    part: int, facts: Mapping[str, ScanFacts], parts: Mapping[str, int], patients: Mapping[str, str], channels: Sequence[str]
) -> ScanRanges | None:
    names = [name for name in facts if parts[name] != part]
    return find_ranges([facts[name] for name in names], channels, [patients[name] for name in names])


def _false_alarms(
    facts: Mapping[str, ScanFacts], patients: Mapping[str, str], channels: Sequence[str], random: np.random.Generator
) -> float:
    """Share of cases called foreign beside the other four fifths."""
    alarms, parts = list[bool](), _divide(patients, random)
    for part in range(PARTS):
        ranges = _ranges_without(part, facts, parts, patients, channels)
        alarms += [bool(ranges and ranges.differences(of)) for name, of in facts.items() if parts[name] == part]
    return float(np.mean(alarms))


if __name__ == "__main__":
    main()
