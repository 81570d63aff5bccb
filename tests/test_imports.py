"""The command line answers at once, and the public names are what we say they are."""

import subprocess
import sys

import nnseg


def test_help_loads_none_of_the_heavy_libraries() -> None:
    program = (
        "import sys; from nnseg import cli; sys.argv = ['nnseg', 'run', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'scipy', 'SimpleITK', 'skimage', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "--budget" in done.stdout


def test_public_names_exist_and_are_sorted() -> None:
    assert list(nnseg.__all__) == sorted(nnseg.__all__)
    for name in nnseg.__all__:
        assert getattr(nnseg, name) is not None
