"""``nnseg check``: what is in a dataset's folder, and every problem of it."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.dataset import Dataset, Reading
from nnseg.core.errors import DatasetError
from nnseg.core.fingerprint import Fingerprint
from nnseg.core.options import Options
from nnseg.planning.measure import refuse
from nnseg.planning.measure_folder import measure_folder


def check_dataset(folder: Path, options: Options) -> tuple[Dataset, Fingerprint, DatasetError | None]:
    """A dataset as it was found and measured, and the error with which a run would refuse it.

    Args:
        folder: never written to.
        options: which files are read and how, and findings that do not stop a run.

    Raises:
        DatasetError: the folder holds no dataset, or no case that can be used.
    """
    found, fingerprint = measure_folder(folder, reading=Reading.of(options), workers=options.workers)
    try:
        return found, refuse(fingerprint, options.allow, folder), None
    except DatasetError as error:
        return found, fingerprint, error
