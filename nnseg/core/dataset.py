"""Cases, datasets, and their division into folds."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnseg.core.codes import CODES, Level, Severity
from nnseg.core.errors import NnsegError, coded, split_code
from nnseg.core.frozen import LINES, WIDTH, FrozenModel, short_repr
from nnseg.core.label_files import LabelFiles, LabelSource, label_paths
from nnseg.core.labels import Labels
from nnseg.core.names import CaseName, PrintablePath, PrintableText
from nnseg.core.options import Options


class Finding(FrozenModel):
    """An observation about a dataset.

    Args:
        level: "error" excludes the case, or stops the run; "warning" should be checked, "note" explains how the case was handled.
        message: what was found, what was expected and what to do, in one line.
        case: name of the case; "" if it is about the dataset.
        file: path of the file; "" if it is about none.
        code: of its kind, an entry of `CODES`; "" in records of older versions.
    """

    level: Level
    message: PrintableText
    case: PrintableText = ""
    file: PrintableText = ""
    code: str = ""

    def __str__(self) -> str:
        place = f"case {self.case}: " if self.case else ""
        file = f" ({self.file})" if self.file and self.file not in self.message else ""
        return coded(f"{place}{self.message}{file}", self.code)

    def __repr__(self) -> str:
        return "\n".join(textwrap.wrap(f"{type(self).__name__}({self.level}: {self})", WIDTH, max_lines=LINES))

    @classmethod
    def of(cls, code: str, message: str, *, case: str = "", file: str | Path = "") -> Finding:
        """A finding of a kind, with the level of that kind."""
        return cls(level=CODES[code].level, message=message, case=case, file=str(file), code=code)

    @classmethod
    def read(cls, text: str, kind: str, *, case: str, files: Sequence[Path] = (), file: str | Path = "") -> Finding:
        """A finding about a case by the text of an error or of a reader's note, which may end in a code.

        Args:
            kind: the code of a text that ends in none.
            files: of the case; with which one the text begins, that it is about.
            file: that it is about otherwise.
        """
        message, code = split_code(text)
        message = message.removeprefix(f"case {case}: ")
        named = next((one for one in files if message.startswith(f"{one}: ")), file)
        return cls.of(code or kind, message, case=case, file=named)

    @property
    def severity(self) -> Severity:
        """What was done about it; a kind that stops a run and was allowed is a warning."""
        known = CODES.get(self.code)
        return known.severity if known and known.level == self.level else _SEVERITIES[self.level]

    def explain(self) -> dict[str, str]:
        """All of it for JSON, with what was found and expected, and what to do; of the kind in general where it does not say."""
        kind = CODES.get(self.code)
        found, _, rest = self.message.partition("; expected ")
        expected, _, advice = rest.partition("; ")
        if not rest and kind:
            expected, advice = kind.expected, kind.advice
        for place in (self.file, Path(self.file).name):
            found = found.removeprefix(f"{place}: ") if place else found
        parts = {"severity": self.severity, "found": found, "expected": expected, "advice": advice}
        return self.model_dump(mode="json") | parts


def findings_of(error: NnsegError) -> tuple[Finding, ...]:
    """An error as a finding, and the others that were found before it, the severe ones first."""
    text = split_code(str(error))[0]
    named = text.partition(": ")[0]
    own = Finding.of(error.kind or "NS-R001", text, file=named if Path(named).is_absolute() and Path(named).exists() else "")
    return own, *(one for one in by_severity(error.findings) if one.code != own.code or one.case)


_SEVERITIES: dict[Level, Severity] = {"error": "case rejected", "warning": "warning", "note": "fixed and noted"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One examination on disk.

    Args:
        name: unique in its dataset, and one that files can have (`nnseg.core.names.fault_of_name`).
        images: one file, or one file per channel, in channel order; a folder is a DICOM series.
        labels: where its label map is, if known.
        annotated: names of the labels that were annotated; None for all. Others may be in the scan, marked as background.
        subject: the patient, where the layout tells it; "" if it does not.
        split: the part that the dataset itself puts it in: "fold 0" ..., "validation", "test"; "" if it does not.
        spacing: mm along the stored axes (z, y, x), for files without one.
        view: mask of the field of view, outside which nothing is learned or scored, if there is one.
        objects: file with the numbers of the objects in its label map, if there is one.
        missing: of a scan to predict, numbers of the model's channels of which there is no file.
    """

    name: CaseName
    images: tuple[Path, ...]
    labels: LabelSource | None = None
    annotated: tuple[str, ...] | None = None
    subject: str = ""
    split: str = ""
    spacing: tuple[float, float, float] | None = None
    view: Path | None = None
    objects: Path | None = None
    missing: tuple[int, ...] = ()

    __repr__ = short_repr

    @property
    def files(self) -> tuple[Path, ...]:
        """Images, then the files of the label map if there is one, the mask of the field of view, and the numbers of objects."""
        return (*self.images, *label_paths(self.labels), *(path for path in (self.view, self.objects) if path))


