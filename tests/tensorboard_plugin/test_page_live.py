"""What the page does while a training writes, where TensorBoard has a path prefix, and when it goes away."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import planted
import pytest
from boards import board
from browser import alone, chromium, opened

import gradwatch
from gradwatch.writers.tensorboard import TensorBoardWriter

STATIC = Path(gradwatch.__file__).parent / "tensorboard_plugin" / "static"
KNOWN = planted.layers(8)


@pytest.fixture(scope="module")
def browser():
    """One for all."""
    with chromium() as running:
        yield running


def steps(writer, first, last, factor=1.0):
    """Some steps, on disk when this returns."""
    for step in range(first, last):
        writer.write(planted.record(step, KNOWN, np.full(8, factor)))
    writer.flush()


def test_new_steps_and_incidents_appear_without_a_reload(browser, tmp_path):
    """Run state, map, figures and list grow by themselves; zoom, selection and page stay as they were."""
    writer = TensorBoardWriter(tmp_path / "live")
    steps(writer, 0, 100)
    zoom = {"first": 20, "last": 59, "row_first": 1, "row_last": 5}
    with board(tmp_path, "--reload_interval=1") as running:
        running.wait_for({"live": 99})
        with opened(browser, running, "live", step=30, layer=KNOWN[2].name, **zoom) as tab:
            assert tab.text(".verdict h2") == "Healthy so far"
            assert "running" in tab.text(".state")
            tab.frame.evaluate("window.stayed = true")
            tab.figures()
            steps(writer, 100, 200)
            tab.wait("document.querySelector('.state').textContent.includes('step 199')")
            writer.write_incident(planted.incident(199, KNOWN[3].name))
            tab.wait("document.querySelectorAll('.incident').length === 1")
            assert tab.text(".verdict h2").startswith("Exploding at step 199")
            assert tab.value("#step") == "30", "what somebody looks at is not taken away"
            assert zoom.items() <= {key: int(tab.link()[key]) for key in zoom}.items()
            assert tab.frame.evaluate("window.stayed")
            tab.page.keyboard.press("Escape")
    writer.close()


def test_follow_shows_the_newest_step(browser, tmp_path):
    """With "follow newest" the figure over depth moves on with the run; a press on the button holds it."""
    writer = TensorBoardWriter(tmp_path / "live")
    steps(writer, 0, 50)
    with board(tmp_path, "--reload_interval=1") as running:
        running.wait_for({"live": 49})
        with opened(browser, running, "live") as tab:
            assert tab.frame.locator(".follow").get_attribute("aria-pressed") == "true"
            tab.wait("document.querySelector('#profile h3').textContent.includes('step 49')")
            steps(writer, 50, 80)
            tab.wait("document.querySelector('#profile h3').textContent.includes('step 79')")
            tab.frame.locator(".follow").click()
            assert tab.value("#step") == "79"
            steps(writer, 80, 90)
            tab.wait("document.querySelector('.state').textContent.includes('step 89')")
            tab.figures()
            assert "step 79" in tab.text("#profile h3")
    writer.close()


def test_a_run_that_begins_later_appears(browser, tmp_path):
    """An empty log directory says what to do, and the page fills by itself with the first steps."""
    with board(tmp_path, "--reload_interval=1") as running, alone(browser, running) as tab:
        tab.wait("document.querySelector('.empty:not([hidden])')")
        assert "No run recorded by gradwatch yet" in tab.text(".empty")
        writer = TensorBoardWriter(tmp_path / "late")
        steps(writer, 0, 30)
        tab.wait("window.gradwatchFirstPicture > 0")
        assert not tab.frame.locator(".empty").is_visible()
        writer.close()


def test_the_tab_works_under_a_path_prefix(browser, runs):
    """Every file, route and figure is found, whatever stands before it."""
    with board(runs.logdir, "--path_prefix=/some/where") as running:
        running.wait_for({"spikes": 1999})
        assert running.url.endswith("/some/where/")
        with opened(browser, running, "spikes") as tab:
            tab.figures()
            assert tab.frame.locator("#line .main-svg").count() > 0
            assert tab.text(".verdict h2").startswith("Exploding at step 700")


def test_the_python_loader_shows_the_same(browser, slow_board):
    """With --load_fast=false list and verdict are those of the default loader."""
    with opened(browser, slow_board, "spikes") as tab:
        assert tab.text(".verdict h2").startswith("Exploding at step 700")
        assert tab.frame.locator(".incident").count() == 2


def test_a_server_that_goes_away_is_one_quiet_line(browser, runs):
    """What was drawn stays, one line says what is wrong, and it goes when the server is back."""
    with board(runs.logdir) as running:
        running.wait_for({"spikes": 1999})
        with opened(browser, running, "spikes") as tab:
            tab.figures()
            tab.page.route("**/plugin/gradwatch/**", lambda route: route.abort())
            tab.wait("document.querySelector('.trouble').textContent.includes('TensorBoard does not answer')")
            assert tab.text(".verdict h2").startswith("Exploding at step 700")
            tab.page.unroute("**/plugin/gradwatch/**")
            tab.wait("document.querySelector('.trouble').textContent === ''")
            tab.trouble.clear()  # the browser itself reports each request that failed


def test_what_the_server_refuses_is_told_in_its_words(browser, fast_board):
    """An answer with an error becomes text in the figure that asked for it."""
    with opened(browser, fast_board, "spikes", incident="", step=5, layer="no.such.layer") as tab:
        tab.figures()
        assert "no.such.layer" in tab.text("#line .plot-empty")
        assert tab.frame.locator("#profile .main-svg").count() > 0
        assert all("400" in message for message in tab.trouble)
        tab.trouble.clear()


def test_every_module_is_named_for_loading_ahead():
    """The entry names all modules: one that it does not know would cost a round trip more."""
    listed = re.search(r"const MODULES = \[(.*?)\]", (STATIC / "index.js").read_text(), re.DOTALL)
    assert listed
    assert sorted(re.findall(r'"(\w+)"', listed[1])) == sorted(
        path.stem for path in STATIC.glob("*.js") if path.stem != "index"
    )


def test_no_file_of_the_page_writes_markup_or_knows_another_host():
    """Names become text only, nothing is evaluated, nothing is fetched from elsewhere."""
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|https?://|@import|url\("
    )
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        assert not forbidden.findall(path.read_text()), path.name
