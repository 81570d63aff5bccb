"""Names of a submission's files, and the values that are written into them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from nnseg.core.dataset import Finding, counted, list_some
from nnseg.core.errors import PlanError
from nnseg.core.labels import Labels
from nnseg.core.names import fault_of_name, nearest_name

if TYPE_CHECKING:
    from nnseg.interop.challenges.rules import Names, Pixels

BROKEN = "NS-C001"
"""The code of a broken rule."""


def name_files(cases: Sequence[str], names: Names) -> dict[str, str]:
    """The path in the archive of each case that the rules have a name for.

    Args:
        cases: their names.
        names: the rules.
    """
    found = _known(cases, names)
    place = dict[str, int]()
    for alike in _alike(found):
        place |= {case: number for number, case in enumerate(alike)}
    return {
        case: names.file.format(case=case, ordinal=names.ordinals[place[case]] if names.ordinals else "", **groups)
        for case, groups in found.items()
        if not names.ordinals or place[case] < len(names.ordinals)
    }


def check_names(cases: Sequence[str], names: Names) -> tuple[Finding, ...]:
    """What is wrong with the names of cases, or of the files that they get."""
    return tuple(Finding.of(BROKEN, message, case=case) for case, message in _faults(cases, names))


def written_values(labels: Labels, pixels: Pixels) -> dict[int, int]:
    """The value that is written for each value of a model's label maps.

    Raises:
        PlanError: a label of ``rewrite`` is none of the model.
    """
    values = label_map_values(labels)
    by_word = {str(value): value for value in values.values()} | values
    for word in pixels.rewrite:
        if word not in by_word and not word.isdecimal():  # presets name values that only some models have
            meant = nearest_name(word, by_word)
            advice = f"did you mean {meant}?" if meant else f"it has {list_some([*values], 10)}"
            raise PlanError(f'pixels.rewrite: the model has no label "{word}"; {advice}')
    changed = {by_word[word]: value for word, value in pixels.rewrite.items() if word in by_word}
    return {value: changed.get(value, value) for value in values.values()}


def label_map_values(labels: Labels) -> dict[str, int]:
    """The values of a model's label maps by name, the background's first; where regions overlap in part, that of the label."""
    whole = labels.whole
    if not whole.regions:
        return whole.by_name
    painted = {region.name: region.paint for region in whole.regions}
    further = {whole.by_value[value]: value for value in whole.painted if value not in painted.values()}
    return {whole.names[0]: whole.values[0], **painted, **further}


def check_values(labels: Labels, pixels: Pixels) -> tuple[Finding, ...]:
    """Labels of a model whose values the challenge does not know.

    Raises:
        PlanError: the model has no such label.
    """
    if pixels.content == "probabilities":
        _check_head(labels, pixels.probability_of)
        return ()
    written, expected = written_values(labels, pixels), list_some([*map(str, pixels.values)], 20)
    advice = "write another value by pixels.rewrite in a file of your own, or use another model"
    return tuple(
        Finding.of(BROKEN, f'label "{name}" is written as {written[value]}; expected one of {expected}; {advice}')
        for name, value in label_map_values(labels).items()
        if written[value] not in pixels.values
    )


def _check_head(labels: Labels, wanted: str) -> None:
    """Raise PlanError if a model gives no such probability."""
    if wanted not in ("foreground", "background", *labels.heads):
        advice = f"it has {list_some(labels.heads, 10)}"
        raise PlanError(f'pixels.probability_of: the model has no label or region "{wanted}"; {advice}')


def _faults(cases: Sequence[str], names: Names) -> Iterator[tuple[str, str]]:
    """Names of cases, or "" for all of them together, with what is wrong."""
    found = _known(cases, names)
    for case in sorted({*cases} - {*found}):
        known = "".join(f', and "{{{group}}}" one of {list_some([*words], 20)}' for group, words in names.words.items())
        yield case, f"has another name than the challenge's cases; expected {names.case}{known}; rename the scan"
    for alike in _alike(found) if names.ordinals else ():
        if len(alike) != len(names.ordinals):
            expected = f"{counted(len(names.ordinals), 'case')} of the patient, for {', '.join(names.ordinals)}"
            yield alike[0], f"is one of {counted(len(alike), 'case')}; expected {expected}; add or remove scans"
    owners = defaultdict[str, list[str]](list)
    for case, file in name_files(cases, names).items():
        owners[file].append(case)
        if fault := next((fault for part in PurePosixPath(file).parts if (fault := fault_of_name(part, 255))), ""):
            yield case, f'its file "{file}" {fault}; expected a path in an archive; rename the scan'
    for file, those in owners.items():
        if len(those) > 1 and not names.pages:
            yield those[1], f"gets the file {file} as {those[0]} does; expected a file for each case; rename a scan"
    if names.count and len(owners) != names.count:
        yield "", f"there would be {counted(len(owners), 'file')}; expected {names.count}; give all test scans of the challenge"


def natural(name: str) -> list[str | int]:
    """A key that sorts names as people count: "slice 2" before "slice 10"."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", name))]


def _known(cases: Sequence[str], names: Names) -> dict[str, Mapping[str, str]]:
    """The groups of the names that the rules know, by name, in the order of names."""
    return {case: groups for case in sorted(cases, key=natural) if (groups := _groups(case, names)) is not None}


def _groups(case: str, names: Names) -> Mapping[str, str] | None:
    """The groups of a case's name, in the words of the rules; None for a name that these do not know."""
    match = re.fullmatch(names.case, case)
    if match is None:
        return None
    groups = {name: text or "" for name, text in match.groupdict().items()}
    if any(groups[name] not in words for name, words in names.words.items()):
        return None
    return {name: names.words.get(name, {}).get(text, text) for name, text in groups.items()}


def _alike(found: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Cases that agree in all groups, in the order of their names."""
    together = defaultdict[tuple[tuple[str, str], ...], list[str]](list)
    for case, groups in found.items():
        together[tuple(sorted(groups.items()))].append(case)
    return [*together.values()]
