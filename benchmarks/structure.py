"""How is the package built? Counts that tell how hard it is to read, for one or several trees side by side.

    git worktree add ../before 4a6d639
    python benchmarks/structure.py ../before .

Prints a table: files and lines; the longest file and function; classes, and class names that mean several things; the deepest
chain of imports; modules that commands load, and their start-up times (median of 5 processes, the trees in turn); and walks: a
parameter is followed from `nnseg.pipeline.run` through every call that passes it, or what was made of it, on. A climb is a step of
the walk from a layer back up to a higher one, for instance from storage to the command that called it. Needs `grimp`, which comes
with import-linter.
"""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

REPEATS = 5
LOADED = """
import sys
sys.argv = ["nnseg", *sys.argv[1:]]
from nnseg.cli import main
try:
    main()
except SystemExit:
    pass
ours = [m for m in sys.modules if m.split(".")[0] == "nnseg"]
print("LOADED", len(ours), len(sys.modules))
"""
PHANTOMS = """
import sys
from pathlib import Path
try:
    from nnseg.demo.dataset import write_phantoms
except ImportError:
    from nnseg.phantom import write_phantoms
write_phantoms(Path(sys.argv[1]), cases=3)
"""
WALKS = (("nnseg.pipeline", "run", "options"), ("nnseg.pipeline", "run", "dataset_folder"))


@dataclass(frozen=True)
class Function:
    """A function or method.

    Args:
        module: that defines it.
        name: ``function`` or ``Class.method``.
        node: its syntax tree.
    """

    module: str
    name: str
    node: ast.FunctionDef = field(compare=False, hash=False)

    @property
    def parameters(self) -> list[str]:
        """Names, in order."""
        spec = self.node.args
        return [a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)]


class Tree:
    """The package's source, parsed."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.files = sorted((self.root / "nnseg").rglob("*.py"))
        self.modules = {self._module(file): ast.parse(file.read_text()) for file in self.files}

    def _module(self, file: Path) -> str:
        return ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    @cached_property
    def functions(self) -> dict[tuple[str, str], Function]:
        """By module and name; a class stands for its ``__init__``, if it has one."""
        found = {}
        for module, tree in self.modules.items():
            for node in tree.body:
                if isinstance(node, ast.FunctionDef):
                    found[module, node.name] = Function(module, node.name, node)
                elif isinstance(node, ast.ClassDef):
                    for one in node.body:
                        if isinstance(one, ast.FunctionDef):
                            name = node.name if one.name == "__init__" else f"{node.name}.{one.name}"
                            found[module, name] = Function(module, name, one)
        return found

    @cached_property
    def imported(self) -> dict[str, dict[str, tuple[str, str]]]:
        """For each module, where the names it imports come from."""
        return {
            module: {
                alias.asname or alias.name: (node.module or "", alias.name)
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nnseg")
                for alias in node.names
            }
            for module, tree in self.modules.items()
        }

    def callee(self, caller: Function, call: ast.Call) -> Function | None:
        """The function of the package that is called, if the text tells."""
        function = call.func
        if isinstance(function, ast.Name):
            home = self.imported[caller.module].get(function.id, (caller.module, function.id))
            return self.functions.get(home)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id == "self":
            return self.functions.get((caller.module, f"{caller.name.split('.')[0]}.{function.attr}"))
        return None

    @cached_property
    def layers(self) -> list[str]:
        """The layers of import-linter's contract, the highest first."""
        text = (self.root / "pyproject.toml").read_text()
        block = text[text.index("layers = [") :]
        return [line.strip().strip('",') for line in block[: block.index("\n]")].splitlines()[1:]]

    def height(self, module: str) -> int:
        """The layer of a module, 0 for the lowest."""
        room = ".".join(module.split(".")[:2])
        return next((len(self.layers) - i for i, layer in enumerate(self.layers) if room in layer.split(" | ")), 0)


def mentions(node: ast.AST, names: set[str]) -> bool:
    """Whether an expression uses one of some names."""
    return any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))


def walk(tree: Tree, function: Function, parameter: str, seen: set[tuple[Function, str]]) -> Iterator[str]:
    """The modules that a parameter's values are in, in the order of the text: on entry, and again after each call."""
    seen.add((function, parameter))
    yield function.module
    followed = {parameter}
    for node in in_order(function.node):
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None and mentions(node.value, followed):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            followed |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.Call) and (target := tree.callee(function, node)):
            for name in passed(node, target, followed):
                if (target, name) not in seen:
                    yield from walk(tree, target, name, seen)
                    yield function.module


