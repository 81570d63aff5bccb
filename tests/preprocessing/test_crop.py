import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nnseg.core.geometry import Box
from nnseg.core.image import nonzero_box


def test_box_spans_from_first_to_last_voxel_that_is_not_zero():
    image = np.zeros((1, 5, 6, 7), np.float32)
    image[0, 1, 2, 3] = 4.0
    image[0, 3, 4, 5] = 1.0
    assert nonzero_box(image) == Box(start=(1, 2, 3), stop=(4, 5, 6))


def test_box_covers_what_only_one_channel_shows_and_negative_values_count():
    image = np.zeros((2, 4, 4, 4), np.float32)
    image[0, 1, 1, 1] = 1.0
    image[1, 2, 3, 0] = -1.0
    assert nonzero_box(image) == Box(start=(1, 1, 0), stop=(3, 4, 2))


def test_channels_that_cancel_out_still_count():
    image = np.zeros((2, 3, 3, 3), np.float32)
    image[:, 1, 1, 1] = 1.0, -1.0
    assert nonzero_box(image) == Box(start=(1, 1, 1), stop=(2, 2, 2))


def test_an_all_zero_image_keeps_its_full_extent():
    assert nonzero_box(np.zeros((1, 3, 4, 5), np.float32)) == Box(start=(0, 0, 0), stop=(3, 4, 5))


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=5), elements=st.sampled_from([0.0, 0.0, 0.0, 1.0])))
def test_box_holds_every_nonzero_voxel_and_touches_one_at_each_face(image):
    box = nonzero_box(image)
    inside = image[(slice(None), *box.slices)]
    assert np.count_nonzero(inside) == np.count_nonzero(image)
    if image.any():
        faces = [np.take(inside, end, axis=axis) for axis in (1, 2, 3) for end in (0, -1)]
        assert all(face.any() for face in faces)


def test_importing_crop_loads_neither_torch_nor_skimage():
    code = "import sys, nnseg.core.image; print([m for m in ('torch', 'skimage', 'scipy', 'pandas') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
