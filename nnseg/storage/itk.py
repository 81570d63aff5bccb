"""MHA, MHD, NRRD and GIPL files, and whatever else ITK writes, through SimpleITK."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from nnseg.core.geometry import Grid
from nnseg.core.image import Integers
from nnseg.storage.stored import Stored, check_file, make_grid, refuse

GIPL_HEADER_BYTES = 256


def read_itk(path: Path, as_labels: bool = False) -> Stored:
    """The voxels of a file that ITK reads; vectors and a fourth axis become channels.

    Raises:
        ScanError: no image, truncated, or of a geometry that ITK refuses.
    """
    check_file(path)
    try:
        with quiet():
            image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        found = f"cannot be read as an image ({reason(error)})"
        raise refuse(
            path, found, expected="a complete image with axes at right angles", advice="copy or export it again"
        ) from error
    if path.suffix.lower() == ".gipl":
        _check_gipl_size(path, image)
    return stored(path, image)


def stored(path: Path, image: sitk.Image) -> Stored:
    """What an ITK image of two, three or four axes holds."""
    voxels = np.array(sitk.GetArrayViewFromImage(image))
    dimensions = image.GetDimension()
    if voxels.dtype.kind == "c" or not 2 <= dimensions <= 4 or (dimensions == 4 and image.GetNumberOfComponentsPerPixel() > 1):
        found = f"is a {dimensions}-dimensional image of {image.GetPixelIDTypeAsString()}"
        raise refuse(path, found, expected="a 2D or 3D image with at most one axis of channels", advice="export it again")
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    elif dimensions < 4:
        voxels = voxels[None]
    if dimensions == 2:
        voxels = voxels[:, None]
    return Stored(voxels=voxels, grid=_grid(path, image, voxels.shape[1:]), is_2d=dimensions == 2)


def write_itk(labels: Integers, path: Path, grid: Grid, *, is_2d: bool) -> None:
    """Write a label map with exactly this spacing, origin and direction.

    Args:
        labels: (Z, Y, X).
        path: its suffix chooses the format.
        grid: of ``labels``.
        is_2d: write the only slice as a 2D image.

    Raises:
        ScanError: GIPL of a turned volume; the format has no direction.
    """
    columns = np.asarray(grid.direction)[::-1].T
    if path.suffix.lower() == ".gipl" and not np.array_equal(columns, np.eye(3)):
        raise refuse(
            path, "cannot hold the direction of a turned volume", expected="another format", advice="write .mha or .nii.gz"
        )
    dimensions = 2 if is_2d else 3
    image = sitk.GetImageFromArray(np.ascontiguousarray(labels[0] if is_2d else labels))
    image.SetSpacing(grid.spacing[::-1][:dimensions])
    image.SetOrigin(grid.origin[:dimensions])
    image.SetDirection(columns[:dimensions, :dimensions].ravel().tolist())
    try:
        with quiet():
            sitk.WriteImage(image, str(path), useCompression=path.suffix.lower() != ".gipl")
    except RuntimeError as error:  # a full disk, most often: to the caller it is what any other failed write is
        raise OSError(reason(error)) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ITK from printing warnings; what matters is checked and raised."""
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def reason(error: RuntimeError) -> str:
    """The last line of an ITK error, which holds the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("ERROR: ")[-1] if lines else "unknown error"


def _grid(path: Path, image: sitk.Image, shape: tuple[int, ...]) -> Grid:
    """The grid of an image; a flat one lies in the x-y plane, a fourth axis is left out."""
    dimensions = image.GetDimension()
    n = min(dimensions, 3)
    direction, spacing, origin = np.eye(3), np.ones(3), np.zeros(3)
    direction[:n, :n] = np.reshape(image.GetDirection(), (dimensions, dimensions))[:n, :n]
    spacing[:n], origin[:n] = image.GetSpacing()[:n], image.GetOrigin()[:n]
    grid = make_grid(path, shape, (direction * spacing).T[::-1], origin)
    exact: tuple[Any, ...] = tuple(spacing[::-1].tolist())  # a norm may be off in the last digit
    rows = [tuple(column.tolist()) for column in direction.T[::-1]]
    return Grid(shape=grid.shape, spacing=exact, origin=grid.origin, direction=(rows[0], rows[1], rows[2]))


def _check_gipl_size(path: Path, image: sitk.Image) -> None:
    """ITK fills the missing end of a GIPL file with zeros; its length tells."""
    voxels: npt.NDArray[Any] = sitk.GetArrayViewFromImage(image)
    promised = GIPL_HEADER_BYTES + voxels.nbytes
    if path.stat().st_size < promised:
        raise refuse(path, f"has {path.stat().st_size} bytes", expected=f"{promised}", advice="copy it again; it is truncated")
