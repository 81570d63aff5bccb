"""`convert`: what ``nnseg convert`` writes."""

from __future__ import annotations

from pathlib import Path

from nnseg.commands.convert import ConvertedFolder
from nnseg.commands.convert import convert as convert_folder
from nnseg.core.keywords import Words
from nnseg.core.names import split_names
from nnseg.storage.path_kinds import check_path


def convert(
    predictions: str | Path, folder: str | Path, *, to: Words, labels: Words = (), workers: int = 0, force: bool = False
) -> ConvertedFolder:
    """Files for other programs, made from predictions, as ``nnseg convert``.

    Args:
        predictions: folder that ``nnseg predict`` wrote.
        folder: of the files.
        to: formats, such as "mgz" or ["masks", "nrrd"].
        labels: names of labels or regions to keep; all by default.
        workers: processes; 0 for this one.
        force: also overwrite files that nnseg did not make.

    Raises:
        RunError: there are no predictions, or the folder has files of others.
        ScanError: a format is unknown, or cannot show any of the labels.

    Example:
        >>> nnseg.convert("predictions", "masks", to="masks", labels=["liver"]).converted
    """
    check_path(Path(predictions), "predictions")
    forms, names = (split_names(words) if isinstance(words, str) else tuple(words) for words in (to, labels))
    return convert_folder(Path(predictions), Path(folder), forms, labels=names, workers=workers, force=force)
