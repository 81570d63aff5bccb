"""The lists of files under "Adding things" in CONTRIBUTING.md are complete.

Each is followed with a toy: in a copy of the package just the listed files are changed, and the toy is then used through the
command line. What a toy needs beyond them makes its test fail.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

MARK = "__import__('pathlib').Path(__import__('os').environ['TOY']).write_text('used'); "
"""A statement of a toy that leaves a trace."""


def recipes() -> dict[str, list[str]]:
    """Of each thing to add, the files to change, as CONTRIBUTING.md lists them; capitals stand for a name of one's own."""
    text = (ROOT / "CONTRIBUTING.md").read_text().split("## Adding things")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (an? [^|]+?) \| (.+?) \|", text, re.M)
    return {thing: re.findall(r"`((?:nnseg|plans|tests)/[^`]+)`", where) for thing, where in rows}


class Toy:
    """A copy of the package, changed as a recipe says."""

    def __init__(self, thing: str, folder: Path, run: Path) -> None:
        self.listed = recipes()[thing]
        self.tree, self.run, self.used = folder / "tree", folder / "run", folder / "used"
        shutil.copytree(ROOT / "nnseg", self.tree / "nnseg", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "plans", self.tree / "plans")
        shutil.copytree(run, self.run)
        self.changed: set[str] = set()

    def insert(self, file: str, text: str, *, after: str = "", before: str = "") -> None:
        """Put text into a file after, or before, the first match of a pattern; without one at its end."""
        path = self._touch(file)
        content = path.read_text()
        found = re.search(after or before, content, re.M) if after or before else None
        assert found or not (after or before), f"{file} has no {after or before}"
        place = len(content) if found is None else found.end() if after else found.start()
        path.write_text(content[:place] + text + content[place:])

    def create(self, file: str, text: str) -> None:
        """Write a new file."""
        assert not (self.tree / file).exists()
        self._touch(file).write_text(text)

    def _touch(self, file: str) -> Path:
        assert any(fnmatch.fnmatch(file, re.sub(r"[A-Z]{3,}", "*", listed)) for listed in self.listed), f"{file} is not listed"
        self.changed.add(file)
        return self.tree / file

    def edit_plan(self, old: str, new: str) -> None:
        """Edit the run's plan."""
        plan = self.run / "plan.toml"
        text, count = re.subn(old, new, plan.read_text(), count=1, flags=re.M)
        assert count == 1, plan.read_text()
        plan.write_text(text)

    def nnseg(self, *arguments: object, check: bool = True) -> str:
        """Run a command with the changed package; what it printed."""
        environment = os.environ | {"PYTHONPATH": str(self.tree), "TOY": str(self.used), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "nnseg", *map(str, arguments)]
        done = subprocess.run(command, env=environment, cwd=self.tree, capture_output=True, text=True, timeout=200, check=False)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def assert_followed(self) -> None:
        """Every listed file was changed, and the toy was used."""
        patterns = [re.sub(r"[A-Z]{3,}", "*", listed) for listed in self.listed]
        assert all(any(fnmatch.fnmatch(file, pattern) for file in self.changed) for pattern in patterns)
        assert self.used.exists()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five bright balls in noise, 1 mm."""
    folder = tmp_path_factory.mktemp("balls")
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number in range(5):
        x, y, z = np.mgrid[:24, :24, :16] - rng.uniform(8, 12, (3, 1, 1, 1))
        ball = (x**2 + y**2 + z**2 < 36).astype(np.uint8)
        image = (100 * ball + rng.normal(100, 10, ball.shape)).astype(np.float32)
        for part, voxels in (("images", image), ("labels", ball)):
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / part / f"case_{number}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def planned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the unchanged package, its first fold trained for two steps."""
    run = tmp_path_factory.mktemp("run") / "run"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "nnseg", "plan", dataset, run, "--no-probe", "--steps", "2", "--folds", "0"]
    subprocess.run(command, env=environment, check=True)
    plan = run / "plan.toml"
    plan.write_text(plan.read_text().replace('precision = "auto"', 'precision = "float32"'))
    subprocess.run([sys.executable, "-m", "nnseg", "train", run, "--folds", "0"], env=environment, check=True)
    return run


@pytest.fixture
def toys(planned: Path, tmp_path: Path) -> Iterator[list[Toy]]:
    """Toys made in a test; afterwards each must have been followed."""
    made: list[Toy] = []

    class Maker(list):
        def __call__(self, thing: str) -> Toy:
            made.append(Toy(thing, tmp_path, planned))
            return made[-1]

    yield Maker()
    for toy in made:
        toy.assert_followed()


