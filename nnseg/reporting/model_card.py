"""A model card as Markdown: one page, under the headings of Mitchell et al. 2019, Model Cards for Model Reporting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnseg.core.card import MetricSummary, ModelCard, Networks, TrainingData
from nnseg.core.dataset import counted
from nnseg.core.decisions import Choice, Interval, ensemble_name
from nnseg.reporting.formatting import by, decimals

AVERAGES = ("per_mask", "per_image", "pooled")


def markdown(card: ModelCard) -> str:
    """The card as Markdown, ending with a line break."""
    sections = {
        "Model details": _details(card),
        "Intended use": [card.purpose],
        "Factors": _factors(card.material),
        "Metrics": _metrics(card),
        "Evaluation data": _evaluation_data(card),
        "Training data": _training_data(card.material),
        "Quantitative analyses": [*_scores(card.scores), *_choice(card.choice), *_learned(card)],
        "Limits, caveats and recommendations": [f"- {limit}" for limit in card.limits],
        "Hashes and versions": _hashes(card),
    }
    parts = [f"# Model card: {_plain(card.name)}", *(f"## {title}\n\n" + "\n".join(lines) for title, lines in sections.items())]
    return "\n\n".join(parts) + "\n"


def _details(card: ModelCard) -> Iterator[str]:
    yield f"Made {card.made} by nnseg {card.versions.get('nnseg', '')}.".replace(" .", ".")
    for networks in card.networks:
        yield f"\n**Plan {networks.plan}**: {_role(networks)} {networks.words}".rstrip()


def _role(networks: Networks) -> str:
    said = f"{counted(len(networks.folds), 'network')} (fold {', '.join(map(str, networks.folds))})"
    if networks.weight is None:
        return f"{said}, whose answer the cascade's networks are shown."
    return f"{said}, whose probabilities count {networks.weight:g} each."


def _factors(material: TrainingData) -> Iterator[str]:
    yield f"- Channels: {', '.join(map(_plain, material.channels))}"
    yield f"- Voxel spacing (z, y, x): {_range(*material.spacing)} mm"
    yield f"- Scan size (z, y, x): {_range(*material.shape)} voxels"
    shown = ", ".join(f"{_plain(name)} ({cases} of {counted(material.cases, 'case')})" for name, cases in material.labels)
    yield f"- Labels: {shown}"


def _range(low: Sequence[float], high: Sequence[float]) -> str:
    return by(low) if low == high else f"{by(low)} to {by(high)}"


def _metrics(card: ModelCard) -> Iterator[str]:
    if not card.scores:
        yield "None was measured, for nothing was held out."
        return
    yield (
        "A mask is one label of one case. `per_mask` is the mean over all masks, `per_image` over cases of the mean over their "
        "labels, `pooled` over labels of ratios of what is summed over all cases. Masks that are empty on both sides count "
        "nowhere. Intervals are 95 %, by drawing cases with replacement."
    )


def _evaluation_data(card: ModelCard) -> Iterator[str]:
    if not card.held_out:
        yield "None: nothing was held out."
        return
    yield (
        f"Cross-validation: {counted(card.held_out, 'case')} of the training data, each predicted by networks that had not seen "
        "it, before any postprocessing. No data of another origin."
    )


def _training_data(material: TrainingData) -> Iterator[str]:
    yield f"- Dataset: {_plain(material.dataset)}, {counted(material.cases, 'case')}"
    for name in ("description", "reference", "licence", "release"):
        known = material.about.get(name)
        if known or name == "licence":
            yield f"- {name.capitalize()}: {_plain(known) if known else 'not stated; ask those who made the dataset'}"


def _scores(scores: Sequence[MetricSummary]) -> Iterator[str]:
    if not scores:
        return
    titles = dict.fromkeys((of.title, of.unit) for of in scores)
    found = {(of.title, of.average): of for of in scores}
    yield from _table(
        ["Metric", *AVERAGES],
        [[_titled(title, unit), *(_mean(found.get((title, average))) for average in AVERAGES)] for title, unit in titles],
    )
    masks = [of for of in scores if of.average == "per_mask"]
    names = [name for name, *_ in masks[0].labels] if masks else []
    yield "\nMean over the cases, by label:\n"
    yield from _table(
        ["Label", *(_titled(of.title, of.unit) for of in masks)],
        [[_plain(name), *(_number(*of.labels[i][1:]) for of in masks)] for i, name in enumerate(names)],
    )


def _choice(choice: Choice | None) -> Iterator[str]:
    if choice is None:
        return
    asked = counted(choice.cases, "held-out case")
    yield f"\n**Choice of plans** ({asked}): {ensemble_name(choice.plans)}. Reason: {choice.explained}.\n"
    rows = [
        [of.name, _number(of.dice, of.interval, 4), _gain(of.gain, of.gain_interval), _chance(of.p), f"{of.seconds:.3g}"]
        for of in choice.candidates
    ]
    yield from _table(["Plans", "Dice", f"Above {choice.best_single}", "p", "Seconds a scan"], rows)
    if choice.nested:
        gain = _gain(choice.nested.gain, choice.nested.interval)
        yield f"\nGain of the best ensemble in cases that had no say in which it is: {gain}."


def _learned(card: ModelCard) -> Iterator[str]:
    if post := card.postprocessing:
        yield f"\n**Postprocessing**: {counted(len(post.mendings), 'step')}. Reason: {post.reason}."
        gains = [f"{_plain(name)} {effect.gain:+.4f}" for name, effect in sorted(post.effects.items())]
        if gains:
            yield f"Dice of cases that had no say in it, by label: {', '.join(gains)}."
    if of := card.reliance:
        said = [f"probabilities are tempered by {of.temperature:.3g}"]
        if of.calibration_error is not None:
            said.append(f"their calibration error is {of.calibration_error:.4f}")
        if of.error is not None:
            said.append(f"the Dice that is expected of a scan is off by {of.error:.3f} in the mean")
        if of.threshold is not None:
            said.append(f"scans of which less than {of.threshold:.3f} is expected are flagged")
        yield f"\n**Its own estimate of quality**: {'; '.join(said)}."


def _hashes(card: ModelCard) -> Iterator[str]:
    yield from _table(
        ["What", "Hash"],
        [
            ["model", f"`{card.model}`"],
            ["dataset", f"`{card.material.key}`"],
            *([f"plan {networks.plan}", f"`{networks.key}`"] for networks in card.networks),
            *(
                [f"weights {networks.plan}, fold {fold}", f"`{found}`"]
                for networks in card.networks
                for fold, found in zip(networks.folds, networks.hashes, strict=True)
            ),
        ],
    )
    yield "\nTrained with " + ", ".join(f"{name} {version}" for name, version in sorted(card.versions.items())) + "."


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield "| " + " | ".join(row) + " |"


def _titled(title: str, unit: str) -> str:
    return f"{title} ({unit})" if unit else title


def _mean(of: MetricSummary | None) -> str:
    return _number(of.mean, of.interval) if of else decimals(None)


def _number(value: float | None, interval: Interval | None, digits: int = 3) -> str:
    within = f" [{decimals(interval[0], digits)}, {decimals(interval[1], digits)}]" if interval else ""
    return decimals(value, digits) + within


def _gain(value: float | None, interval: Interval | None) -> str:
    within = f" [{interval[0]:+.4f}, {interval[1]:+.4f}]" if interval else ""
    return "" if value is None else f"{value:+.4f}{within}"


def _chance(p: float | None) -> str:
    return "" if p is None else f"{p:.2g}"


def _plain(text: str) -> str:
    """Text from files of unknown origin, with nothing in it that Markdown or HTML would take for a command."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in " ".join(text.split()))
