"""The grid of a network: its spacing and the order of its axes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nnseg.core.geometry import Axes, Vector, as_vector

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


def choose_resolution(spacings: Table, shapes: Table, *, anisotropy: float = 3.0) -> Resolution:
    """The grid of a dataset's network: median spacing, finer along an axis with few thick slices, coarsest axis first.

    Args:
        spacings: (cases, 3) mm, scan axis order.
        shapes: (cases, 3) voxels of the cropped scans, scan axis order.
        anisotropy: an axis this many times coarser than the others is strongly anisotropic.

    Source: Isensee 2021, nnU-Net, online methods, "image resampling" and "target spacing".
    """
    target, reason = _target_spacing(spacings, shapes, anisotropy)
    axes, order = _order(target, shapes)
    median = np.maximum(_median(np.rint(spacings / target * shapes)), 1)
    turned = list(axes)
    return Resolution(
        axes=axes, spacing=as_vector(target[turned]), shape=as_vector(median[turned]), why={"spacing": reason, "axes": order}
    )


def _target_spacing(spacings: Table, shapes: Table, anisotropy: float) -> tuple[Table, str]:
    target = _median(spacings)
    worst = int(np.argmax(target))
    others = [a for a in range(3) if a != worst]
    coarsest_other = float(target[others].max())
    size = _median(shapes)
    if not (target[worst] > anisotropy * coarsest_other and size[worst] * anisotropy < size[others].min()):
        same = bool((spacings == spacings[0]).all())
        return target, "all cases share this spacing" if same else f"the median over {len(spacings)} cases, axis by axis"
    finer = float(np.percentile(spacings[:, worst], 10))
    ratio = target[worst] / coarsest_other
    reason = (
        f"axis {AXIS_NAMES[worst]} is {ratio:.3g} times coarser than the others "
        f"({target[worst]:.3g} against {coarsest_other:.3g} mm): "
        f"the 10th percentile of its spacing ({finer:.3g} mm) is taken, to keep the detail of thin slices; the median elsewhere"
    )
    target[worst] = finer if finer >= coarsest_other else coarsest_other + 1e-5
    return target, reason


def _order(target: Table, shapes: Table) -> tuple[Axes, str]:
    single = np.flatnonzero(_median(shapes) == 1)
    first = int(single[0]) if single.size else int(np.argmax(target))
    rest = [a for a in range(3) if a != first]
    if single.size:
        reason = f"axis {AXIS_NAMES[first]} has a single voxel, so it comes first"
    elif target.max() == target.min():
        reason = "all axes have the same spacing, so their order stays"
    else:
        reason = f"axis {AXIS_NAMES[first]} is the coarsest ({target[first]:.3g} mm), so it comes first"
    return (first, rest[0], rest[1]), reason


def _median(rows: Table) -> Table:
    """The median along each axis, by percentile as in nnU-Net, since np.median differs in the last digit."""
    return np.asarray(np.percentile(rows, 50, axis=0))
