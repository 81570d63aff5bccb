"""`Segmentation`: what a model predicts for one scan in memory, and how it shows and saves itself."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from nnseg.core.colours import hex_colour_of
from nnseg.core.image import LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.registration import StepRecord
from nnseg.reporting.overlay import LabelledSlice
from nnseg.storage.images.formats import FOLDER_FORMATS, stem_of, suffix_of
from nnseg.storage.images.write import write_label_files, write_label_map
from nnseg.system.extras import check_extra

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = TypeVar("Image")

WIDTH = 80
"""Columns of the lines of a ``repr``."""

MOST_ROWS = 40
"""Labels in the table of a notebook; of more, those that were found come first."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predicted:
    """The prediction as it is saved and drawn.

    Args:
        label_map: on the scan's canonical grid.
        source: of the scan.
        labels: what the values mean.
        array: the label map in the order of axes of the scan as it was given.
        shown: its slice with most foreground.
    """

    label_map: LabelMap
    source: Source
    labels: Labels
    array: npt.NDArray[Any]
    shown: LabelledSlice


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Segmentation(Generic[Image]):
    """A model's prediction for one scan; ``numpy.asarray`` gives the array of its label map, and notebooks show a picture.

    Args:
        label_map: the dataset's label values, in the kind of image that the scan was given as, on its own grid: an array for an
            array, a tensor on the same device for a tensor, an image of nibabel for one of nibabel, else one of SimpleITK.
        labels: values by name, the background's first.
        volumes: of each label or region of the foreground, in ``unit``; areas for 2D images.
        unit: "ml"; "mm²" for 2D images; "1000 voxels" or "pixels" where no spacing is known, or a small unit that the file states.
        objects: numbers of the objects of labels whose objects the training's label maps number, or whose connected components are
            objects, 0 where there is none; None for other models.
        object_counts: how many there are of each of these labels.
        probabilities: float32, of all labels with the background, or of the regions: (K, Z, Y, X) for arrays and tensors, (X, Y, Z,
            K) for nibabel, vectors for SimpleITK. None unless requested.
        uncertainty: float32, the probability that a voxel's label is wrong. None unless requested.
        expected_dice: of each label that was predicted, calibrated on held-out cases. None unless uncertainty was requested and the
            model was calibrated.
        dice_intervals: of their Dice, which hold for 90 % of scans; none where fewer than 9 held-out cases have the label, nor of a
            foreign scan.
        volume_intervals: of the true volumes, in ``unit``, likewise.
        flagged: True if the expected mean Dice is as low as that of the worst tenth of the held-out cases; None where that is not
            known.
        foreign: True if the scan is unlike those of the training; None where that was not measured.
        unlike: differences of the scan from those of the training, in spacing, size and intensities, one line each.
        preparation: what each step did to the scan that the model was loaded with.
    """

    label_map: Image
    labels: Mapping[str, int]
    volumes: Mapping[str, float]
    unit: str
    objects: Image | None = None
    object_counts: Mapping[str, int] = field(default_factory=dict)
    probabilities: Image | None = None
    uncertainty: Image | None = None
    expected_dice: Mapping[str, float] | None = None
    dice_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    volume_intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    flagged: bool | None = None
    foreign: bool | None = None
    unlike: tuple[str, ...] = ()
    preparation: tuple[StepRecord, ...] = ()
    _predicted: Predicted

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._predicted.array, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        found = {name: size for name, size in self.volumes.items() if size}
        shape = " x ".join(map(str, self._predicted.array.shape))
        sizes = ", ".join(f"{name} {size:.4g}" for name, size in found.items()) or "nothing found"
        lines = [f"Segmentation of {shape} voxels", f"{sizes}{f' ({self.unit})' if found else ''}"]
        if self.object_counts:
            lines.append(f"objects: {', '.join(f'{n} {name}' for name, n in self.object_counts.items())}")
        if self.expected_dice is not None:
            expected = ", ".join(f"{name} {dice:.2f}" for name, dice in self.expected_dice.items())
            lines.append(f"expected Dice: {expected or 'unknown'}{'; flagged' if self.flagged else ''}")
        if self.unlike:
            lines.append(f"foreign scan: {'; '.join(self.unlike)}")
        return "\n".join(shorten(line, WIDTH, placeholder=" ...") for line in lines)

    def _repr_html_(self) -> str:
        """The slice with most foreground beside a table of the volumes."""
        names, shown = list(self.volumes), self._predicted.shown
        rows = [self._row(names.index(name) + 1, name) for name in sorted(names, key=lambda n: not self.volumes[n])[:MOST_ROWS]]
        more = [f"<tr><td colspan=9>and {len(names) - MOST_ROWS} more</td></tr>"] if len(names) > MOST_ROWS else []
        dice = "<th>expected Dice</th>" if self.expected_dice is not None else ""
        notes = [*(["flagged: low expected Dice"] if self.flagged else []), *(f"foreign scan: {one}" for one in self.unlike)]
        below = "".join(f"<div>{html.escape(note)}</div>" for note in (shown.title, *notes) if note)
        return (
            "<div style='display:flex;gap:1em;flex-wrap:wrap;align-items:flex-start'>"
            f"<div><img src='{shown.data_url()}' alt='slice with labels in colours'>{below}</div>"
            f"<table><tr><th></th><th>label</th><th>{html.escape(self.unit)}</th>{dice}</tr>{''.join(rows + more)}</table></div>"
        )

    def _row(self, number: int, name: str) -> str:
        expected = ""
        if self.expected_dice is not None:
            known = self.expected_dice.get(name)
            dice = "" if known is None else f"{known:.2f}{_in_brackets(self.dice_intervals.get(name), '.2f')}"
            expected = f"<td>{dice}</td>"
        size = f"{self.volumes[name]:.4g}{_in_brackets(self.volume_intervals.get(name), '.3g')}"
        return (
            f"<tr><td><span style='color:{hex_colour_of(number - 1)}'>&#9632;</span></td><td>{html.escape(name)}</td>"
            f"<td style='text-align:right'>{size}</td>{expected}</tr>"
        )

    def plot(self) -> Figure:
        """A figure of matplotlib: the slice with most foreground, with the labels in colours.

        Raises:
            NnsegError: matplotlib is not installed (the extra ``figures``).

        Example:
            >>> model.predict("scan.nii.gz").plot().savefig("scan.png")
        """
        check_extra("figures", "plots")
        from nnseg.reporting.paper import overlay_figure  # noqa: PLC0415 (an extra)

        return overlay_figure(self._predicted.shown, tuple(self.volumes))

    def save(self, path: str | Path) -> None:
        """Write the label map on the scan's own grid; the suffix chooses the format, ``.dcm`` DICOM-SEG.

        Raises:
            ScanError: the format is unknown, lossy, or cannot hold these values or this shape.
            RunError: the file cannot be written.

        Example:
            >>> model.predict("scan.nii.gz").save("label_map.nii.gz")
        """
        path, predicted = Path(path), self._predicted
        like, labels, suffix = predicted.source, predicted.labels, suffix_of(path)
        if any(form.write and form.suffix == suffix for form in FOLDER_FORMATS.values()):
            write_label_files(predicted.label_map, path.parent, stem_of(path), like=like, labels=labels, suffix=suffix)
        else:
            write_label_map(predicted.label_map, path, like=like, labels=labels)


def _in_brackets(interval: tuple[float, float] | None, form: str) -> str:
    """An interval after its number; empty if there is none."""
    return f" ({interval[0]:{form}} to {interval[1]:{form}})" if interval else ""
