"""Surfaces of labels as meshes: STL, PLY and GLB.

Source: marching cubes after Lewiner et al. 2003; smoothing that hardly shrinks after Taubin 1995, by trimesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from skimage.measure import marching_cubes

from nnseg.core.colours import colour_of
from nnseg.core.errors import ScanError
from nnseg.core.geometry import Grid
from nnseg.interop.conversion.converted_scan import ConvertedScan, file_names
from nnseg.storage.files import write_aside, write_text
from nnseg.storage.tables import csv_text

LAMBDA, MU, ITERATIONS = 0.5, 0.52, 20
"""Factors of shrinking and of growing, in turn, and how many times; 0 < 1 / LAMBDA - 1 / MU < 0.1, as Taubin asks for."""

TO_GLTF: Final = 0.001 * np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""From mm in LPS to metres with up along y, as glTF defines them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSurface:
    """The surface of a label, and how far smoothing moved it.

    Args:
        mesh: of trimesh, in mm in LPS.
        enclosed_ml: volume that it encloses.
        moved: mm between each vertex and its place before smoothing.
    """

    mesh: Any
    enclosed_ml: float
    moved: npt.NDArray[np.float64]


def make_surface(mask_ZYX: npt.NDArray[np.bool_], grid: Grid) -> LabelSurface:
    """The smoothed surface of a mask, closed also where the mask reaches the border of the grid; normals point outwards.

    Args:
        mask_ZYX: with at least one voxel.
    """
    import trimesh  # noqa: PLC0415 (an extra)
    from trimesh.smoothing import filter_taubin  # noqa: PLC0415

    filled = [np.flatnonzero(mask_ZYX.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    corner = np.array([places[0] for places in filled])
    part = mask_ZYX[tuple(slice(places[0], places[-1] + 1) for places in filled)]
    vertices, faces, _, _ = marching_cubes(np.pad(part, 1).astype(np.float32), 0.5)
    mesh = trimesh.Trimesh((vertices + corner - 1) @ grid.steps + grid.origin, faces)
    if mesh.volume < 0:  # of a grid whose axes are left-handed
        mesh.invert()
    before = mesh.vertices.copy()
    filter_taubin(mesh, lamb=LAMBDA, nu=MU, iterations=ITERATIONS)
    return LabelSurface(mesh=mesh, enclosed_ml=float(mesh.volume) / 1000, moved=np.linalg.norm(mesh.vertices - before, axis=1))


def write_surfaces(scan: ConvertedScan, folder: Path, *, suffix: str) -> tuple[Path, ...]:
    """The files that are written: a mesh for each label, or a GLB file of all, and the table CASE_surfaces.csv.

    Args:
        suffix: ".stl", ".ply" or ".glb".

    Raises:
        ScanError: the scan is a single slice.
        RunError: the folder cannot be written to.
    """
    if scan.source.grid.is_2d:
        raise ScanError(f"{scan.name} is a single slice, of which there is no surface; write masks instead")
    masks = ((name, scan.mask(name)) for name in scan.labels.foreground)
    surfaces = {name: make_surface(mask, scan.source.grid) for name, mask in masks if mask.any()}
    table = folder / f"{scan.name}_surfaces.csv"
    written = [*_write_meshes(scan, surfaces, folder, suffix), table]
    write_text(table, _table(scan, surfaces))
    return tuple(written)


def _write_meshes(scan: ConvertedScan, surfaces: dict[str, LabelSurface], folder: Path, suffix: str) -> list[Path]:
    if suffix == ".glb":
        file = folder / f"{scan.name}.glb"
        _export(_scene(scan, surfaces), file)
        return [file]
    names = file_names(scan.labels)
    files = [folder / scan.name / f"{names[name]}{suffix}" for name in surfaces]
    for surface, file in zip(surfaces.values(), files, strict=True):
        _export(surface.mesh, file)
    return files


def _scene(scan: ConvertedScan, surfaces: dict[str, LabelSurface]) -> Any:
    """A scene with a node for each label, by its name and in its colour."""
    import trimesh  # noqa: PLC0415 (an extra)

    scene, placement = trimesh.Scene(), np.eye(4)
    placement[:3, :3] = TO_GLTF
    for name, surface in surfaces.items():
        colour = (*colour_of(scan.labels.foreground.index(name)), 255)
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=colour, metallicFactor=0.0, roughnessFactor=0.8)
        surface.mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(surface.mesh, node_name=name, geom_name=name, transform=placement)
    return scene


def _export(what: Any, file: Path) -> None:
    with write_aside(file) as aside:
        what.export(aside, file_type=file.suffix[1:])


def _table(scan: ConvertedScan, surfaces: dict[str, LabelSurface]) -> str:
    """CSV of the surfaces: their size, the volumes of voxels and of surface, and how far smoothing moved the vertices."""
    header = ("label", "vertices", "faces", "ml_voxels", "ml_surface", "moved_mean_mm", "moved_95_percent_mm", "moved_most_mm")
    rows: list[list[str | float | None]] = []
    for name, surface in surfaces.items():
        voxels = float(scan.mask(name).sum()) * scan.source.grid.voxel_ml
        moved = (surface.moved.mean(), np.percentile(surface.moved, 95), surface.moved.max())
        sizes = (len(surface.mesh.vertices), len(surface.mesh.faces))
        rows.append([name, *sizes, *(round(float(value), 4) for value in (voxels, surface.enclosed_ml, *moved))])
    return csv_text(header, rows)
