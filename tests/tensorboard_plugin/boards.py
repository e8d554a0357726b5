"""A real TensorBoard process, and questions to it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PLUGIN = "data/plugin/gradwatch"

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Board:
    """A TensorBoard that runs.

    Attributes:
        url: Ends with a slash; with the path prefix, if any.
        process: Its process.
        log: The lines that it has written so far.
    """

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def ask(self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, bytes, Any]:
        """Status, body and headers of any path below the url."""
        request = urllib.request.Request(self.url + path, method=method, headers=dict(headers or {}))  # noqa: S310
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), error.headers

    def get(self, route: str, **arguments: Any) -> Any:
        """The JSON of a route that must answer."""
        status, body, _ = self.ask(f"{PLUGIN}/{route}?{urllib.parse.urlencode(arguments)}")
        data = json.loads(body)
        assert status == 200, (status, data)
        assert "error" not in data, data
        return data

    def refused(self, route: str, **arguments: Any) -> str:
        """Why a route refuses to answer, in words."""
        status, body, _ = self.ask(f"{PLUGIN}/{route}?{urllib.parse.urlencode(arguments)}")
        assert status == 400, (status, body[:300])
        text = json.loads(body)["error"]
        assert isinstance(text, str)
        return text

    def wait_for(self, last_steps: Mapping[str, int], seconds: float = 90) -> None:
        """Until each of these runs has come to this step."""
        until = time.monotonic() + seconds
        while True:
            known = {entry["run"]: entry["last_step"] for entry in self.get("runs")["runs"]}
            if all(known.get(run, -1) >= step for run, step in last_steps.items()):
                return
            assert time.monotonic() < until, (known, last_steps, self.log[-20:])
            time.sleep(0.2)


@contextlib.contextmanager
def board(logdir: Path, *options: str, path: Path | None = None) -> Iterator[Board]:
    """A TensorBoard over a directory, as a user starts it.

    Args:
        logdir: What it shows.
        options: More of its command line.
        path: Where Python looks for packages first.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", "0", *options]
    where = {} if path is None else {"PYTHONPATH": str(path)}
    environment = {**os.environ, **where, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=logdir,  # Python looks for packages in the working directory first
    )
    log: list[str] = []
    told = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            log.append(line.rstrip())
            if re.search(r"http://\S+ \(Press", line):
                told.set()
        told.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert told.wait(60), log
        found = [match[1] for line in log if (match := re.search(r"(http://\S+) \(Press", line))]
        assert found, log
        yield Board(found[0].replace("://localhost", "://127.0.0.1"), process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(10)
        if process.stderr is not None:
            process.stderr.close()


def cells(heatmap: Mapping[str, Any]) -> np.ndarray:
    """The bytes of a heat map, ``[rows, columns]``."""
    raw = np.frombuffer(base64.b64decode(heatmap["cells"]), np.uint8)
    return raw.reshape(heatmap["rows"], heatmap["cols"])


def cell_of(heatmap: Mapping[str, Any], row: int, step: int) -> tuple[int, int]:
    """Where a layer's step is in a heat map."""
    return (
        int(np.searchsorted(heatmap["row_first"], row, side="right")) - 1,
        int(np.searchsorted(heatmap["step_first"], step, side="right")) - 1,
    )
