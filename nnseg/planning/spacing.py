"""The grid of a network: its spacing and the order of its axes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Axes, Vector, as_vector
from nnseg.core.units import LengthUnit, length_in, length_name

Table = npt.NDArray[np.float64]

AXIS_NAMES = "zyx"
"""Names of the axes of a scan's array."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """The network's grid, in network axis order.

    Args:
        axes: network axis ``a`` is scan axis ``axes[a]``.
        spacing: mm.
        shape: the median cropped scan on this grid, in voxels; not always whole, if the number of cases is even.
        why: the reasons for ``axes`` and ``spacing``.
    """

    axes: Axes
    spacing: Vector
    shape: Vector
    why: dict[str, str] = field(default_factory=dict)


def choose_resolution(spacings: Table, shapes: Table, *, anisotropy: float = 3.0, unit: LengthUnit = "mm") -> Resolution:
    """The grid of a dataset's network: median spacing, finer along an axis with few thick slices, coarsest axis first.

    Args:
        spacings: (cases, 3) mm, scan axis order.
        shapes: (cases, 3) voxels of the cropped scans, scan axis order.
        anisotropy: an axis this many times coarser than the others is strongly anisotropic.
        unit: of lengths in the reasons.

    Source: Isensee 2021, nnU-Net, online methods, "image resampling" and "target spacing".
    """
    target, reason = _target_spacing(spacings, shapes, anisotropy, unit)
    axes, order = _order(target, shapes, unit)
    median = np.maximum(_median(np.rint(spacings / target * shapes)), 1)
    turned = list(axes)
    return Resolution(
        axes=axes, spacing=as_vector(target[turned]), shape=as_vector(median[turned]), why={"spacing": reason, "axes": order}
    )


def _target_spacing(spacings: Table, shapes: Table, anisotropy: float, unit: LengthUnit) -> tuple[Table, str]:
    target = _median(spacings)
    worst = int(np.argmax(target))
    others = [a for a in range(3) if a != worst]
    coarsest_other = float(target[others].max())
    size = _median(shapes)
    same = bool((spacings == spacings[0]).all())
    usual = "all cases share this spacing" if same else f"the median over {len(spacings)} cases, axis by axis"
    if not (target[worst] > anisotropy * coarsest_other and size[worst] * anisotropy < size[others].min()):
        return target, usual
    finer = float(np.percentile(spacings[:, worst], 10))
    ratio = target[worst] / coarsest_other
    reason = (
        f"axis {AXIS_NAMES[worst]} is {ratio:.3g} times coarser than the others "
        f"({length_in(unit, target[worst]):.3g} against {_length(coarsest_other, unit)}): the 10th percentile of its spacing "
        f"({_length(finer, unit)}) is taken, to keep the detail of thin slices; the median elsewhere"
    )
    target[worst] = finer if finer >= coarsest_other else coarsest_other + 1e-5
    return target, usual if size[worst] == 1 else reason


def _length(mm: float, unit: LengthUnit) -> str:
    return f"{length_in(unit, mm):.3g} {length_name(unit)}"


def _order(target: Table, shapes: Table, unit: LengthUnit) -> tuple[Axes, str]:
    single = np.flatnonzero(_median(shapes) == 1)
    first = int(single[0]) if single.size else int(np.argmax(target))
    rest = [a for a in range(3) if a != first]
    if single.size:
        reason = f"axis {AXIS_NAMES[first]} has a single voxel, so it comes first"
    elif target.max() == target.min():
        reason = "all axes have the same spacing, so their order stays"
    else:
        reason = f"axis {AXIS_NAMES[first]} is the coarsest ({_length(target[first], unit)}), so it comes first"
    return (first, rest[0], rest[1]), reason


def _median(rows: Table) -> Table:
    """The median along each axis, by percentile as in nnU-Net, since np.median differs in the last digit."""
    return np.asarray(np.percentile(rows, 50, axis=0))