def test_every_recipe_is_followed_by_a_test() -> None:
    followed = set(re.findall(r'toys\("(an? [^"]+)"\)', Path(__file__).read_text()))
    assert followed == set(recipes())


def test_files_of_recipes_exist() -> None:
    named = {file for files in recipes().values() for file in files}
    missing = {file for file in named if not re.search("[A-Z]{3,}", file) and not (ROOT / file).exists()}
    assert not missing


def test_a_loss(toys) -> None:
    toy = toys("a loss")
    toy.insert("nnseg/core/plan.py", '\n    "toy",', after=r"^LossName = Literal\[")
    body = f"def toy_loss(sums: OverlapSums) -> Tensor:\n    {MARK}return dice_loss(sums)\n\n\n"
    toy.insert("nnseg/training/losses.py", body, before=r"^TERMS\b")
    toy.insert("nnseg/training/losses.py", '    "toy": toy_loss,\n', after=r"^TERMS.*= \{\n")
    toy.edit_plan(r'^loss = "\w+"', 'loss = "toy"')
    toy.nnseg("train", toy.run, "--folds", "0")


def test_a_network_that_is_no_unet(toys, dataset: Path) -> None:
    toy = toys("a network, U-Net or not")
    toy.insert("nnseg/core/plan.py", '"toy", ', after=r"^NetworkKind = Literal\[")
    made = "nn.Conv3d(plan.input_channels, len(plan.labels.heads), 3, padding=1)"
    body = f"def toy(plan: Plan) -> nn.Module:\n    {MARK}return {made}\n\n\n"
    toy.insert("nnseg/network/build.py", body, before=r"^NETWORKS\b")
    toy.insert("nnseg/network/build.py", '"toy": toy, ', after=r"^NETWORKS.*\{")
    toy.edit_plan(r'^kind = "plain"', 'kind = "toy"')
    toy.nnseg("train", toy.run, "--folds", "0")
    toy.nnseg("predict", dataset / "images" / "case_0.nii.gz", toy.run / "out", "--model", toy.run)
    assert list((toy.run / "out").glob("*.nii.gz"))


def test_a_normalization(toys) -> None:
    toy = toys("a normalization")
    toy.insert("nnseg/core/plan.py", '"toy", ', after=r"^NormalizationScheme = Literal\[")
    body = f"def toy(channel: Floats, _: Normalization, inside: Mask | None) -> Floats:\n    {MARK}return channel\n\n\n"
    toy.insert("nnseg/preprocessing/normalize.py", body, before=r"^NORMALIZERS\b")
    toy.insert("nnseg/preprocessing/normalize.py", '"toy": toy, ', after=r"^NORMALIZERS[^{]*\{")
    toy.edit_plan(r'^scheme = "\w+"', 'scheme = "toy"')
    toy.nnseg("preprocess", toy.run)


def test_an_optimizer(toys) -> None:
    toy = toys("an optimizer")
    toy.insert("nnseg/core/plan.py", '"toy", ', after=r"^OptimizerName = Literal\[")
    body = (
        f"def toy(parameters: list[nn.Parameter], training: Training) -> Optimizer:\n    {MARK}return sgd(parameters, training)\n"
    )
    toy.insert("nnseg/training/optimizer.py", body, before=r"^MakeOptimizer\b")
    toy.insert("nnseg/training/optimizer.py", '"toy": toy, ', after=r"^OPTIMIZERS.*\{")
    toy.edit_plan(r'^optimizer = "\w+"', 'optimizer = "toy"')
    toy.nnseg("train", toy.run, "--folds", "0")


def test_an_augmentation(toys) -> None:
    toy = toys("an augmentation of intensities")
    toy.insert("nnseg/core/plan.py", "    toy_probability: Probability = 0.0\n", before=r"^    extra: tuple\[Extra")
    body = (
        "def draw_toy(rng: np.random.Generator, settings: Augmentation, shape: Shape) -> dict[int, Strength]:\n"
        "    return {c: (2.0,) for c in range(shape[0]) if rng.random() < settings.toy_probability}\n\n\n"
        f"def apply_toy(rows: Tensor, strengths: Sequence[Strength]) -> Tensor:\n"
        f"    {MARK}return rows * column([s for s, in strengths], rows)\n\n\n"
    )
    toy.insert("nnseg/training/augmentation/intensity.py", body, before=r"^CHANGES\b")
    entry = '    "toy": IntensityChange(draw_toy, apply_toy),\n'
    toy.insert("nnseg/training/augmentation/intensity.py", entry, after=r"^CHANGES.*= \{\n")
    toy.edit_plan(r"^rotation_probability = .*$", r"\g<0>\ntoy_probability = 1.0")
    toy.nnseg("train", toy.run, "--folds", "0")


