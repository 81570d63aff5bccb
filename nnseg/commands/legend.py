"""What a user says that label values mean: a run folder, or a dataset.json."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.errors import EvaluationError
from nnseg.core.labels import Labels
from nnseg.storage.datasets.dataset_json import DESCRIPTION, read_description
from nnseg.storage.run import Run


def read_legend(path: Path) -> tuple[Labels, tuple[str, ...]]:
    """The meaning of label values, and the labels counted one by one, from a run folder or a dataset.json.

    Raises:
        EvaluationError: the path is neither, or the dataset.json names no labels.
        NnsegError: the file cannot be read.
    """
    if Run(path).exists:
        dataset = Run(path).dataset
        return dataset.labels, dataset.instances
    file = path / DESCRIPTION if path.is_dir() else path
    if not file.is_file():
        raise EvaluationError(f"{path} does not define labels; give a run folder or a dataset.json")
    description = read_description(file)
    if description.labels is None:
        raise EvaluationError(f'{file} names no labels; add "labels", or give another dataset.json')
    return description.labels, description.instances
