"""HTTP servers of a folder on this machine, which can be told to fail, and a server of S3: for tests of hubs."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote


class HubServer(ThreadingHTTPServer):
    """A server that counts what it is asked for.

    Attributes:
        cut: bytes of a file after which each answer ends; None for all.
        ranges: False to answer with the whole file always.
        redirects: addresses by the path of what is there.
        asked: path and first byte of each request.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.folder, self.ranges = folder, True
        self.cut: int | None = None
        self.redirects: dict[str, str] = {}
        self.asked: list[tuple[str, int]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        path = unquote(self.path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")) if self.server.ranges else 0
        self.server.asked.append((path, start))
        if place := self.server.redirects.get(path):
            self.send_response(302)
            self.send_header("Location", place)
            self.end_headers()
            return
        file = self.server.folder / path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = None if path.endswith(".json") or self.server.cut is None else start + self.server.cut
        self.wfile.write(content[start:cut])

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[HubServer]:
    """A running server of a folder."""
    with HubServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of a running server of S3, moto's, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                with socket.socket() as asked:
                    if asked.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert server.poll() is None, "the server of S3 has ended"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()
