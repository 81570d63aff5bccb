"""Help starts without the heavy libraries, and the public names exist."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

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
    assert {*nnseg.__all__, "__version__"} == {*dir(nnseg)}  # what editors and notebooks offer


NOT_NEEDED = {
    "plan": ("torch", "scipy", "nibabel", "SimpleITK", "pydicom", "skimage"),
    "preprocess": ("torch", "nnseg.training", "nnseg.inference", "nnseg.evaluation", "nnseg.reporting"),
    "train": ("nnseg.inference", "nnseg.evaluation", "nnseg.crossval", "nnseg.reporting"),
}
"""What the modules of commands must not load, in an order in which one process can load them one after another."""


def test_a_command_loads_only_what_it_needs() -> None:
    program = (
        f"import importlib, sys\nfor command, others in {NOT_NEEDED}.items():\n"
        "    importlib.import_module(f'nnseg.commands.{command}')\n"
        "    print(command, [m for m in others if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{command} []" for command in NOT_NEEDED]


def imported_by(file: Path, modules: dict[str, Path]) -> set[str]:
    tree = ast.parse(file.read_text())
    for_types = {node for branch in ast.walk(tree) if is_for_types(branch) for node in ast.walk(branch)}
    found = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in for_types:
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & modules.keys()) or ({str(node.module)} & modules.keys())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules.keys()
    return found


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def test_no_chain_of_imports_is_longer_than_16_modules() -> None:
    root = Path(nnseg.__file__).parents[1]
    files = {".".join(p.relative_to(root).with_suffix("").parts): p for p in (root / "nnseg").rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    imports = {name: imported_by(path, modules) - {name} for name, path in modules.items()}

    @cache
    def longest(name: str) -> tuple[str, ...]:
        return (name, *max((longest(other) for other in imports[name]), key=len, default=()))

    chain = max(map(longest, modules), key=len)
    assert len(chain) <= 16, " > ".join(chain)
