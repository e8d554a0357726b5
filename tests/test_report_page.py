"""The report as a page, opened from a file in a real browser without a network."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import recordings

from gradwatch._cli import main
from gradwatch._report import embedded

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Reports of a sick, a healthy, a recurrent and a hostile run."""
    place = tmp_path_factory.mktemp("pages")
    recordings.vanishing(place / "sick")
    recordings.record(place / "healthy", recordings.mlp(), 30)
    recordings.recurrent(place / "recurrent")
    recordings.hostile(place / "hostile")
    for name in ("sick", "healthy", "recurrent", "hostile"):
        assert main(["report", str(place / name), "-o", str(place / "out" / f"{name}.html")]) == 0
    return place / "out"


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{CHROMIUM} is not installed, and CI must not skip this")
        pytest.skip(f"{CHROMIUM} is not installed")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser):
    """Open a page offline; what went wrong in it is collected in ``page.trouble``, and must be nothing at the end."""
    contexts = []

    def open_page(file, **options):
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.trouble = []

        def dialog(shown):
            page.trouble.append(f"dialog {shown.message}")
            shown.dismiss()

        page.on("dialog", dialog)
        page.on("pageerror", lambda error: page.trouble.append(str(error)))
        page.on("console", lambda message: page.trouble.append(message.text))
        page.on(
            "request",
            lambda request: request.url.startswith(("file:", "data:", "blob:")) or page.trouble.append(request.url),
        )
        page.goto(f"file://{file}")
        page.wait_for_selector("html[data-drawn=yes]")
        _until(page, "[...document.querySelectorAll('.figure')].every(n => n.querySelector('.main-svg'))")
        return page

    yield open_page
    trouble = [page.trouble for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert not any(trouble), trouble


def _until(page, condition):
    """Wait for a condition without the page's help: its policy allows it no eval."""
    for _ in range(100):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def test_a_sick_run_says_what_is_wrong_at_first_sight(pages, opened):
    """Without scrolling: what happened, where, why, what to do; below it all figures, drawn."""
    page = opened(pages / "sick.html", viewport={"width": 1280, "height": 900})
    header = page.locator("header")
    assert header.bounding_box()["y"] + header.bounding_box()["height"] < 900
    words = header.inner_text()
    assert "Vanishing at step 2 in 0 … " in words
    assert "Try first nn.ReLU or nn.GELU in place of nn.Sigmoid" in words
    assert page.locator(".figure").count() == 3
    titles = page.locator(".figure .gtitle").all_text_contents()
    assert "step 2: the gradient shrinks ×0.15 per layer on its way back (vanishing)" in titles  # noqa: RUF001
    assert page.locator("article pre").first.inner_text().startswith("for name, m in list(model.named_modules()):")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_healthy_run_says_so(pages, opened):
    """One green line, and the figures."""
    page = opened(pages / "healthy.html")
    assert "Nothing found in 30 steps" in page.locator("header.good h1").inner_text()
    assert page.locator("article").count() == 0
    assert page.locator(".figure").count() == 2


def test_a_recurrent_run_shows_its_time(pages, opened):
    """The gradient through time is there where it was recorded."""
    page = opened(pages / "recurrent.html")
    assert "of the gradient arrives 29 time steps back" in page.locator(".figure").last.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_readers_theme(pages, opened, scheme):
    """Page and figures are light or dark as the reader's system is, and change with it."""
    page = opened(pages / "sick.html", color_scheme=scheme)

    def darkness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        paper = page.evaluate("document.querySelector('.figure').layout.paper_bgcolor")
        return [sum(map(int, re.findall(r"\d+", colour)[:3])) < 200, paper == "#1a1e25"]

    assert darkness() == [scheme == "dark"] * 2
    other = "light" if scheme == "dark" else "dark"
    page.emulate_media(color_scheme=other)
    paper = "#1a1e25" if other == "dark" else "#ffffff"
    _until(page, f"document.querySelector('.figure').layout.paper_bgcolor === '{paper}'")
    assert darkness() == [other == "dark"] * 2


def test_a_remedy_can_be_copied(pages, opened):
    """The button selects and copies the code beside it, also in a page opened from a file."""
    page = opened(pages / "sick.html")
    button = page.locator("article button").first
    button.click()
    assert button.inner_text() in ("copied", "select and copy")
    assert page.evaluate("getSelection().toString()").startswith("for name, m in list(model.named_modules()):")


def test_hostile_names_do_nothing(pages, opened):
    """No name, message or remedy runs, asks for anything, or adds an element; each is shown as it is."""
    page = opened(pages / "hostile.html")
    assert page.locator("img, iframe, object, embed, a:not([href^='#incident-'])").count() == 0
    assert page.locator("script").count() == 3
    assert "<img src=x onerror=alert(1)>" in page.locator("h1").inner_text()
    page.locator(".timeline a").last.click()
    assert page.url.endswith("#incident-1")
    page.locator(".figure").first.hover()
    page.mouse.wheel(0, 400)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.wait_for_timeout(300)


def test_scripts_that_are_not_ours_may_not_run(pages, opened, tmp_path):
    """Even where a name came through unescaped, the page's policy would not let it run."""
    whole = (pages / "sick.html").read_text()
    file = tmp_path / "injected.html"
    attack = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    file.write_text(whole.replace("</h1>", f"{attack}</h1>", 1))
    page = opened(file)
    assert "owned" not in page.title()
    assert any("Content Security Policy" in text for text in page.trouble)
    page.trouble.clear()


def test_the_page_is_one_file_of_sensible_size(pages):
    """Nothing outside is referred to, and all but plotly.js is under 300 kB."""
    plotly = len(embedded.plotly())
    for file in pages.glob("*.html"):
        whole = file.read_text()
        own = whole.replace(embedded.plotly(), "")
        assert len(own) < 300_000
        assert len(whole) < plotly + 300_000
        assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", own)
        assert not re.search(r"url\(|@import", own)


def test_a_large_run_makes_no_large_page(tmp_path):
    """400 layers x 3,000 steps: the figures are pooled, the page stays under 3 MB besides plotly.js."""
    import numpy as np

    from gradwatch._report.page import page
    from gradwatch._report.story import story
    from gradwatch.recording import MemoryRecording
    from gradwatch.records import Layer, StepRecord

    layers = tuple(Layer(f"l{index}.weight", f"l{index}", "Linear", (2, 2)) for index in range(400))
    generator = np.random.default_rng(0)
    zeros = np.zeros(400, np.int64)
    records = [
        StepRecord(step, 0, layers, 10 ** generator.normal(0, 1, 400), zeros, 1.0, 1.0, loss=1.0)
        for step in range(3000)
    ]
    recording = MemoryRecording(records)
    assert len(page(recording, story(recording, "large"))) < len(embedded.plotly()) + 3_000_000


def test_a_page_that_cannot_be_written_says_so(pages, tmp_path, capsys):
    """A directory in the way: exit code 1 and the reason, no traceback."""
    run = pages.parent / "healthy"
    assert main(["report", str(run), "-o", str(tmp_path)]) == 1
    assert "cannot be written: Is a directory" in capsys.readouterr().err
    assert main(["report", str(run), "-o", str(tmp_path / "deep" / "er" / "report.html")]) == 0
    assert "the report is in" in capsys.readouterr().out


def test_a_page_never_takes_the_place_of_the_run(pages, tmp_path, capsys):
    """Neither of a file of JSON lines nor of an event file, by whatever path; an earlier page may be replaced."""
    run = tmp_path / "run"
    shutil.copytree(pages.parent / "healthy", run)
    events = next(run.glob("*tfevents*"))
    lines = tmp_path / "run.jsonl"
    lines.write_bytes((pages.parent / "healthy.jsonl").read_bytes())
    (tmp_path / "link").symlink_to(lines)
    for recorded, output in ((run, events), (events, events), (lines, lines), (lines, tmp_path / "link")):
        before = output.read_bytes()
        assert main(["report", str(recorded), "-o", str(output)]) == 1
        assert "is part of the recorded run" in capsys.readouterr().err
        assert output.read_bytes() == before
    for _ in range(2):
        assert main(["report", str(run), "-o", str(run / "report.html")]) == 0
