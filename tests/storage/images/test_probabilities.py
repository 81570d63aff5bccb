"""Probabilities in a file: as numpy reads them, and the same bytes each time."""

import numpy as np

from nnseg.storage.images.write import write_probabilities


def test_numpy_reads_what_was_written_without_pickle(tmp_path):
    given = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    turned = given.transpose(0, 3, 2, 1)[:, ::-1]
    for number, array in enumerate((given, turned)):
        path = tmp_path / f"{number}.npz"
        write_probabilities(array, path, heads=("background", "tumour", "œdema"))
        with np.load(path, allow_pickle=False) as file:
            assert file["probabilities"].dtype == np.float16
            np.testing.assert_array_equal(file["probabilities"], array.astype(np.float16))
            assert file["heads"].tolist() == ["background", "tumour", "œdema"]


def test_a_memory_map_gives_the_same_bytes_as_an_array(tmp_path):
    given = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    mapped = np.memmap(tmp_path / "map", np.float32, "w+", shape=given.shape)
    mapped[:] = given
    write_probabilities(given, tmp_path / "a.npz", heads=("a", "b"))
    write_probabilities(mapped, tmp_path / "b.npz", heads=("a", "b"))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
