"""`write_prediction`: the files of a prediction, in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nnseg.core.cutoffs import Answer
from nnseg.core.dataset import Case
from nnseg.core.frozen import digest
from nnseg.core.image import LabelMap, Source
from nnseg.core.label_volumes import volumes_of
from nnseg.core.units import length_in
from nnseg.evaluation.diameters import diameter_table
from nnseg.inference.prediction import Prediction
from nnseg.serving.messages import OutputOptions, PredictionOrder
from nnseg.storage.files import file_hash
from nnseg.storage.images.write import to_stored_order, write_label_files, write_label_map, write_map, write_probabilities
from nnseg.storage.object_files import file_beside, write_object_table
from nnseg.storage.predictions import FORMAT, INTERIOR, OBJECTS, UNCERTAINTY, ScanRecord, level_end
from nnseg.storage.remote import address_of

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

    def missing(self, case: Case) -> tuple[int, ...]:
        """Numbers of the channels that a case may be predicted without."""
        return case.missing if self.on_missing_channel == "use" else ()

    def case_key(self, case: Case, content: str, *, suffix: str = "") -> str:
        """The key of what is written for a case, whose files have this digest, in a format of its own if that is given."""
        return digest([content, self.key, *self.missing(case), *filter(None, [suffix])])

    def is_newer(self, case: Case, record: ScanRecord) -> bool:
        """True if a record is of this target and a case's files, and the label map is newer than they are; no file is read.

        What lies at addresses counts as unchanged.
        """
        images = tuple(path.absolute() for path in case.images)
        if (record.status, record.images, record.key) != ("done", images, self.case_key(case, record.input)):
            return False
        try:
            written = (self.out / record.file).stat().st_mtime_ns
            return all(address_of(path) or path.stat().st_mtime_ns < written for path in images)
        except OSError:
            return False


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
        if target.held_out:
            files += _write_levels(prediction, files[0], source, model)
        elif prediction.objects is not None:
            files += _write_objects(prediction, files[0], source, model)
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


def answer_questions(label_map: LabelMap, source: Source, model: Model) -> tuple[Answer, ...]:
    """The answers to a model's questions; none where volumes are in another unit than those of its held-out scans."""
    known = [one for one in model.cutoffs.cutoffs if one.unit == source.shown_unit] if model.cutoffs else []
    volumes = volumes_of(label_map, model.labels) if known else {}
    return tuple(one.answer(volumes[one.question.label] * length_in(one.unit, 1.0) ** 3) for one in known)


def _write_objects(prediction: Prediction, file: Path, source: Source, model: Model) -> Iterator[Path]:
    """Write the table of the objects, and their numbers where they are not simply connected components; the files."""
    assert prediction.objects is not None
    assert prediction.intensities is not None
    assert prediction.object_scores is not None
    numbered = replace(prediction.label_map, labels=prediction.objects)
    if model.learned.borders:
        yield from write_label_map(numbered, file_beside(file, OBJECTS), like=source)
    table = file_beside(file, OBJECTS, ".csv")
    yield table
    stored = to_stored_order(numbered, source)
    write_object_table(
        table,
        stored,
        like=source,
        counts=prediction.object_counts,
        scores=prediction.object_scores,
        diameters=diameter_table(stored, source.grid),
        intensities=prediction.intensities,
        channels=model.channels,
    )


def _write_levels(prediction: Prediction, file: Path, source: Source, model: Model) -> Iterator[Path]:
    """Write what objects of held-out cases will be found by: levels of interiors, and of labels whose components are objects."""
    if prediction.interior is not None:
        interior = replace(prediction.label_map, labels=prediction.interior)
        yield from write_label_map(interior, file_beside(file, INTERIOR), like=source)
    if prediction.levels is not None and model.lesions:
        for number, level in enumerate(prediction.levels[-len(model.lesions) :]):
            place = file_beside(file, level_end(number))
            yield from write_label_map(replace(prediction.label_map, labels=level), place, like=source)
