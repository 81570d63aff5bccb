"""The entry point of a folder of ``nnseg package``, without a container engine and within the limits of its platform.

    unshare --mount --net python tests/container_entry.py FOLDER PACKAGES OUTPUT:/path INPUT:/path ... [NAME=VALUE ...] -- [words]

Needs root. The recipe's steps are those of container.py, but what it would install is the folder PACKAGES. It runs as the
recipe's user, without network, on a read-only system with an empty /tmp and 64 MB of /dev/shm. Further inputs at the same path take
the place of the first one after another; to a server a request is sent for each. Prints JSON.
"""

import fcntl
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from container import Stage, build, copy, new_stage, run

PACKAGES = "/opt/packages"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
"""Source: Linux, linux/sockios.h and net/if.h."""

SERVER = "http://127.0.0.1:4743"
PATIENCE = 300.0


def built(folder: Path, place: Path, given: dict[str, str]) -> Stage:
    """The stage of a Dockerfile, or of a definition for Apptainer."""
    if (folder / "Dockerfile").exists():
        return build(folder / "Dockerfile", place, given, packages=PACKAGES)
    parts = dict(re.findall(r"^%(\w+)\n((?:    .*\n|\n)*)", (folder / "nnseg.def").read_text(), re.MULTILINE))
    stage = new_stage(place / "0")
    for line in parts["files"].splitlines():
        if line.strip():
            source, target = line.split()
            copy(stage, [source], target, folder, {})
    stage.variables |= dict(re.findall(r"export (\w+)=(.*)", parts["environment"]))
    stage.variables["PYTHONPATH"] += f":{PACKAGES}"
    stage.user, stage.entry_point = "1000:1000", ["/bin/sh", "-c", parts["runscript"].strip(), "sh"]
    return stage


def bind(source: str, target: Path, *, read_only: bool) -> None:
    run("mount", "--bind", source, target)
    if read_only:
        run("mount", "-o", "remount,bind,ro", target)


def ask(path: str, *, post: bool = False) -> int:
    """The status of an answer; 0 if there is none."""
    request = urllib.request.Request(SERVER + path, data=b"" if post else None)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (urllib.error.URLError, ConnectionError):
        return 0


def serve(process: subprocess.Popen[bytes], inputs: list[str], place: Path) -> list[int]:
    """The statuses of all requests: for health when it is first answered, then for each input."""
    end, statuses = time.monotonic() + PATIENCE, [0]
    while not statuses[0] and process.poll() is None and time.monotonic() < end:
        statuses[0] = ask("/health")
        time.sleep(0.2)
    for number, source in enumerate(inputs):
        if number:
            run("umount", place)
            bind(source, place, read_only=True)
        statuses.append(ask("/invoke", post=True))
    process.terminate()
    return statuses


def main() -> None:
    cut = sys.argv.index("--")
    folder, packages, *given = sys.argv[1:cut]
    words, mounts = sys.argv[cut + 1 :], [word for word in given if ":" in word]
    variables = dict(word.split("=", 1) for word in given if "=" in word)
    place = Path("/mnt")
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "tmpfs", place)
    stage = built(Path(folder), place, variables)
    stage.variables |= variables
    (output, written), *sources = [(source, stage.root / target.lstrip("/")) for source, target in (m.split(":") for m in mounts)]
    user, _, group = stage.user.partition(":")
    os.chown(output, int(user), int(group))
    for target in {stage.root / PACKAGES.lstrip("/"), written, *(target for _, target in sources)}:
        target.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", stage.root / "tmp")
    run("mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", stage.root / "dev" / "shm")
    bind(packages, stage.root / PACKAGES.lstrip("/"), read_only=True)
    bind(output, written, read_only=False)
    bind(sources[0][0], sources[0][1], read_only=True)
    run("mount", "-o", "remount,ro", stage.root)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
    alone = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    inside = ["chroot", str(stage.root), "/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.folder]
    inside += ["env", "-i", *(f"{name}={value}" for name, value in stage.variables.items()), *alone]
    limits = subprocess.run([*inside, "sh", "-c", "id -u; touch /opt/app/new 2>&1; df -k --output=size /dev/shm | tail -1"],
                            capture_output=True, text=True, check=False).stdout  # fmt: skip
    process = subprocess.Popen([*inside, *stage.entry_point, *(words or stage.command)], stdout=sys.stderr)
    statuses = serve(process, [source for source, _ in sources], sources[0][1]) if "serve" in variables.get("MODE", "") else []
    code = process.wait(PATIENCE)
    sys.stdout.write(json.dumps({"code": code, "statuses": statuses, "labels": stage.labels, "limits": limits}) + "\n")


if __name__ == "__main__":
    main()
