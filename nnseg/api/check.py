"""`check`: what ``nnseg check`` finds."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from nnseg.commands.check import check_dataset
from nnseg.core.keywords import CheckOptions, listing, options_of
from nnseg.planning.dataset_summary import CheckedDataset, report_dataset
from nnseg.storage.path_kinds import check_path
from nnseg.system.cluster import computed_on


@listing(CheckOptions)
def check(dataset: str | Path, **options: Unpack[CheckOptions]) -> CheckedDataset:
    """What is in a dataset, and every problem of it in ``findings``, as ``nnseg check`` prints it.

    Args:
        dataset: folder of labelled scans; never written to.
        options: as of the command.

    Raises:
        DatasetError: the folder holds no dataset, or no case that can be used. What a run would refuse is returned (``refused``).

    Example:
        >>> checked = nnseg.check("images_and_labels")
        >>> [finding.message for finding in checked.findings]
    """
    chosen, folder = options_of(options, CheckOptions), Path(dataset)
    check_path(folder, "dataset")
    with computed_on(chosen.cluster):
        found, fingerprint, refused = check_dataset(folder, chosen)
    return report_dataset(found, fingerprint, refused=str(refused or ""))
