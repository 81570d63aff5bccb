"""Labels by the names of segments in headers: one value for each name, whatever value each file has for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from nnseg.core.dataset import Finding, counted, list_some, listed
from nnseg.core.labels import Labels
from nnseg.storage.datasets.labels.masks import by_marks
from nnseg.storage.datasets.labels.request import MOST_NAMED, LabelMeaning, Request
from nnseg.storage.images.label_codings import is_background


def name_segments(request: Request) -> LabelMeaning:
    """Labels by the names in headers; with declared labels only where these names are theirs."""
    headers = {
        case: {s.name: s.value for s in shown.segments if not is_background(s.name)} for case, shown in request.shown.items()
    }
    if request.declared is not None:
        return _declared_segments(request, headers, request.declared)
    values = _one_value_each([header for header in headers.values() if header])
    first_layer = (s for shown in request.shown.values() for s in shown.segments if not s.channel and not is_background(s.name))
    differ = sorted({segment.name for segment in first_layer if values[segment.name.casefold()][1] != segment.value})
    _refuse_without_header(request, bool(differ), {str(v) for _, v in values.values()})
    names = {value: name for name, value in values.values()}
    singles = {case: {name: values[name.casefold()][1] for name in headers[case]} for case in request.usable()}
    said = f"label names from the headers of {counted(sum(map(bool, headers.values())), 'label map')}"
    line = f"{said}; {list_some(differ, MOST_NAMED)} had other values in some and were mapped by name" if differ else said
    return by_marks(request, singles, names, "segments", (line,))


def _one_value_each(headers: Sequence[Mapping[str, int]]) -> dict[str, tuple[str, int]]:
    """The name as first written and the value of each name without case: the most common value, or else the next that is free."""
    common: dict[str, Counter[int]] = {}
    spelled: dict[str, str] = {}
    for header in headers:
        for name, value in header.items():
            common.setdefault(name.casefold(), Counter())[value] += 1
            spelled.setdefault(name.casefold(), name)
    taken: dict[str, tuple[str, int]] = {}
    used: set[int] = {0}
    for name, counts in common.items():
        value = counts.most_common(1)[0][0]
        if value not in used:
            taken[name] = spelled[name], value
            used.add(value)
    for name in common:
        if name not in taken:
            taken[name] = spelled[name], max(used) + 1
            used.add(max(used) + 1)
    return dict(sorted(taken.items(), key=lambda item: item[1][1]))


def _refuse_without_header(request: Request, differ: bool, known: set[str]) -> None:
    """Exclude label maps without segments where values do not mean the same in all headers, or have values that none names."""
    for name, shown in request.shown.items():
        if shown.coding != "values":
            continue
        strange = [v for (v,) in shown.marks if v != "0" and v not in known]
        if differ:
            request.refuse(name, "has no names of segments, and values differ between the others", "names", "name its segments")
        elif strange:
            found = f"has the value {strange[0]}, and no names of segments"
            request.refuse(name, found, "a value that other headers name", "name its segments")


def _declared_segments(request: Request, headers: Mapping[str, Mapping[str, int]], declared: Labels) -> LabelMeaning:
    """By name where names are declared; by value where values agree with all names that are declared, or none is."""
    wanted = {name.casefold(): value for name, value in declared.by_name.items()}
    singles: dict[str, dict[str, int]] = {}
    by_value, by_name = [], []
    for case, header in headers.items():
        shown = request.shown[case]
        layered = any(s.channel for s in shown.segments)
        known = {name: wanted[name.casefold()] for name in header if name.casefold() in wanted}
        present = {name for mark in shown.marks for name in mark}
        unknown = [name for name in header if name in present and name not in known]
        agree = all(header[name] == value for name, value in known.items()) and not layered
        if not unknown:
            singles[case] = known
            by_name += [case] if not agree else []
        elif agree and all(header[name] in declared.values for name in unknown):
            singles[case] = dict(header)
            by_value.append(case)
        else:
            found = f"describes segment {unknown[0]} ({header[unknown[0]]}), which dataset.json does not name"
            request.refuse(case, found, f"{list_some(declared.names[1:], MOST_NAMED)}", "rename it, or the label in dataset.json")
    findings = []
    if by_value:
        message = f"names of segments in {listed(by_value)} are not those of dataset.json; their values are used"
        findings.append(Finding.of("NS-D035", message))
    inferred = (f"segments of {listed(by_name)} have other values than dataset.json; they were mapped by name",) if by_name else ()
    names = dict(zip(declared.values[1:], declared.names[1:], strict=True))
    meaning = by_marks(request, singles, names, "segments", inferred)
    return replace(meaning, findings=(*meaning.findings, *findings), instances=request.instances)
