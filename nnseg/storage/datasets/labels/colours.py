"""Labels by colours, named by a legend or numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from nnseg.core.dataset import list_some
from nnseg.core.errors import DatasetError
from nnseg.core.label_files import LabelFiles
from nnseg.core.labels import Labels
from nnseg.storage.datasets.labels.legends import ColourLegend, find_legend
from nnseg.storage.datasets.labels.request import BLACK, MOST_NAMED, LabelMeaning, Request, no_label
from nnseg.storage.images.label_codings import is_background

MOST_COLOURS = 256
"""More colours than this are a picture's, not labels."""


def name_colours(request: Request) -> LabelMeaning:
    """Colours named by a legend, or numbered."""
    usable = request.usable()
    total: Counter[str] = Counter()
    for shown in usable.values():
        total.update({mark[0]: n for mark, n in shown.marks.items()})
    legend = find_legend(request.legend_folders())
    names = dict(legend.names) if legend else {}
    back = next((code for code, name in names.items() if is_background(name)), BLACK)
    if back not in total and not legend:
        back = total.most_common(1)[0][0]
    order = [*(code for code in names if code in total), *sorted(code for code in total if code not in names)]
    if legend and (strange := [code for code in order if code not in names and code != back]):
        for name, shown in usable.items():
            if found := [mark[0] for mark in shown.marks if mark[0] in strange]:
                text = f"has {shown.marks[(found[0],)]} voxels of the colour {found[0]}"
                request.refuse(name, text, f"the colours of {legend.path}", "correct one of them")
        order = [code for code in order if code not in strange]
    foreground = [code for code in order if code != back]
    if not foreground:
        raise no_label(request.folder, request.problems)
    if len(foreground) > MOST_COLOURS:
        raise DatasetError.at(request.folder, f"has label maps of {len(total)} colours", f"at most {MOST_COLOURS}", "add a legend")
    labels = request.declared or Labels(
        names=("background", *(names.get(code, code) for code in foreground)), values=tuple(range(len(foreground) + 1))
    )
    return _coloured(request, labels, [back, *foreground], names, legend)


def _coloured(
    request: Request, labels: Labels, codes: Sequence[str], names: Mapping[str, str], legend: ColourLegend | None
) -> LabelMeaning:
    wanted = {name.casefold(): value for name, value in labels.by_name.items()}
    values = {code: wanted.get(names.get(code, code).casefold()) for code in codes[1:]}
    if None in values.values():
        code = next(code for code, value in values.items() if value is None)
        found = f"has label maps with the colour {code} ({names.get(code, 'of no name')})"
        advice = "add a legend such as labelmap.txt, or correct the names in dataset.json"
        raise DatasetError.at(request.folder, found, f"colours named {list_some(labels.names[1:], MOST_NAMED)}", advice)
    mapping = {codes[0]: labels.values[0]} | {code: value for code, value in values.items() if value is not None}
    sources = {name: LabelFiles(paths=(request.path(name),), coding="colours", values=mapping) for name in request.usable()}
    by = f"by {legend.below(request.folder)}" if legend else "numbered in the order of their codes, for want of a legend"
    listing = ", ".join(f"{code}={value}" + (f" {names[code]}" if code in names else "") for code, value in mapping.items())
    line = f"labels from colours, {by}: {listing}"
    return LabelMeaning(labels=labels, sources=sources, instances=request.instances, inferred=(line,))
