"""The steps of a Dockerfile without a container engine: each stage is an overlay of this system, on which it leaves no trace.

    unshare --mount python tests/container.py DOCKERFILE DATA [NAME=VALUE ...] -- [arguments of the entry point ...]

Needs root. A base image is this system with this Python; steps see the variables of the Dockerfile alone, and those by which pip
finds packages here. The entry point runs as the Dockerfile's user, without network, on a read-only system with an empty /tmp, and
DATA at /data. NAME=VALUE replaces the default of an ARG; further "--" divide the arguments of several runs.
"""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

PYTHON = Path(sys.base_prefix) / "bin"
BASE_PATH = f"{PYTHON}:/usr/local/bin:/usr/bin:/bin"


def can_emulate() -> bool:
    """True for root on a Linux that lets it mount overlays."""
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "chroot"))):
        return False
    mounts = (
        "mount --make-rprivate / && mount -t tmpfs t /mnt && cd /mnt && mkdir a b c && "
        "mount -t overlay o -o lowerdir=/,upperdir=a,workdir=b c"
    )
    return subprocess.run(["unshare", "--mount", "--net", "sh", "-c", mounts], capture_output=True, check=False).returncode == 0


@dataclass
class Stage:
    """What a FROM begins."""

    root: Path
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": BASE_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "0:0"
    labels: dict[str, str] = field(default_factory=dict)
    entry_point: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction and what follows it, without comments, on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0].upper(), line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True)


def new_stage(place: Path) -> Stage:
    """An overlay of this system, which everybody may look into."""
    for name in ("upper", "work", "root"):
        (place / name).mkdir(parents=True)
    root = place / "root"
    run("mount", "-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={place / 'upper'},workdir={place / 'work'}", root)
    for name in ("proc", "dev"):
        run("mount", "--rbind", f"/{name}", root / name)
    for folder in (PYTHON, *PYTHON.parents):
        inside = root / folder.relative_to("/")
        inside.chmod(inside.stat().st_mode | 0o055)
    (root / "data").is_dir() and shutil.rmtree(root / "data")
    return Stage(root)


def copy(stage: Stage, sources: list[str], target: str, context: Path, stages: dict[str, Stage]) -> None:
    """COPY of one folder or file, from another stage or the context."""
    origin = next((word.partition("=")[2] for word in sources if word.startswith("--from=")), "")
    (source,) = (word for word in sources if not word.startswith("--"))
    there = stage.root / target.lstrip("/")
    if origin:
        there.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", stages[origin].root / source.lstrip("/"), there)
        return
    if (context / source).is_file():
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(context / source, there)
        return
    listed = context / ".dockerignore"
    patterns = [line for line in (listed.read_text() if listed.exists() else "").splitlines() if line and not line.startswith("#")]

    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(context)
        paths = {name: str(inside / name) for name in names}
        return {
            name
            for name, path in paths.items()
            if any(fnmatch.fnmatch(name if p.startswith("**/") else path, p.removeprefix("**/")) for p in patterns)
        }

    shutil.copytree(context / source, there, ignore=ignored, symlinks=True)


def in_stage(stage: Stage, command: list[str], *options: str, **more: str) -> int:
    """The exit code of a command in a stage, with the stage's variables and those of its ARGs alone."""
    variables = {**stage.arguments, **stage.variables, **more}
    program = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *options]
    there = ["chroot", str(stage.root), "/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.folder]
    return subprocess.run([*there, *program, *command], check=False).returncode


def build(dockerfile: Path, place: Path, given: dict[str, str], packages: str = "") -> Stage:  # noqa: C901, PLR0912 (instructions)
    """The last stage, after all instructions.

    Args:
        packages: folder on Python's path with what RUN would install; it is then not run.
    """
    context, stages = dockerfile.parent.resolve(), dict[str, Stage]()
    pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "HTTP", "XDG_CONFIG"))}
    for number, (kind, rest) in enumerate(instructions(dockerfile)):
        if kind == "FROM":
            stage = stages[rest.rpartition(" ")[2]] = new_stage(place / str(number))
        elif kind == "ARG":
            name, _, value = rest.partition("=")
            stage.arguments[name] = given.get(name, value)
        elif kind == "ENV":
            name, _, value = rest.partition("=")
            stage.variables[name] = Template(value).substitute(stage.arguments | stage.variables)
        elif kind == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif kind == "COPY":
            *sources, target = rest.split()
            copy(stage, sources, target, context, stages)
        elif kind == "LABEL":
            name, _, value = rest.partition("=")
            stage.labels[name] = Template(value).substitute(stage.arguments)
        elif kind == "RUN":
            if not packages and (code := in_stage(stage, ["/bin/sh", "-c", rest], **pip)):
                sys.exit(f"RUN {rest}: exit code {code}")
        elif kind == "USER":
            stage.user = rest
        elif kind in ("ENTRYPOINT", "CMD"):
            setattr(stage, "entry_point" if kind == "ENTRYPOINT" else "command", json.loads(rest))
        elif kind != "EXPOSE":
            sys.exit(f"{kind} is not known here")
    if packages:
        stage.variables["PYTHONPATH"] += f":{packages}"
    return stage


def main() -> None:
    first, *runs = [words.split() for words in " ".join(sys.argv[1:]).split(" -- ")]
    dockerfile, data, *given = first
    place = Path("/mnt")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", place)
    stage = build(Path(dockerfile), place, dict(word.split("=", 1) for word in given))
    user, _, group = stage.user.partition(":")
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", stage.root / "tmp")
    run("mount", "--bind", data, stage.root / "data")
    os.chown(data, int(user), int(group))
    run("mount", "-o", "remount,ro", stage.root)
    alone = ("unshare", "--net", "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs")
    for words in runs:
        if code := in_stage(stage, [*stage.entry_point, *(words or stage.command)], *alone):
            sys.exit(f"exit code {code} of {' '.join(words)}")


if __name__ == "__main__":
    main()
