"""`write_prediction`: the files of a prediction, in a folder."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from nnseg.core.frozen import digest
from nnseg.core.image import Source
from nnseg.inference.prediction import Prediction
from nnseg.serving.messages import OutputOptions, PredictionOrder
from nnseg.storage.files import file_hash
from nnseg.storage.images.write import to_stored_order, write_label_files, write_label_map, write_map, write_probabilities
from nnseg.storage.object_files import file_beside, write_object_table
from nnseg.storage.predictions import FORMAT, INTERIOR, OBJECTS, UNCERTAINTY

if TYPE_CHECKING:
    from nnseg.network.bundle import Model


class OutputTarget(OutputOptions):
    """The output options with the key of what is written.

    Args:
        key: digest of the model and the options: of all that determines the files, apart from the scan.
        held_out: objects are not told apart yet: the level of their interiors is written, from which they will be.
    """

    key: str = ""
    held_out: bool = False

    @classmethod
    def of(cls, order: PredictionOrder, model: str) -> Self:
        """The target of an order, for the model with a key."""
        made = [FORMAT, model, order.options()]
        return cls(key=digest(made), **order.model_dump(include=set(OutputOptions.model_fields)))


def write_prediction(prediction: Prediction, name: str, source: Source, target: OutputTarget, model: Model) -> dict[str, str]:
    """The names of the files written for a case, the label map first, with the hashes of their bytes; none is left upon an error.

    Args:
        prediction: on the scan's canonical grid.
        source: of its scan, whose grid and format the files get.
        target: the folder, and what is written.
        model: whose labels and channels the files name.
    """
    files = [
        *write_label_files(prediction.label_map, target.out, name, like=source, labels=model.labels, suffix=target.suffix or None)
    ]
    try:
        if prediction.objects is not None and prediction.intensities is not None:
            numbered = replace(prediction.label_map, labels=prediction.objects)
            files += write_label_map(numbered, file_beside(files[0], OBJECTS), like=source)
            files.append(file_beside(files[0], OBJECTS, ".csv"))
            stored = (to_stored_order(of, source) for of in (numbered, prediction.label_map))
            write_object_table(
                files[-1], *stored, like=source, labels=model.labels, channels=model.channels, intensities=prediction.intensities
            )
        if prediction.interior is not None and target.held_out:
            interior = replace(prediction.label_map, labels=prediction.interior)
            files += write_label_map(interior, file_beside(files[0], INTERIOR), like=source)
        if target.probabilities:
            assert prediction.probabilities is not None
            files.append(target.out / f"{name}.npz")
            write_probabilities(prediction.probabilities, files[-1], heads=model.labels.heads)
        if target.uncertainty:
            assert prediction.uncertainty is not None
            files.append(target.out / f"{name}{UNCERTAINTY}")
            write_map(prediction.uncertainty, files[-1], like=source)
        return {path.name: file_hash(path) for path in files}
    except BaseException:  # some of the files would be taken for all
        for path in files:
            path.unlink(missing_ok=True)
        raise
