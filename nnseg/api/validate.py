"""`validate`: the comparison of ``nnseg validate``."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nnseg.commands.validate import ValidatedFolder
from nnseg.commands.validate import validate as validate_model
from nnseg.core.keywords import ValidateOptions, listing, options_of
from nnseg.storage.path_kinds import check_path, find_model


@listing(ValidateOptions)
def validate(
    dataset: str | Path, out: str | Path, model: str | Path, *, force: bool = False, **options: Unpack[ValidateOptions]
) -> ValidatedFolder:
    """The scores of a model on another labelled dataset beside those of its own held-out cases, as ``nnseg validate``.

    Args:
        dataset: folder of labelled scans; never written to.
        out: folder for label maps, scores and page; label maps of the same model that are there are not made again.
        model: run folder, exported file, or name of a local model.
        force: also overwrite files that nnseg did not make.
        options: as of the command.

    Raises:
        EvaluationError: the dataset's labels or channels are not those of the model, or no case could be scored.
        RunError: the folder cannot be written to.
        NnsegError: the model or the dataset cannot be read.

    Example:
        >>> validated = nnseg.validate("other_images_and_labels", "validation", "model.nnseg")
        >>> validated.validation.differences[0].interval
    """
    chosen = options_of(options, ValidateOptions)
    check_path(Path(dataset), "dataset")
    path = find_model(model)
    check_path(Path(out), "output folder")
    return validate_model(Path(dataset), Path(out), path, chosen, force=force)
