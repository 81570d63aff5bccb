"""A model card as Markdown: one page, under the headings of Mitchell et al. 2019, Model Cards for Model Reporting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nnseg.core.card import MetricSummary, ModelCard
from nnseg.core.decisions import EnsembleCandidate, Interval
from nnseg.core.names import printable
from nnseg.reporting.formatting import MISSING, Filters, by, interval, template_environment

AVERAGES = ("per_mask", "per_image", "pooled")

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and rows."""


def model_card_markdown(card: ModelCard) -> str:
    """The card as Markdown, ending with a line break."""
    filters: Filters = {"plain": _plain, "extremes": _extremes, "bracketed": _bracketed, "plain_list": _plain_list, "table": _table}
    environment = template_environment("nnseg.reporting", "page", escape=_sentence, filters=filters)
    page = environment.get_template("model_card.md.j2").render(
        card=card,
        averages=_average_table(card.scores),
        labels=_label_table(card.scores),
        candidates=[_candidate_row(one) for one in card.choice.candidates] if card.choice else [],
        hashes=_hash_rows(card),
        intervals=_interval_rows(card),
    )
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


class _Markdown(str):
    """Text that is Markdown already; any other is escaped."""

    __slots__ = ()


def _average_table(scores: Sequence[MetricSummary]) -> Table:
    found = {(of.title, of.unit, of.average): _bracketed(of.mean, of.interval, f".{of.digits}f") for of in scores}
    titles = dict.fromkeys((of.title, of.unit) for of in scores)
    rows = [[_titled(*title), *(found.get((*title, average), MISSING) for average in AVERAGES)] for title in titles]
    return ["Metric", *AVERAGES], rows


def _label_table(scores: Sequence[MetricSummary]) -> Table:
    metrics = [of for of in scores if of.average == "per_mask"]
    names = [name for name, *_ in metrics[0].labels] if metrics else []
    rows = [[_plain(name), *(_bracketed(*of.labels[i][1:], f".{of.digits}f") for of in metrics)] for i, name in enumerate(names)]
    return ["Label", *(_titled(of.title, of.unit) for of in metrics)], rows


def _interval_rows(card: ModelCard) -> list[list[str]]:
    found = card.reliance.intervals if card.reliance else ()
    return [[_plain(label), str(cases), *(interval(ends) or MISSING for ends in bounds)] for label, cases, *bounds in found]


def _candidate_row(of: EnsembleCandidate) -> list[str]:
    gain = "" if of.gain is None else _bracketed(of.gain, of.gain_interval, "+.4f")
    return [of.name, _bracketed(of.dice, of.interval, ".4f"), gain, "" if of.p is None else f"{of.p:.2g}", f"{of.seconds:.3g}"]


def _hash_rows(card: ModelCard) -> list[tuple[str, str]]:
    hashes: dict[str, Any] = {"model": card.model, "dataset": card.material.key}
    hashes |= {f"plan {networks.plan}": networks.key for networks in card.networks}
    for networks in card.networks:
        named = zip(networks.folds, networks.hashes, strict=True)
        hashes |= {f"weights {networks.plan}, fold {fold}": found for fold, found in named}
    return [(_plain(name), _Markdown(f"`{_plain(found)}`")) for name, found in hashes.items()]


def _titled(title: str, unit: str) -> str:
    return f"{title} ({unit})" if unit else title


def _bracketed(value: float | None, interval: Interval | None, form: str = ".3f") -> str:
    """A number with its interval in brackets."""
    within = f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else ""
    return _Markdown((MISSING if value is None else f"{value:{form}}") + within)


def _extremes(ends: tuple[Sequence[float], Sequence[float]]) -> str:
    """Smallest and largest lengths along axes."""
    low, high = ends
    return by(low) if low == high else f"{by(low)} to {by(high)}"


def _plain(text: str) -> _Markdown:
    """Text of unknown origin on one line, with Markdown's and HTML's special characters escaped."""
    return _Markdown(_escaped(text).strip())


def _plain_list(texts: Iterable[str]) -> _Markdown:
    return _Markdown(", ".join(map(_plain, texts)))


def _sentence(value: Any) -> Any:
    """A value that is put into the page: of text that is not known to be Markdown the plain text; underscores in words can stay."""
    if not isinstance(value, str) or isinstance(value, _Markdown):
        return value
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", _escaped(value))


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#~" else c for c in printable(re.sub(r"\s+", " ", text)))


def _table(content: Table) -> _Markdown:
    header, rows = content
    lines = [header, *rows]
    drawn = [f"| {' | '.join(map(_sentence, line))} |" for line in lines]
    return _Markdown("\n".join([drawn[0], "|" + " --- |" * len(header), *drawn[1:]]) + "\n")
