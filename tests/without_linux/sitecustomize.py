"""Python imports this at its start if the folder is on its path: nnseg's modules then see of the system what they would on Windows.

They find no functions, signals, modules and files that only Linux has, no files that are open may be renamed or removed, no folder
can be opened, text without an encoding is that of Western Europe, its lines end in two characters, no link can be made, any signal
sent to a process kills it, and the parent's number stays when it ends. Other packages see Linux, since they have code of their own
for Windows. Paths, locks and the start of programs stay Linux's.
"""

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

MISSING_MODULES = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}

MISSING = {
    "os": """O_CLOEXEC O_DIRECTORY O_DSYNC O_NOFOLLOW O_NONBLOCK O_SYNC WNOHANG chown fchmod fchown fork forkpty fstatvfs getegid
        geteuid getgid getgroups getloadavg getpgid getpriority getuid killpg lchown memfd_create mkfifo mknod nice pidfd_open
        posix_fadvise posix_fallocate posix_spawn pread preadv pwrite pwritev register_at_fork sched_getaffinity sched_setaffinity
        sched_yield sendfile set_blocking setpgid setpriority setsid statvfs sysconf uname wait wait3 wait4 waitid""",
    "signal": """ITIMER_PROF ITIMER_REAL ITIMER_VIRTUAL SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP
        SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH SIGXCPU alarm getitimer pause pidfd_send_signal pthread_kill pthread_sigmask setitimer
        siginterrupt sigpending sigtimedwait sigwait sigwaitinfo""",
    "select": "epoll poll",
    "faulthandler": "register unregister",
    "ctypes": "",
    "sys": "",
}
"""What modules of the standard library lack there."""

HIDDEN = ("/proc/", "/sys/", "/dev/shm/")

LIBRARY = ("pathlib", "shutil", "os", "io", "contextlib", "genericpath", "posixpath", "glob", __name__)
"""Modules through which others open and rename files."""


class View(ModuleType):
    """A module without some of its attributes, and with others changed."""

    def __init__(self, real: ModuleType, missing: set[str], changed: Mapping[str, Any]) -> None:
        self.__dict__.update(_real=real, _missing=missing, _changed=changed)

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"module {self._real.__name__!r} has no attribute {name!r} on Windows")
        return self._changed[name] if name in self._changed else getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


def open_text(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    if "b" not in mode and is_called_by_nnseg():
        encoding = "cp1252" if encoding in (None, "locale") else encoding
        newline = "\r\n" if newline is None and mode[:1] in "wxa" else newline
    return real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)


def open_file(path: Any, flags: int, *more: Any, **named: Any) -> int:
    if os.path.isdir(path):  # noqa: PTH112
        raise PermissionError(13, "Permission denied", str(path))
    return os.open(path, flags, *more, **named)


def flush(handle: int) -> None:
    import fcntl

    if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(9, "Bad file descriptor")
    os.fsync(handle)


def kill(pid: int, number: int) -> None:
    os.kill(pid, signal.SIGKILL)


def load_library(name: str | None, *more: Any, **named: Any) -> Any:
    import ctypes

    if name is None:
        raise TypeError("expected str, got None")
    return ctypes.CDLL(name, *more, **named)


PARENT = os.getppid()

CHANGED: dict[str, dict[str, Any]] = {
    "os": {"open": open_file, "fsync": flush, "kill": kill, "getppid": lambda: PARENT},
    "ctypes": {"CDLL": load_library},
    "sys": {"platform": "win32"},
}

views: dict[str, View] = {}
real_open = builtins.open
import_module: Callable[..., ModuleType] = builtins.__import__


def import_as_on_windows(name: str, globals: Any = None, *more: Any, **named: Any) -> ModuleType:
    module = import_module(name, globals, *more, **named)
    importer = str((globals or {}).get("__name__", ""))
    if importer != "nnseg" and not importer.startswith("nnseg."):
        return module
    top = name.partition(".")[0]
    if top in MISSING_MODULES:
        raise ModuleNotFoundError(f"No module named {top!r} on Windows", name=top)
    if top in MISSING and module.__name__ == top:
        if top not in views:
            views[top] = View(module, set(MISSING[top].split()), CHANGED.get(top, {}))
        return views[top]
    return module


def is_called_by_nnseg() -> bool:
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__") in LIBRARY and frame.f_code is not is_open_here.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    return bool(frame) and str(frame.f_globals.get("__name__", "")).startswith("nnseg.")


def is_open_here(path: str) -> bool:
    wanted = os.path.realpath(path)
    links = []
    for link in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            links.append(os.readlink(f"/proc/self/fd/{link}"))  # noqa: PTH115
        except OSError:
            continue
    return wanted in links or any(line.rstrip("\n").endswith(f" {wanted}") for line in Path("/proc/self/maps").open())


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse what Windows refuses."""
    if event in ("open", "os.listdir", "os.scandir"):
        path = arguments[0]
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(HIDDEN) and is_called_by_nnseg():
            raise FileNotFoundError(2, "No such file or directory", os.fspath(path))
    elif event in ("os.rename", "os.remove") and is_called_by_nnseg():
        for path in arguments[: 1 + (event == "os.rename")]:
            if is_open_here(os.fspath(path)):
                raise PermissionError(13, "The process cannot access the file because it is being used by another process", path)
    elif event == "os.symlink" and is_called_by_nnseg():
        raise OSError(22, "A required privilege is not held by the client", arguments[1])


builtins.__import__ = import_as_on_windows
builtins.open = io.open = open_text  # type: ignore[assignment]
sys.addaudithook(watch)
