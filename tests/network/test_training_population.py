from math import prod

import pytest

from nnseg.core.fingerprint import CaseMeasure, Fingerprint
from nnseg.core.label_volumes import volumes_of
from nnseg.core.labels import Labels, Region
from nnseg.core.population import Person, make_population
from nnseg.network.load import training_population
from nnseg.storage.images.read import read_label_map

LABELS = Labels(names=("background", "liver", "tumour"), values=(0, 1, 2))


def case(number: int, liver: int, tumour: int = 0, *, ignored: int = 0, annotated=None) -> CaseMeasure:
    shape = (10, 20, 30)
    voxels = {"background": prod(shape) - liver - tumour - ignored, "liver": liver, "tumour": tumour}
    return CaseMeasure(
        name=f"c{number}", key="", shape=shape, spacing=(5.0, 2.0, 1.0), cropped_shape=shape, voxels=voxels, annotated=annotated
    )


def fingerprint(cases, labels=LABELS) -> Fingerprint:
    return Fingerprint(dataset="Liver", layout="", channels=("CT",), labels=labels, cases=tuple(cases), intensities=())


def test_volumes_are_voxels_times_spacing():
    found = training_population(fingerprint(case(i, 100) for i in range(6)))
    assert found.source == "training set of Liver"
    assert found.labels["liver"].n == 6
    assert found.labels["liver"].quantiles == pytest.approx([1.0] * 41)
    assert found.labels["tumour"].quantiles == (0.0,) * 41
    assert found.people == ()


def test_regions_are_the_sum_of_their_labels():
    regions = (Region(name="all", values=(1, 2), paint=1), Region(name="tumour", values=(2,), paint=2))
    found = training_population(fingerprint((case(i, 100, 20) for i in range(5)), LABELS.model_copy(update={"regions": regions})))
    assert {name: d.quantiles[0] for name, d in found.labels.items()} == pytest.approx({"all": 1.2, "tumour": 0.2})


def test_cases_that_were_not_annotated_all_over_do_not_count():
    whole = [case(i, 100) for i in range(5)]
    found = training_population(fingerprint([*whole, case(6, 1, ignored=50), case(7, 0, 30, annotated=("tumour",))]))
    assert (found.labels["liver"].n, found.labels["tumour"].n) == (5, 6)
    assert training_population(fingerprint([*whole[:4], case(6, 1, ignored=50)])) is None


def test_nine_tenths_of_real_held_out_volumes_lie_inside_the_band_of_the_others(shared_data):
    labels = Labels(names=("background", "Anterior", "Posterior"), values=(0, 1, 2))
    files = sorted((shared_data / "Task04_Hippocampus" / "labelsTr").glob("*.nii.gz"))
    people = [Person(volumes=volumes_of(read_label_map(path), labels)) for path in files]
    found = []
    for fold in range(5):
        others = make_population([p for i, p in enumerate(people) if i % 5 != fold], "others")
        for person in people[fold::5]:
            found += [others.percentile(name, ml).unusual for name, ml in person.volumes.items()]
    assert len(found) == 2 * len(files)
    assert 0.85 < found.count("") / len(found) < 0.95