def test_a_metric(toys, dataset: Path) -> None:
    toy = toys("a metric")
    entry = '    "toy": Metric(title="Toy", meaning="a toy", formula="0"),\n'
    toy.insert("nnseg/core/metrics.py", entry, after=r"^METRICS.*= \{\n")
    toy.insert("nnseg/core/scores.py", "    toy: Number = None\n", after=r"^    iou: Number\n")
    body = f"def toy(counts: Counts) -> float | None:\n    {MARK}return counts.tp / 1000\n\n\n"
    toy.insert("nnseg/evaluation/metrics.py", body, before=r"^COUNT_METRICS\b")
    toy.insert("nnseg/evaluation/metrics.py", '"toy": toy, ', after=r"^COUNT_METRICS.*\{")
    scores = toy.run / "out.json"
    toy.nnseg("evaluate", dataset / "labels", dataset / "labels", "--out", scores)
    averages = json.loads(scores.read_text())["averages"]
    assert averages["per_mask"]["toy"]["mean"] > 0


TEXT_FORMAT = f"""
import json

import numpy as np

from nnseg.core.geometry import Grid
from nnseg.storage.images.raw import RawImage, placeholder


def read_toy(path, options):
    {MARK}content = json.loads(path.read_text())
    shape = tuple(content["shape"])
    voxels = placeholder((1, *shape), float) if options.only_header else np.array(content["voxels"], float).reshape(1, *shape)
    return RawImage(voxels=voxels, grid=Grid(shape=shape, spacing=tuple(content["spacing"])))


def write_toy(voxels, path, *, like, labels=None):
    content = {{"shape": voxels.shape, "spacing": like.grid.spacing, "voxels": voxels.ravel().tolist()}}
    path.write_text(json.dumps(content))
"""


def test_a_file_format(toys, dataset: Path) -> None:
    toy = toys("a file format of single files")
    toy.create("nnseg/storage/images/toy.py", TEXT_FORMAT)
    toy.insert("nnseg/storage/images/formats.py", "from nnseg.storage.images.toy import read_toy, write_toy\n", before=r"^Reader\b")
    entry = '    ".toy": FileFormat(read=read_toy, write=write_toy),\n'
    toy.insert("nnseg/storage/images/formats.py", entry, after=r"^FORMATS.*= \{\n")
    voxels = nibabel.load(dataset / "images" / "case_0.nii.gz").get_fdata().T
    content = {"shape": voxels.shape, "spacing": (1, 1, 1), "voxels": voxels.ravel().tolist()}
    (toy.run / "case.toy").write_text(json.dumps(content))
    toy.nnseg("predict", toy.run / "case.toy", toy.run / "out", "--model", toy.run)
    assert json.loads((toy.run / "out" / "case.toy").read_text())["shape"] == list(voxels.shape)


FOLDER_OF_TEXTS = f"""
from pathlib import Path

import numpy as np

from nnseg.core.geometry import Grid
from nnseg.storage.images.raw import RawImage


def is_plane(path):
    return path.suffix == ".plane"


def planes_in(folder):
    return tuple(sorted(folder.glob("*.plane")))


def read_planes(source, options):
    {MARK}files = planes_in(source) if isinstance(source, Path) else tuple(sorted(source))
    stack = np.stack([np.loadtxt(file, ndmin=2) for file in files])
    return RawImage(voxels=stack[None], grid=Grid(shape=stack.shape, spacing=(1.0, 1.0, 1.0)), files=files)
"""


def test_a_file_format_that_is_a_folder(toys, dataset: Path) -> None:
    toy = toys("a file format that is a folder, like DICOM")
    toy.create("nnseg/storage/images/toy.py", FOLDER_OF_TEXTS)
    line = "from nnseg.storage.images.toy import is_plane, planes_in, read_planes\n"
    toy.insert("nnseg/storage/images/formats.py", line, before=r"^Reader\b")
    entry = '"planes": FolderFormat(is_part=is_plane, files=planes_in, read=read_planes), '
    toy.insert("nnseg/storage/images/formats.py", entry, after=r"^FOLDER_FORMATS.*= \{")
    voxels = nibabel.load(dataset / "images" / "case_0.nii.gz").get_fdata().T
    folder = toy.run / "scans" / "patient"
    folder.mkdir(parents=True)
    for number, plane in enumerate(voxels):
        np.savetxt(folder / f"{number:02d}.plane", plane)
    toy.nnseg("predict", toy.run / "scans", toy.run / "out", "--model", toy.run)
    assert nibabel.load(toy.run / "out" / "patient.nii.gz").shape == voxels.T.shape


