"""Is a scan of another kind noticed? Foreign scans made of held-out ones, and how often scans of the same kind are called foreign.

    python benchmarks/foreign.py RUN [--other-body SCAN ...] [--other-modality SCAN ...] [--cases 40]

RUN is a finished run with one plan. Each held-out case is predicted by its fold's network, as it is and as each foreign scan made
of it. A case is compared with the held-out cases of the other four fifths. Of scans of another body part and modality blocks of the
case's size are cut out, and given its grid, so that only intensities differ; without ``--other-modality`` intensities become their
distance from the median. Printed: how often the flag of foreign scans and that of the worst tenth are raised; the expected Dice
without the comparison, and with it; the true Dice where there is a reference; and what was named most often.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nnseg.core.dataset import Case
from nnseg.core.geometry import as_shape
from nnseg.core.image import Integers, LabelMap, Scan
from nnseg.core.scan_ranges import find_ranges
from nnseg.core.trust import Confidence, Trust
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
    """A held-out case, predicted by the network of its fold."""

    case: Case
    scan: Scan
    reference: LabelMap
    predictor: Predictor
    held: HeldOutCase


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was said of one scan: with the comparison, and without."""

    confidence: Confidence
    plain: Confidence
    dice: float | None


def main() -> None:
    """Predict, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other-body", type=Path, nargs="*", default=[])
    parser.add_argument("--other-modality", type=Path, nargs="*", default=[])
    parser.add_argument("--cases", type=int, default=40)
    options = parser.parse_args()
    run = Run(options.run)
    seen, channels = list(predict_held_out(run)), run.plans[0].plan.channels
    print(f"{len(seen)} held-out cases; of the same kind {_false_alarms([s.held for s in seen], channels):.1%} are called foreign")
    held = [s.held for s in seen]
    trusts = [fit_trust([h for i, h in enumerate(held) if i % PARTS != part], channels) for part in range(PARTS)]
    body, modality = ([read_scan((path,), repair=True) for path in paths] for paths in (options.other_body, options.other_modality))
    header = ("kind", "scans", "foreign", "worst tenth", "plain", "expected", "true Dice")
    print("{:24}{:>8}{:>9}{:>13}{:>9}{:>10}{:>11}  named most often".format(*header))
    chosen = range(0, len(seen), max(1, -(-len(seen) // options.cases)))
    _print_row("none", [_found(seen[i], seen[i].scan, seen[i].reference.labels, trusts[i % PARTS]) for i in chosen])
    for kind, make in kinds(body, modality).items():
        found = []
        for i in chosen:
            scan, reference = foreign(seen[i], kind, make, np.random.default_rng(i))
            found.append(_found(seen[i], scan, reference, trusts[i % PARTS]))
        _print_row(kind, found)


def predict_held_out(run: Run) -> Iterator[Seen]:
    """Each held-out case of a trained fold, predicted and scored."""
    cases = {case.name: case for case in run.dataset.cases}
    (folder,) = run.final_plans.values()
    for fold in folder.trained_folds():
        predictor = Predictor(replace(load_model_file(fold.model_file), trust=None), device="cpu")
        for name in run.folds[fold.number].held_out:
            case = cases[name]
            scan = read_scan(case.images, repair=True, spacing=case.spacing)
            assert case.labels is not None
            reference = read_labels_of(case.labels, scan)
            prediction = predictor.infer(predictor.prepare(scan), uncertainty=True)
            counts = count(prediction.label_map.labels, reference.labels, predictor.model.labels, annotated=case.annotated)
            assert prediction.confidence is not None
            held = HeldOutCase(fold=fold.number, confidence=prediction.confidence, score=case_score(name, counts))
            yield Seen(case=case, scan=scan, reference=reference, predictor=predictor, held=held)


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


def _found(seen: Seen, scan: Scan, reference: Integers | None, trust: Trust) -> Found:
    prediction = seen.predictor.infer(seen.predictor.prepare(scan), uncertainty=True)
    assert prediction.confidence is not None
    dice = None
    if reference is not None:
        counts = count(prediction.label_map.labels, reference, seen.predictor.model.labels, annotated=seen.case.annotated)
        dice = case_score(seen.case.name, counts).mean_dice
    of = prediction.confidence
    return Found(
        confidence=trust.confidence(of.agreement, of.facts),
        plain=trust.model_copy(update={"ranges": None}).confidence(of.agreement),
        dice=dice,
    )


def _print_row(kind: str, found: Sequence[Found]) -> None:
    reasons = Counter(_topic(reason) for f in found for reason in f.confidence.unlike)
    dices = [f.dice for f in found if f.dice is not None]
    foreign_share, flagged_share = (np.mean([bool(getattr(f.confidence, name)) for f in found]) for name in ("foreign", "flagged"))
    print(
        f"{kind:24}{len(found):8}{foreign_share:9.1%}{flagged_share:13.1%}{np.mean([f.plain.quality for f in found]):9.3f}"
        f"{np.mean([f.confidence.quality for f in found]):10.3f}{np.mean(dices) if dices else float('nan'):11.3f}  "
        + ", ".join(f"{topic} {number}" for topic, number in reasons.most_common(4))
    )


def _topic(reason: str) -> str:
    """A difference without its numbers, in two words."""
    for words in ("spacing", "size", "after normalization", "before normalization", "neighbours", "changes by", "correlation"):
        if words in reason:
            return {"after normalization": "intensities", "before normalization": "spread", "changes by": "pose"}.get(words, words)
    return "other"


def _false_alarms(held: Sequence[HeldOutCase], channels: Sequence[str]) -> float:
    """Share of cases called foreign beside the other four fifths, over random divisions."""
    alarms, random = list[bool](), np.random.default_rng(0)
    facts = [h.confidence.facts for h in held if h.confidence.facts]
    for _ in range(REPEATS):
        order = random.permutation(len(facts))
        for part in range(PARTS):
            ranges = find_ranges([facts[i] for i in order[np.arange(len(facts)) % PARTS != part]], channels)
            alarms += [bool(ranges and ranges.distance(facts[i]) > 0) for i in order[part::PARTS]]
    return float(np.mean(alarms))


if __name__ == "__main__":
    main()
