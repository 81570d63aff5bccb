"""A headless Chromium to ask about a page: over a pipe, so that no port and no other package is needed."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PROGRAM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine")

QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
SOFTWARE_WEBGL = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


class Browser:
    """One page in a headless Chromium; within ``with``.

    Args:
        profile: an empty folder for the browser's own files.
        webgl: draw WebGL in software.
    """

    def __init__(self, profile: Path, *, webgl: bool = False) -> None:
        assert PROGRAM is not None
        self.errors: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._count, self._rest = 0, b""
        self._log = (profile / "browser.log").open("wb")
        ours_in, theirs_out = _far_pipe()
        theirs_in, ours_out = _far_pipe()
        self._in, self._out = ours_in, ours_out

        def connect() -> None:  # Chromium reads 3 and writes 4
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)

        options = [*QUIET, *(SOFTWARE_WEBGL if webgl else ["--disable-gpu"]), f"--user-data-dir={profile / 'profile'}"]
        self._process = subprocess.Popen(
            [PROGRAM, *options, "about:blank"],
            stdout=self._log,
            stderr=self._log,
            preexec_fn=connect,  # noqa: PLW1509 (tests start no threads before)
            pass_fds=(3, 4),
        )
        os.close(theirs_in)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        target = self._call("Target.createTarget", seconds=60.0, url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", seconds=60.0, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._log.close()

    def open(self, page: Path, *, width: int = 1280, height: int = 900, dark: bool = False, fragment: str = "") -> None:
        """Load a page and wait until all of it is there; errors are counted anew."""
        self.errors = []
        self.resize(width, height)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self._events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri() + fragment)
        self._wait(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of this size, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def ask(self, script: str, *, seconds: float = 30.0) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call("Runtime.evaluate", seconds=seconds, expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description") or details["text"])
        return answer["result"].get("value")

    def wait_for(self, script: str, *, seconds: float = 30.0) -> Any:
        """The value of an expression once it is true.

        Raises:
            TimeoutError: it does not become true.
        """
        end = time.monotonic() + seconds
        while not (value := self.ask(script, seconds=seconds)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {seconds:g} s: {script}")
            time.sleep(0.05)
        return value

    def press(self, key: str, *, code: int = 0, text: str = "") -> None:
        """Press a key such as "Tab" (code 9), "Enter" (13, text "\\r") or "ArrowDown" (40)."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)

    def click(self, x: float, y: float) -> None:
        """Click at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))

    def print_pdf(self, path: Path) -> None:
        """The page as it is printed, on A4."""
        answer = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(answer["data"]))

    def call(self, method: str, *, seconds: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the DevTools protocol, to this page."""
        return self._call(method, seconds=seconds, session=self._session, **parameters)

    def _call(self, method: str, *, seconds: float, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._out, content) :]
        self._wait(lambda: number in self._answers, seconds)
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer.get('error')}"
        result: dict[str, Any] = answer["result"]
        return result

    def _wait(self, done: Any, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser has not answered within {seconds:g} s")
            read = os.read(self._in, 1 << 20)
            assert read, "the browser has ended"
            *messages, self._rest = (self._rest + read).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        self._events.append(message)
        said = message["params"]
        if message["method"] == "Runtime.exceptionThrown":
            details = said["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif message["method"] == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in said["args"]))
        elif message["method"] == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.errors.append(said["entry"]["text"])
        elif message["method"] == "Network.requestWillBeSent" and said["request"]["url"].startswith("http"):
            self.errors.append(f"asked for {said['request']['url']}")


def _far_pipe() -> tuple[int, int]:
    """A pipe whose ends are not 3 or 4."""
    ends = os.pipe()
    far = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return far[0], far[1]