def test_a_layout_of_datasets(toys, dataset: Path) -> None:
    toy = toys("a layout of datasets")
    body = (
        "from nnseg.core.dataset import Case\n\n\n"
        f"def toy(tree: Tree, description: Description | None, reading: Reading) -> FoundDataset | None:\n    {MARK}\n"
        "    cases = [Case(name=p.name, images=(p / 'scan.nii.gz',), labels=p / 'map.nii.gz') for p in tree.root.glob('p*')]\n"
        "    return FoundDataset(layout='a toy', cases=tuple(cases), findings=(), description=None) if cases else None\n\n\n"
    )
    toy.insert("nnseg/storage/datasets/layouts.py", body, before=r"^LAYOUTS\b")
    toy.insert("nnseg/storage/datasets/layouts.py", '    "toy": toy,\n', after=r"^LAYOUTS.*= \{\n")
    for number in range(3):
        folder = toy.run / "data" / f"patient{number}"
        folder.mkdir(parents=True)
        for part, name in (("images", "scan"), ("labels", "map")):
            shutil.copy(dataset / part / f"case_{number}.nii.gz", folder / f"{name}.nii.gz")
    said = toy.nnseg("check", toy.run / "data")
    assert "a toy" in said
    assert "3 cases" in said


def test_a_way_to_divide_folds(toys, dataset: Path) -> None:
    toy = toys("a way to divide folds")
    toy.insert("nnseg/core/options.py", '"toy", ', after=r"^Split = Literal\[")
    body = f"def reverse(units, seed):\n    {MARK}return np.arange(len(units))[::-1]\n\n\n"
    toy.insert("nnseg/planning/folds.py", body, before=r"^SPLITS\b")
    toy.insert("nnseg/planning/folds.py", '"toy": reverse, ', after=r"^SPLITS.*\{")
    toy.nnseg("plan", dataset, toy.tree / "new", "--split", "toy", "--no-probe", "--steps", "2")
    folds = json.loads((toy.tree / "new" / "folds.json").read_text())
    assert folds[0]["held_out"] == ["case_4"]


def test_a_recipe(toys, dataset: Path) -> None:
    toy = toys("a recipe")
    toy.create("plans/toy.toml", 'based_on = "auto"\ndescription = "a toy"\n\n[training]\nweight_decay = 0.5\n')
    toy.nnseg("plan", dataset, toy.tree / "new", "--recipe", "toy", "--no-probe", "--steps", "2")
    assert "weight_decay = 0.5" in (toy.tree / "new" / "plan.toml").read_text()
    toy.used.touch()


def test_a_command(toys) -> None:
    toy = toys("a command")
    toy.create("nnseg/commands/toy.py", f'"""A toy."""\n\n\ndef count_cases(run) -> int:\n    {MARK}return len(run.cases)\n')
    body = (
        "\n\n@app.command(rich_help_panel=EVALUATE)\ndef toy(run: KnownRun) -> None:\n"
        '    """Count the cases of a run."""\n'
        "    from nnseg.commands.toy import count_cases\n    from nnseg.storage.run import Run\n\n"
        "    print(f'{count_cases(Run(run))} cases')\n"
    )
    toy.insert("nnseg/cli/evaluate.py", body)
    assert "5 cases" in toy.nnseg("toy", toy.run)
    assert "Count the cases of a run." in toy.nnseg("--help")


def test_an_execution_engine(toys, dataset: Path) -> None:
    toy = toys("an execution engine")
    body = (
        "\n\ndef toy_engine(function, items):\n"
        f"    {MARK}from concurrent.futures import ThreadPoolExecutor\n"
        "    yield from ThreadPoolExecutor(2).map(lambda item: outcome_of(function, item), items)\n"
        "\n\n_engines.append(toy_engine)\n"
    )
    toy.insert("nnseg/system/parallel.py", body)
    assert "5 cases" in toy.nnseg("check", dataset, "--workers", "2")
