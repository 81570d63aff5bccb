"""Formats of scans that nnseg does not read: what their files are, and what to do with them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_PHILIPS = "is a Philips PAR/REC file; convert it with dcm2niix or parrec2nii"
_MICROSCOPE = "is in the microscope's own format; export it as OME-TIFF, for instance with Fiji or bfconvert"
_SLIDE = "is a whole-slide image; export the region as TIFF, for instance with QuPath"
_PACKED = "is an archive; unpack it"
_MESH = "is a surface, not an image; make a label map of it, for instance with 3D Slicer"
_PICTURE = "is a picture in a format that nnseg does not read; save it as PNG"
_ARRAYS = "is a file of several arrays; save the image alone as CASE.npy, its axes and spacing in CASE.json"
_VOLUME = "is a volume in a format that nnseg does not read; export it as NIfTI, NRRD or MHA"

UNREAD: Final = {
    ".par": _PHILIPS,
    ".rec": _PHILIPS,
    ".img": "holds the voxels of a header; name the .hdr beside it, or restore that",
    ".brik": "holds the voxels of a header; name the .HEAD beside it, or restore that",
    **dict.fromkeys((".nii.bz2", ".nii.zst", ".nii.xz", ".bz2", ".xz", ".zst"), "is packed; unpack it, or pack it with gzip"),
    **dict.fromkeys((".zip", ".rar", ".7z", ".tar", ".tgz", ".tar.gz"), _PACKED),
    **dict.fromkeys(
        (".czi", ".lif", ".nd2", ".oib", ".oif", ".oir", ".lsm", ".ims", ".vsi", ".dv", ".mrc", ".dm3", ".dm4"), _MICROSCOPE
    ),
    **dict.fromkeys((".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".bif"), _SLIDE),
    **dict.fromkeys((".vtk", ".vti", ".mnc2", ".pic", ".nia", ".fdf", ".v", ".ima.gz"), _VOLUME),
    **dict.fromkeys((".stl", ".ply", ".obj", ".vtp", ".gii"), _MESH),
    **dict.fromkeys((".webp", ".jp2", ".j2k", ".heic", ".avif", ".pbm", ".tga"), _PICTURE),
    **dict.fromkeys((".npz", ".h5", ".hdf5", ".hdf", ".mat"), _ARRAYS),
}
"""By suffix, in the words that follow a file's name."""


def why_unread(path: Path) -> str:
    """Why a file is not read, and what to do, if it is of a format of `UNREAD`; else ""."""
    name = path.name.lower()
    return next((UNREAD[suffix] for suffix in sorted(UNREAD, key=len, reverse=True) if name.endswith(suffix)), "")