def in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes in the order of execution: arguments before calls, values before targets."""
    for child in ast.iter_child_nodes(node):
        yield from in_order(child)
    yield node


def passed(call: ast.Call, target: Function, followed: set[str]) -> list[str]:
    """The parameters of a function that receive followed values from a call."""
    parameters = target.parameters
    method = bool(parameters) and parameters[0] == "self"
    found = ["self"] if method and isinstance(call.func, ast.Attribute) and mentions(call.func.value, followed) else []
    names = parameters[1:] if method else parameters
    found += [name for name, value in zip(names, call.args, strict=False) if mentions(value, followed)]
    return found + [k.arg for k in call.keywords if k.arg in names and mentions(k.value, followed)]


def walks(tree: Tree) -> dict[str, object]:
    """Files entered and climbs of each walk."""
    found: dict[str, object] = {}
    for module, name, parameter in WALKS:
        route = list(walk(tree, tree.functions[module, name], parameter, set()))
        route = [m for i, m in enumerate(route) if i == 0 or m != route[i - 1]]
        climbs = sum(tree.height(b) > tree.height(a) for a, b in pairwise(route))
        found[f"walk of `{parameter}`: files entered"] = len(set(route))
        found[f"walk of `{parameter}`: climbs"] = climbs
        fetched = sum(a.startswith("nnseg.storage") and tree.height(b) > tree.height(a) for a, b in pairwise(route))
        found[f"walk of `{parameter}`: climbs out of storage"] = fetched
    above = [m for m in tree.modules if not m.startswith(("nnseg.storage", "nnseg.core"))]
    reads = [n for m in above for n in ast.walk(tree.modules[m]) if isinstance(n, ast.Call) and ast.unparse(n.func) == "read_json"]
    return found | {"calls of `read_json` above storage": len(reads)}


def sizes(tree: Tree) -> dict[str, object]:
    """Files, lines, functions and classes."""
    lines = {m: len(f.read_text().splitlines()) for m, f in zip(tree.modules, tree.files, strict=True)}
    functions = [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, parsed in tree.modules.items()
        for node in ast.walk(parsed)
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]
    classes = Counter(n.name.lstrip("_") for t in tree.modules.values() for n in ast.walk(t) if isinstance(n, ast.ClassDef))
    longest, where = max((n, m) for m, n in lines.items())
    inits = sum(f.name == "__init__.py" for f in tree.files)
    return {
        "modules (`__init__` files beside them)": f"{len(lines) - inits} ({inits})",
        "lines": sum(lines.values()),
        "longest file": f"{longest} ({where})",
        "longest function": "{} ({})".format(*max(functions)),
        "functions of more than 40 lines": sum(n > 40 for n, _ in functions),
        "classes": sum(classes.values()),
        "class names of several meanings": sum(n > 1 for n in classes.values()),
    }


def depths(tree: Tree) -> dict[str, object]:
    """The deepest chain of imports, in modules."""
    program = (
        "import functools, grimp\n"
        "graph = grimp.build_graph('nnseg')\n"
        "@functools.cache\n"
        "def depth(m): return 1 + max((depth(x) for x in graph.find_modules_directly_imported_by(m)), default=0)\n"
        "print(max(depth(m) for m in graph.modules))"
    )
    return {"deepest import chain": int(python(tree, "-c", program).stdout)}


def python(tree: Tree, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the tree's package."""
    environment = os.environ | {"PYTHONPATH": str(tree.root)}
    return subprocess.run([sys.executable, *arguments], env=environment, cwd="/", capture_output=True, text=True, check=True)


def commands(work: Path) -> dict[str, list[str]]:
    """Commands to count modules of, on a dataset of three phantoms."""
    data, run = str(work / "data"), str(work / "run")
    return {
        "--help": ["--help"],
        "check": ["check", data],
        "plan": ["plan", data, run, "--no-probe", "--steps", "1", "--folds", "0"],
        "preprocess": ["preprocess", run],
        "train": ["train", run, "--folds", "0", "--steps", "1"],
    }


def loads(tree: Tree, work: Path) -> dict[str, object]:
    """Modules of the package, and in all, that each command loads in its own process."""
    python(tree, "-c", PHANTOMS, str(work / "data"))
    found: dict[str, object] = {}
    for name, arguments in commands(work).items():
        said = python(tree, "-c", LOADED, *arguments).stdout
        ours, total = next(line for line in said.splitlines() if line.startswith("LOADED")).split()[1:]
        found[f"`{name}`: modules of ours (of all)"] = f"{ours} ({total})"
    return found


def start_up(trees: list[Tree], work: Path) -> list[dict[str, object]]:
    """Median seconds of commands that do nothing, the trees in turn."""
    found: list[dict[str, object]] = [{} for _ in trees]
    for name in ("--help", "check", "plan", "preprocess", "train"):
        seconds: list[list[float]] = [[] for _ in trees]
        for _ in range(REPEATS):
            for i, tree in enumerate(trees):
                arguments = ["--help"] if name == "--help" else commands(work / str(i))[name]
                start = time.perf_counter()
                python(tree, "-m", "nnseg", *arguments)
                seconds[i].append(time.perf_counter() - start)
        for i, taken in enumerate(seconds):
            found[i][f"`{name}`: seconds, nothing left to do"] = round(statistics.median(taken), 2)
    return found


def main() -> None:
    """Print the table."""
    trees = [Tree(Path(a)) for a in sys.argv[1:] or ["."]]
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        columns = [sizes(t) | depths(t) | walks(t) | loads(t, work / str(i)) for i, t in enumerate(trees)]
        timed = start_up(trees, work)
    for column, times in zip(columns, timed, strict=True):
        column.update(times)
    print("| | " + " | ".join(t.root.name for t in trees) + " |\n" + "|---" * (len(trees) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(str(column.get(name, "")) for column in columns) + " |")


if __name__ == "__main__":
    main()
