"""`ConvertedScan`: a label map with all that the files of other programs say of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nnseg.core.image import Integers, LabelMap, Source
from nnseg.core.labels import Labels
from nnseg.core.names import fault_of_name, shortened
from nnseg.storage.images.write import to_stored_order
from nnseg.storage.predictions import ScanRecord


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvertedScan:
    """The label map of a scan, with the chosen labels.

    Args:
        name: of the case.
        label_map: on the scan's canonical grid; voxels of labels that were not chosen are background.
        source: of the scan.
        labels: the chosen ones.
        record: of the prediction.
        seg: the DICOM-SEG of all labels among the predictions; None if there is none.
    """

    name: str
    label_map: LabelMap
    source: Source
    labels: Labels
    record: ScanRecord
    seg: Path | None = None

    @cached_property
    def stored(self) -> Integers:
        """The values (Z, Y, X) in the stored order of the scan."""
        return to_stored_order(self.label_map, self.source)

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """The voxels of a label or region (Z, Y, X), in the stored order of the scan."""
        return np.isin(self.stored, self.labels.foreground_values[name])


def with_labels(label_map: LabelMap, labels: Labels) -> LabelMap:
    """The label map with all values that are none of some labels replaced by the background."""
    kept = np.isin(label_map.labels, [value for values in labels.foreground_values.values() for value in values])
    return replace(label_map, labels=np.where(kept, label_map.labels, label_map.labels.dtype.type(labels.values[0])))


def file_names(labels: Labels) -> dict[str, str]:
    """The name, without suffix, of the file of each foreground label or region.

    Example:
        ``file_names(Labels(names=("background", "liver / all"), values=(0, 1))) == {"liver / all": "liver___all"}``
    """
    found: dict[str, str] = {}
    for name in labels.foreground:
        plain = shortened("".join(letter if letter.isalnum() or letter in "-.+" else "_" for letter in name))
        taken = plain.casefold() in map(str.casefold, found.values())  # one file where upper and lower case are the same
        found[name] = f"{plain}_{len(found) + 1}" if taken or fault_of_name(plain) else plain
    return found