class Unused(FrozenModel):
    """A file or folder in a dataset, or among scans, that is not used.

    Args:
        path: of the file or folder.
        reason: in a few words, such as "a preview".
        suspect: it looks like a scan, so that someone may miss it.
    """

    path: PrintablePath
    reason: str
    suspect: bool = False


class Reading(FrozenModel):
    """How a folder is to be read, where its names do not tell it or tell something else.

    Args:
        images, labels: a folder below it or a pattern of paths; "" to go by names.
        channels: which of the channels to use, in this order; () for all.
        spacing: mm along the stored axes (z, y, x), for files without one.
        layout: name of the layout; "" for the first that fits.
        auto_labels: values that a dataset.json does not declare are labels too.
    """

    images: str = ""
    labels: str = ""
    channels: tuple[str, ...] = ()
    spacing: tuple[float, float, float] | None = None
    layout: str = ""
    auto_labels: bool = False

    @classmethod
    def of(cls, options: Options) -> Reading:
        """What the options of a command say."""
        return cls(
            images=options.images,
            labels=options.labels,
            channels=options.channels,
            spacing=options.spacing,
            layout=options.layout,
            auto_labels=options.auto_labels,
        )


AS_FOUND = Reading()
"""As its names tell."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A collection of labelled cases.

    Args:
        name: of its dataset.json, or else of its folder.
        folder: never written to.
        layout: in words: "Medical Segmentation Decathlon layout".
        cases: sorted by name.
        channels: names: "MRI", "CT", ...
        suffix: of its image files, with the dot.
        instances: names of labels whose connected components are objects, such as lesions.
        findings: problems of the dataset; cases named in errors are not in ``cases``.
        inferred: what was concluded from names of files and contents, in one line each, such as "labels from *-seg".
        unused: what lies in the folder and is not used.
        reading: the options that it was read with.
        about: "description", "licence", "reference" and "release", as published.
    """

    name: str
    folder: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...]
    labels: Labels
    suffix: str
    instances: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    inferred: tuple[str, ...] = ()
    unused: tuple[Unused, ...] = ()
    reading: Reading = field(default_factory=Reading)
    about: Mapping[str, str] = field(default_factory=dict)

    __repr__ = short_repr

    @property
    def numbered(self) -> tuple[str, ...]:
        """Names of labels whose objects all label maps number, so that objects which touch are told apart."""
        sources = [case.labels for case in self.cases if case.labels is not None]
        known = [source for source in sources if isinstance(source, LabelFiles)]
        if not known or len(known) < len(sources) or self.labels.regions:
            return ()
        return tuple(name for name in self.instances if all(source.numbers(self.labels.by_name[name]) for source in known))

    @property
    def lesions(self) -> tuple[str, ...]:
        """Names of labels whose objects are connected components, since not all label maps number them."""
        return tuple(name for name in self.instances if name not in self.numbered)

    def describe(self) -> str:
        """Layout, cases, channels and labels in one line."""
        channels = f"{counted(len(self.channels), 'channel')} ({', '.join(self.channels)})"
        return f"{self.layout}, {counted(len(self.cases), 'case')}, {channels}, labels {self.labels.describe()}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 case", "2 cases"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def listed(names: Collection[str], most: int = 5, *, noun: str = "case") -> str:
    """Names of cases, at most ``most``: "case a", "cases a, b and 3 more"."""
    return f"{noun if len(names) == 1 else f'{noun}s'} {list_some(sorted(names), most)}"


def list_some(names: Sequence[str], most: int = 3) -> str:
    """Names, at most ``most``: "a, b and 3 more"."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_unused(unused: Collection[Unused]) -> tuple[str, ...]:
    """What is not used, one line for each reason: how many, or the name of the only one, and of a few that someone may miss."""
    by_reason: dict[tuple[str, bool], list[Unused]] = {}
    for one in unused:
        by_reason.setdefault((one.reason, one.suspect), []).append(one)
    return tuple(
        f"not used: {_name_unused(reason, ones)}"
        for (reason, _), ones in sorted(by_reason.items(), key=lambda item: not item[0][1])
    )


def _name_unused(reason: str, ones: Sequence[Unused]) -> str:
    if ones[0].suspect:
        return f"{reason} ({list_some([one.path.name for one in ones])})"
    if len(ones) > 1:
        return f"{reason} ({len(ones)} files)"
    if reason.startswith("is "):
        return f"{ones[0].path.name} {reason}"
    return reason if reason[0].isdecimal() else f"{reason} ({ones[0].path.name})"  # "2 files without image" is of several


def by_severity(findings: Collection[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes."""
    return tuple(sorted(findings, key=lambda finding: ("error", "warning", "note").index(finding.level)))


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One division of the cases.

    Args:
        training: names of the cases to train on.
        held_out: names of those to score.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]

    __repr__ = short_repr
