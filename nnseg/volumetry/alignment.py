"""Registration of the scans of two visits: where tissue of the first lies in the second."""

from __future__ import annotations

import numpy as np

from nnseg.core.errors import ScanError
from nnseg.core.geometry import as_vector
from nnseg.core.image import Scan
from nnseg.core.registration import Registration
from nnseg.preprocessing.register import LEAST_CONTRAST, register_volume
from nnseg.storage.images.resampling import resampled
from nnseg.volumetry.lesion_changes import Motion


def align_visits(before: Scan | None, after: Scan | None) -> tuple[Motion, float]:
    """How tissue moved from one visit to the next, by rigid registration of the first channels, and by how many mm in the middle.

    The search begins where the headers put both scans.

    Args:
        before, after: volumes of one patient; None if a file cannot be read.

    Raises:
        ScanError: there are not two volumes, or they do not fit each other anywhere near.
    """
    if before is None or after is None:
        raise ScanError("a scan cannot be read")
    if before.source.is_2d or after.source.is_2d:
        raise ScanError("pictures are not aligned")
    other = resampled(after.image[0], after.grid, before.grid, order=1, outside=float(after.image[0].min()))
    try:
        found, _ = register_volume(before.image[0], other, before.grid.spacing, "rigid")
    except RuntimeError as error:  # of ITK: too few voxels, or too few that both scans have
        raise ScanError(f"the registration failed ({str(error).splitlines()[-1].strip()})") from None
    if found.contrast < LEAST_CONTRAST:
        raise ScanError(f"scans fit each other hardly better in place than some mm away (mutual information {found.after:.3f})")
    motion = _in_world(found, before)
    middle = np.array([*before.grid.world(as_vector((n - 1) / 2 for n in before.grid.shape)), 1.0])
    return motion, float(np.linalg.norm((motion @ middle - middle)[:3]))


def _in_world(found: Registration, scan: Scan) -> Motion:
    """The motion between world positions of one along a scan's axes, from the middle of its first voxel on."""
    axes, matrix = np.asarray(scan.grid.direction), np.asarray(found.matrix)
    centre, origin = np.asarray(found.centre), np.asarray(scan.grid.origin)
    motion = np.eye(4)
    motion[:3, :3] = axes.T @ matrix @ axes
    shift = axes.T @ (centre + np.asarray(found.translation) - matrix @ centre)
    motion[:3, 3] = origin + shift - motion[:3, :3] @ origin
    return motion
