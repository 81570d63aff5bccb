"""The modality by channels' names, and by what single images lack."""

from collections.abc import Callable

import pytest

from nnseg.core.fingerprint import Fingerprint
from nnseg.planning.augmentation import find_modality

MakeFingerprint = Callable[..., Fingerprint]


@pytest.mark.parametrize(
    ("channels", "modality"),
    [
        (("CT",), "ct"),
        (("ncct", "CTA"), "ct"),
        (("MRI",), "mr"),
        (("T1", "T1ce", "T2w", "FLAIR"), "mr"),
        (("ADC", "dwi_b1000"), "mr"),
        (("EM",), "microscopy"),
        (("fluorescence (DAPI)",), "microscopy"),
        (("CT", "PET"), None),
        (("CT", "T1"), None),
        (("noNorm",), None),
        (("electron",), None),
        (("ultrasound",), None),
    ],
)
def test_volumes_are_known_by_the_names_of_all_their_channels(
    make_fingerprint: MakeFingerprint, channels: tuple[str, ...], modality: str | None
):
    assert find_modality(make_fingerprint((36, 50, 35), channels=channels), has_sides=False)[0] == modality


@pytest.mark.parametrize(
    ("channels", "spacing", "has_sides", "modality"),
    [
        (("R", "G", "B"), 1.0, False, "microscopy"),
        (("R", "G", "B"), 0.7, False, None),  # a size in mm: a slice of a patient
        (("gray",), 1.0, True, None),  # left and right: a body
        (("x-ray",), 1.0, False, None),
        (("T2",), 1.0, False, "mr"),
    ],
)
def test_single_images_without_a_spacing_are_taken_for_microscopy(
    make_fingerprint: MakeFingerprint, channels: tuple[str, ...], spacing: float, has_sides: bool, modality: str | None
):
    fingerprint = make_fingerprint((1, 64, 64), (1.0, spacing, spacing), channels=channels)
    assert find_modality(fingerprint, has_sides=has_sides)[0] == modality
