"""The tab in a real browser: Debian's headless Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from boards import Board

CHROMIUM = Path("/usr/bin/chromium")
PATIENCE = 30_000  # milliseconds: a loaded machine is slow
WRITTEN = 700  # milliseconds after a change
WHITE, RED = (255, 255, 255), (0xD3, 0x26, 0x3F)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is not installed (apt-get install chromium)")
    sync = pytest.importorskip("playwright.sync_api", reason="no browser: pip install playwright")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Tab:
    """The gradwatch tab, opened in a TensorBoard.

    Attributes:
        page: TensorBoard's page.
        frame: The tab in it.
        trouble: Errors of the console, exceptions and dialogs, as they came.
        asked: Every request to the plugin, path and query.
    """

    page: Any
    frame: Any = None
    trouble: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def listen(self) -> None:
        """Note what goes wrong, and what is asked for."""

        def dialog(opened: Any) -> None:
            self.trouble.append(f"dialog: {opened.message}")
            opened.dismiss()

        self.page.on("dialog", dialog)
        self.page.on("pageerror", lambda error: self.trouble.append(f"exception: {error}"))
        self.page.on("console", lambda message: self.trouble.extend(error_of(message)))
        self.page.on("request", lambda request: self.asked.append(request.url.partition("/plugin/gradwatch/")[2]))

    def open(self, address: str) -> Tab:
        """Go there and wait for the heat map."""
        self.page.goto(address)
        self.page.wait_for_selector("iframe[src*='name=gradwatch']", state="attached", timeout=PATIENCE)
        self.page.wait_for_function(
            "document.querySelector('iframe[src*=\"name=gradwatch\"]').contentDocument?.querySelector('main, .empty')",
            timeout=PATIENCE,
        )
        self.frame = next(frame for frame in self.page.frames if "name=gradwatch" in frame.url)
        self.wait("window.gradwatchFirstPicture > 0 || document.querySelector('.empty:not([hidden])')")
        return self

    def wait(self, condition: str, argument: Any = None) -> None:
        """Until a condition in JavaScript holds."""
        self.frame.wait_for_function(condition, arg=argument, timeout=PATIENCE)

    def figures(self) -> None:
        """Until every figure is drawn."""
        self.wait("[...document.querySelectorAll('.figure:not([hidden])')].every(f => !f.hasAttribute('aria-busy'))")

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.frame.locator(selector).first.inner_text())

    def value(self, selector: str) -> str:
        """What an input or a select holds."""
        return str(self.frame.locator(selector).input_value())

    def link(self, having: dict[str, str] | None = None, *, unlike: dict[str, str] | None = None) -> dict[str, str]:
        """What the address says of the tab: it is written a moment after the change, later on a busy machine.

        Args:
            having: Wait until it says this.
            unlike: Wait until it is no longer this.
        """
        until = time.monotonic() + PATIENCE / 1000
        before = None
        while time.monotonic() < until:
            found = link_of(self.page.url)
            if (having or {}).items() <= found.items() and found != unlike and found == before:
                break
            before = found
            self.page.wait_for_timeout(WRITTEN)
        return link_of(self.page.url)

    def pixels(self, colour: tuple[int, int, int], canvas: str = ".map-host .over") -> list[tuple[float, float]]:
        """Where a canvas has exactly this colour, in pixels from the upper left corner of the map; flags left out."""
        return [
            tuple(place)
            for place in self.frame.evaluate(
                """([selector, [red, green, blue]]) => {
                  const canvas = document.querySelector(selector);
                  const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                  const found = [];
                  for (let index = 0; index < width * height; index++) {
                    const [r, g, b, a] = data.subarray(4 * index, 4 * index + 4);
                    const [x, y] = [index % width, Math.floor(index / width)];
                    if (r === red && g === green && b === blue && a === 255 && y > 20) found.push([x, y]);
                  }
                  return found;
                }""",
                [canvas, colour],
            )
        ]

    def mouse(self, x: float, y: float) -> tuple[float, float]:
        """A place on the map as a place on the page, in view."""
        around = self.frame.locator(".map-host .map")
        around.scroll_into_view_if_needed()
        box = around.bounding_box()
        return box["x"] + x, box["y"] + y

    def click(self, x: float, y: float) -> None:
        """Press on a place of the map."""
        self.page.mouse.click(*self.mouse(x, y))


def error_of(message: Any) -> list[str]:
    """An error of the console, as far as it is ours.

    A browser looks for a favicon by itself, and TensorBoard's own fonts are not found under a path prefix.
    """
    where = message.location.get("url", "")
    foreign = where.endswith("/favicon.ico") or "/font-roboto/" in where
    return [f"{message.text} {where}"] if message.type == "error" and not foreign else []


def link(run: str | None, **state: Any) -> str:
    """The part of an address behind the hash."""
    known = state if run is None else {"run": run, **state}
    parts = (f"p.gradwatch.{key}={urllib.parse.quote(str(value), safe='')}" for key, value in known.items())
    return "&".join(["gradwatch", *parts])


def link_of(address: str) -> dict[str, str]:
    """The inverse of :func:`link`."""
    pairs = (part.partition("=") for part in address.partition("#")[2].split("&"))
    found = {urllib.parse.unquote(key): urllib.parse.unquote(value) for key, _, value in pairs}
    return {key.removeprefix("p.gradwatch."): value for key, value in found.items() if key != "gradwatch"}


@contextlib.contextmanager
def opened(
    browser: Any, board: Board, run: str | None, *, width: int = 1280, height: int = 1000, **state: Any
) -> Iterator[Tab]:
    """The tab on a run; nothing may have gone wrong when it is left."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab = Tab(context.new_page())
    tab.listen()
    try:
        yield tab.open(f"{board.url}#{link(run, **state)}")
        assert not tab.trouble, tab.trouble
    finally:
        context.close()


def middle(places: list[tuple[float, float]]) -> tuple[float, float]:
    """The middle of some pixels."""
    across, down = zip(*places, strict=True)
    return (min(across) + max(across)) / 2, (min(down) + max(down)) / 2


@contextlib.contextmanager
def alone(browser: Any, board: Board) -> Iterator[Tab]:
    """The frame as a page of its own: TensorBoard shows no tab yet where there is nothing to show."""
    context = browser.new_context()
    tab = Tab(context.new_page())
    tab.frame = tab.page
    tab.listen()
    try:
        tab.page.goto(f"{board.url}data/plugin_entry.html?name=gradwatch")
        yield tab
        assert not tab.trouble, tab.trouble
    finally:
        context.close()
