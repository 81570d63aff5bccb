"""The volumes of a training set, for others to be compared with."""

from __future__ import annotations

from math import prod

from nnseg.core.labels import Labels
from nnseg.core.population import FEWEST_OF_ALL, Person, Population, population_of
from nnseg.core.volumes import volume_ml
from nnseg.planning.fingerprint import CaseMeasure, Fingerprint


def training_population(fingerprint: Fingerprint) -> Population | None:
    """The population of a dataset's reference label maps, patients not to be told apart; None of too few.

    Cases with voxels that nobody annotated do not count: what lies there is not known.
    """
    whole = [case for case in fingerprint.cases if sum(case.voxels.values()) == prod(case.shape)]
    people = [Person(volumes=_volumes(case, fingerprint.labels)) for case in whole]
    if sum(bool(person.volumes) for person in people) < FEWEST_OF_ALL:
        return None
    return population_of(people, f"training set of {fingerprint.dataset}")


def _volumes(case: CaseMeasure, labels: Labels) -> dict[str, float]:
    """The ml of each label or region of which all was annotated."""
    voxel_ml = prod(case.spacing) / 1000.0
    parts = {name: [name] for name in labels.foreground}
    parts |= {region.name: [labels.names[labels.values.index(v)] for v in region.values] for region in labels.regions}
    return {
        name: volume_ml(sum(case.voxels.get(label, 0) for label in of_it), voxel_ml)
        for name, of_it in parts.items()
        if case.annotated is None or set(of_it) <= {*case.annotated, labels.names[0]}
    }
