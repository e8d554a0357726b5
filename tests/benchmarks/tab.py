"""How long the gradwatch tab takes to show a run, in a real TensorBoard and a real Chromium.

    python tests/benchmarks/tab.py [--quick] [--keep DIRECTORY]

Runs of known size with 500 planted one-step spikes are written by gradwatch, TensorBoard loads them (not counted), and
then, for both of its loaders:

- server: seconds until the answer with the heat map is here, first and again; a zoom into a tenth of the run;
- browser: seconds from the opening of the tab (the navigation of its frame) until its heat map is drawn, first (nothing
  is cached anywhere) and again (the median of three reloads of the page); in brackets with TensorBoard's own page,
  that loads before it and beside it;
- spikes: how many of the 500 are in the picture's cells at their full height.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent.parent / "tensorboard_plugin")]

from boards import Board, board, cell_of, cells  # noqa: E402
from browser import CHROMIUM  # noqa: E402
from planted import incident, layers, record  # noqa: E402

from gradwatch.writers.tensorboard import TensorBoardWriter  # noqa: E402

SIZES = {(500, 2_000): (1.0, 0.3), (1_000, 10_000): (2.5, 1.0), (1_000, 100_000): (6.0, 1.0)}
"""Layers, steps -> seconds that the first and the second picture may take."""

SPIKES, HEIGHT = 500, 1e4
PATIENCE = 60_000  # milliseconds
SCALAR = "gradwatch/log10 gradient norm"


def places(num_layers: int, num_steps: int) -> dict[int, int]:
    """Step and layer of every spike: no two in one step."""
    rng = np.random.default_rng(num_steps)
    steps = rng.choice(num_steps, SPIKES, replace=False)
    return dict(zip(steps.tolist(), rng.integers(num_layers, size=SPIKES).tolist(), strict=True))


def usual(num_layers: int) -> np.ndarray:
    """What each layer's norm is around."""
    return 10.0 ** np.linspace(-4, -1, num_layers)


def write(logdir: Path, num_layers: int, num_steps: int) -> None:
    """A run in which one layer is 10,000 times larger at each of 500 steps; each of these is an incident, too."""
    spikes, known, rng = places(num_layers, num_steps), layers(num_layers), np.random.default_rng(0)
    writer, level = TensorBoardWriter(logdir, clock=lambda: 0.0), usual(num_layers)
    for step in range(num_steps):
        norms = level * np.exp(rng.normal(0, 0.2, num_layers))
        if step in spikes:
            norms[spikes[step]] = level[spikes[step]] * HEIGHT
        sampled = {} if step % 10 else {"weight_norm": np.ones(num_layers), "update_ratio": norms / 100}
        writer.write(record(step, known, norms, **sampled))
        if step in spikes:
            writer.write_incident(incident(step, known[spikes[step]].name))
    writer.close()


def seen(picture: dict[str, Any], num_layers: int, num_steps: int) -> int:
    """How many spikes are in the picture at their height."""
    codes, level = cells(picture), usual(num_layers)
    count = 0
    for step, layer in places(num_layers, num_steps).items():
        height = picture["low"] + (int(codes[cell_of(picture, layer, step)]) - 1) / 249 * (
            picture["high"] - picture["low"]
        )
        count += height >= np.log10(level[layer] * HEIGHT) - 0.1
    return int(count)


def timed(running: Board, **arguments: Any) -> tuple[float, dict[str, Any]]:
    """Seconds until an answer is here, and the answer."""
    started = time.perf_counter()
    answer = running.get("heatmap", run="run", **arguments)
    return time.perf_counter() - started, answer


@contextlib.contextmanager
def loaded(logdir: Path, num_steps: int, loader: str) -> Iterator[Board]:
    """A fresh TensorBoard that has read everything."""
    with board(logdir, f"--load_fast={loader}", "--reload_interval=5") as running:
        until, scalars = time.monotonic() + 1_200, f"data/plugin/scalars/scalars?run=run&tag={quote(SCALAR)}"
        while True:  # asking gradwatch itself would warm it up
            status, body, _ = running.ask(scalars)
            if status == 200 and json.loads(body)[-1][1] == num_steps - 1:
                break
            assert time.monotonic() < until, (status, running.log[-5:])
            time.sleep(0.5)
        time.sleep(2)
        yield running


def by_server(running: Board, num_layers: int, num_steps: int) -> tuple[list[float], int]:
    """First, again, zoomed; and the spikes that are seen."""
    first, picture = timed(running)
    again, _ = timed(running)
    zoomed, _ = timed(running, first=num_steps // 2, last=num_steps // 2 + num_steps // 10)
    return [first, again, zoomed], seen(picture, num_layers, num_steps)


def by_browser(running: Board) -> list[float]:
    """First and again: in the tab's own frame, and from the very beginning."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        for go in (lambda: page.goto(f"{running.url}#gradwatch"), page.reload, page.reload, page.reload):
            started = time.perf_counter()
            go()
            drawn = page.wait_for_function(
                "document.querySelector('iframe[src*=\"name=gradwatch\"]')?.contentWindow.gradwatchFirstPicture",
                timeout=PATIENCE,
            )
            found.append((float(drawn.json_value()) / 1e3, time.perf_counter() - started))
            page.wait_for_timeout(1_000)
        browser.close()
    return [*found[0], *np.median(found[1:], axis=0).tolist()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 layers x 2,000 steps alone, with the default loader")
    parser.add_argument("--keep", type=Path, help="write the runs there, and use those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        room = options.keep or Path(scratch)
        print(f"{'':24}{'server: first again  zoom':25} | {'browser: first':15}again{'':11} | spikes     | load")
        for num_layers, num_steps in list(SIZES)[: 1 if options.quick else None]:
            logdir = room / f"{num_layers}x{num_steps}"
            if not logdir.exists():
                write(logdir / "run", num_layers, num_steps)
            for loader in ("auto",) if options.quick else ("auto", "false"):
                with loaded(logdir, num_steps, loader) as running:
                    browser = by_browser(running) if CHROMIUM.exists() else [np.nan] * 4
                    server, count = by_server(running, num_layers, num_steps)
                server[0] = np.nan if CHROMIUM.exists() else server[0]  # the browser was first
                if loader == "auto":  # the other one takes minutes to load the longest run
                    with loaded(logdir, num_steps, loader) as running:
                        server[0] = timed(running)[0]
                first = "-" if np.isnan(server[0]) else f"{server[0]:.2f}"
                limits = SIZES[num_layers, num_steps]
                late = "  LATE" if browser[0] > limits[0] or browser[2] > limits[1] else ""
                size, shown = f"{num_layers:,} x {num_steps:,}", "{:5.2f} ({:5.2f}) {:5.2f} ({:5.2f})".format(*browser)
                print(
                    f"{size:16} {loader:6}  {first:>12} {server[1]:5.2f} {server[2]:5.2f} | {shown:31} | "
                    f"{count} of {SPIKES} | load {os.getloadavg()[0]:.1f}{late}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
