"""A model in a container of grand-challenge.org: the case in /input is predicted into /output, once or for each request.

    python -m nnseg.serving.grand_challenge [--inputs SLUG,...] [--output images/NAME] [--prepare STEPS]

Where the variable API_METHOD is "exec", one case is predicted. Otherwise a server answers on port 4743: ``GET /health`` with 200
when the model is loaded, ``POST /invoke`` with 201 when the case is predicted. The model in /opt/ml/model is used, if there is one,
else that beside the package.

Source: grand-challenge.org/documentation/building-and-testing-the-container and /runtime-environment.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nnseg.core.errors import NnsegError
from nnseg.core.names import split_names
from nnseg.serving.segmenter import Segmenter, load
from nnseg.serving.sockets import RESULT, find_images, result_file
from nnseg.system.log_format import log_lines

PORT = 4743
log = logging.getLogger(__name__)


def predict_case(model: Segmenter, source: Path, target: Path, *, inputs: Sequence[str] = (), output: str = RESULT) -> Path:
    """The file of the label map that a model predicts for the case in a folder of inputs.

    Args:
        model: that is loaded.
        source: /input.
        target: /output.
        inputs: slugs of the sockets that hold the model's channels, in their order; by default they are told by their names.
        output: path of the socket of the label map.

    Raises:
        ScanError: the images are not those that the model needs, or cannot be read.
        RunError: the label map cannot be written.
    """
    found = find_images(source, model.channels, inputs)
    file = result_file(target, output)
    model.predict(list(found)).save(file)
    log.info("%s: predicted from %s", file, ", ".join(str(path) for path in found))
    return file


def make_server(answer: Callable[[], object], *, host: str, port: int) -> ThreadingHTTPServer:
    """A server of the invoke API, which is not started yet.

    Args:
        answer: predicts the case; requests for it wait for each other.
        host: address of this machine to listen at.
        port: 0 for any free one.
    """
    busy = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200 if self.path == "/health" else 404)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.path != "/invoke":
                self._reply(404)
                return
            try:
                with busy:
                    answer()
            except Exception as error:  # the server goes on
                log.exception("the case cannot be predicted")
                self._reply(500, f"{type(error).__name__}: {error}")
                return
            self._reply(201)

        def _reply(self, status: int, text: str = "") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *values: Any) -> None:
            log.debug(format, *values)

    return ThreadingHTTPServer((host, port), Handler)


def main() -> None:
    """Predict one case, or serve until the process is stopped."""
    log_lines(stream=sys.stdout)
    chosen = _parser().parse_args()
    inputs = split_names(chosen.inputs)
    uploaded = sorted(chosen.models.glob("*.nnseg"))

    def answer() -> None:
        predict_case(model, chosen.source, chosen.target, inputs=inputs, output=chosen.output)

    try:
        model = load(uploaded[0] if uploaded else chosen.model, device=chosen.device, prepare=split_names(chosen.prepare))
        if os.environ.get("API_METHOD") == "exec":
            answer()
            return
    except NnsegError as error:
        log.error("%s", error)
        sys.exit(1)
    with make_server(answer, host=chosen.host, port=chosen.port) as server:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # as the first process of a container it would else be ignored
        log.info("ready on port %d", server.server_port)
        server.serve_forever()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", default="", help="slugs of the sockets of the channels, in their order, with commas between")
    parser.add_argument("--output", default=RESULT, help="path of the socket of the label map")
    parser.add_argument("--prepare", default="", help="steps before preprocessing, as of nnseg predict")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "model.nnseg")
    parser.add_argument("--models", type=Path, default=Path("/opt/ml/model"), help="folder of a model that is uploaded apart")
    parser.add_argument("--source", type=Path, default=Path("/input"))
    parser.add_argument("--target", type=Path, default=Path("/output"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--host", default="0.0.0.0")  # noqa: S104 (of the container)
    parser.add_argument("--port", type=int, default=PORT)
    return parser


if __name__ == "__main__":
    main()
