"""Help starts without the heavy libraries, and the public names exist."""

import subprocess
import sys

import pytest

import nnseg


def test_help_of_any_command_loads_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from nnseg import cli\n"
        "for command in [None, *(c.name or c.callback.__name__ for c in cli.app.registered_commands)]:\n"
        "    sys.argv = ['nnseg', *([command] if command else []), '--help']\n"
        "    try: cli.main()\n    except SystemExit: pass\n"
        "print([m for m in ('torch', 'scipy', 'SimpleITK', 'pydicom', 'skimage', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(text in done.stdout for text in ("--budget", "--tolerances", "--install-completion", "NNUNET_FOLDER"))


def test_public_names_exist_and_are_sorted() -> None:
    assert list(nnseg.__all__) == sorted(nnseg.__all__)
    for name in nnseg.__all__:
        assert getattr(nnseg, name) is not None


@pytest.mark.parametrize(
    ("module", "missing"),
    [
        ("nnseg.commands.plan", ("torch", "scipy", "nibabel", "SimpleITK", "pydicom", "skimage")),
        ("nnseg.commands.preprocess", ("torch", "nnseg.training", "nnseg.inference", "nnseg.evaluation", "nnseg.reporting")),
        ("nnseg.commands.train", ("nnseg.inference", "nnseg.evaluation", "nnseg.crossval", "nnseg.reporting")),
    ],
)
def test_a_command_loads_only_what_it_needs(module: str, missing: tuple[str, ...]) -> None:
    program = f"import sys, {module}; print([m for m in {missing} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
