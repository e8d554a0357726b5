"""The heat map under mouse and keyboard, deep links, dark mode and comparison, in a real browser."""

from __future__ import annotations

import re
import urllib.parse

import pytest
from browser import WHITE, chromium, link, opened

LAYER = "block10.bias"
PLACE = {"layer": LAYER, "step": 700, "incident": ""}


@pytest.fixture(scope="module")
def browser():
    """One for all."""
    with chromium() as running:
        yield running


def cells(tab):
    """Left, top, right, bottom of the cells, from where the base canvas is drawn opaque."""
    return tab.frame.evaluate(
        """() => {
          const canvas = document.querySelector(".map-host .cells");
          const {data, width, height} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const opaque = (x, y) => data[4 * (y * width + x) + 3] === 255;
          const full = [];
          for (let y = 0; y < height; y++) {
            let number = 0;
            for (let x = 0; x < width; x++) number += opaque(x, y);
            if (number > width / 2) full.push(y);
          }
          const row = Math.floor((full[0] + full[full.length - 1]) / 2);
          let [left, longest, best] = [0, 0, [0, 0]];
          for (let x = 0; x <= width; x++) {
            if (x < width && opaque(x, row)) continue;
            if (x - left > longest) [longest, best] = [x - left, [left, x]];
            left = x + 1;
          }
          return [best[0], full[0], best[1], full[full.length - 1]];
        }"""
    )


def place(tab, step, row, *, first=0, last=1999, row_first=0, row_last=39):
    """Where a step of a row is on the map."""
    left, top, right, bottom = cells(tab)
    across = (step + 0.5 - first) / (last + 1 - first)
    down = (row + 0.5 - row_first) / (row_last + 1 - row_first)
    return left + across * (right - left), top + down * (bottom - top)


def test_hover_tells_layer_step_and_exact_value(browser, fast_board, runs):
    """In a zoomed map the value below the mouse is the recorded float, not the colour's."""
    zoom = {"first": 680, "last": 719, "row_first": 15, "row_last": 29}
    with opened(browser, fast_board, "spikes", **PLACE, **zoom) as tab:
        tab.wait("performance.getEntriesByType('resource').some(e => e.name.includes('row_first=15'))")
        tab.page.mouse.move(*tab.mouse(*place(tab, 690, 20, **zoom)))
        exact = runs.norms["spikes"][690, 20]
        tab.wait("!document.querySelector('.tooltip').hidden")
        # the colour's value at first, until the server has answered
        tab.wait("!document.querySelector('.tooltip-value').textContent.startsWith('about')")
        assert tab.text(".tooltip-name") == "block10.weight"
        assert tab.text(".tooltip-step") == "step 690"
        assert float(tab.text(".tooltip-value")) == pytest.approx(exact, rel=6e-3)


def test_pooled_cells_say_so(browser, fast_board):
    """Where a cell holds several steps, the note says how many and the highest of them."""
    with opened(browser, fast_board, "spikes", **PLACE) as tab:
        tab.page.mouse.move(*tab.mouse(*place(tab, 1200, 3)))
        tab.wait("!document.querySelector('.tooltip').hidden")
        assert re.match(r"highest of these 2 steps: about [\d.e-]+", tab.text(".tooltip-note"))


def test_a_press_on_a_cell_selects_layer_and_step(browser, fast_board):
    """Both inputs and the address follow the cell that was pressed."""
    with opened(browser, fast_board, "spikes", **PLACE) as tab:
        tab.click(*place(tab, 400, 30))
        assert tab.value("#layer") == "block15.weight"
        assert abs(int(tab.value("#step")) - 400) <= 2
        assert tab.link({"layer": "block15.weight"})["layer"] == "block15.weight"


def test_dragging_zooms_and_the_server_refines(browser, fast_board):
    """A box becomes the view, finer cells are asked for, Shift-drag moves it, a double click shows everything again."""
    with opened(browser, fast_board, "spikes", **PLACE) as tab:
        start = tab.link()
        drag(tab, place(tab, 600, 10), place(tab, 800, 25))
        known = tab.link(unlike=start)
        assert (abs(int(known["first"]) - 600) <= 3, abs(int(known["last"]) - 800) <= 3) == (True, True)
        assert (known["row_first"], known["row_last"]) == ("10", "25")
        assert any(f"first={known['first']}" in path for path in tab.asked if path.startswith("heatmap"))
        tab.page.keyboard.down("Shift")
        drag(tab, (500, 150), (400, 150))
        tab.page.keyboard.up("Shift")
        moved = tab.link(unlike=known)
        assert int(moved["first"]) > int(known["first"])
        assert int(moved["last"]) - int(moved["first"]) == pytest.approx(
            int(known["last"]) - int(known["first"]), abs=1
        )
        tab.page.mouse.dblclick(*tab.mouse(*place(tab, 600, 20)))
        assert "first" not in tab.link(unlike=moved)


def test_the_wheel_zooms_only_a_map_that_was_clicked(browser, fast_board):
    """Passing over it scrolls the page; after a click the wheel zooms the steps, with Shift the rows."""
    with opened(browser, fast_board, "spikes", height=600, **PLACE) as tab:
        at = tab.mouse(*place(tab, 700, 20))
        tab.page.mouse.move(*at)
        before = tab.frame.evaluate("scrollY")
        tab.page.mouse.wheel(0, 120)
        tab.page.wait_for_timeout(500)
        assert tab.frame.evaluate("scrollY") != before
        start = tab.link()
        assert "first" not in start
        tab.click(*place(tab, 700, 20))
        clicked = tab.link(unlike=start)
        tab.page.mouse.wheel(0, -400)
        steps = tab.link(unlike=clicked)
        assert int(steps["first"]) <= 700 <= int(steps["last"]) < 1999
        assert (steps["row_first"], steps["row_last"]) == ("0", "39")
        tab.page.keyboard.down("Shift")
        tab.page.mouse.wheel(0, -400)
        tab.page.keyboard.up("Shift")
        rows = tab.link(unlike=steps)
        assert int(rows["row_last"]) - int(rows["row_first"]) < 39


def test_everything_is_reached_by_keyboard(browser, fast_board):
    """Tab comes to the incidents and the map; arrows move a cursor that speaks, Enter selects, + zooms."""
    with opened(browser, fast_board, "spikes", incident="GW101@700", step=700, layer=LAYER) as tab:
        reached = []
        tab.frame.locator("#run").focus()
        for _ in range(40):
            tab.page.keyboard.press("Tab")
            reached.append(tab.frame.evaluate("document.activeElement.className || document.activeElement.id"))
            if reached[-1] == "map":
                break
        assert "incident error" in reached
        assert "copy" in reached
        assert reached[-1] == "map"
        assert tab.frame.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
            tab.page.keyboard.press(key)
        tab.wait("document.querySelector('.map-host [aria-live]').textContent.startsWith('block11.bias, step 700')")
        tab.page.keyboard.press("Enter")
        assert tab.value("#layer") == "block11.bias"
        chosen = tab.link({"layer": "block11.bias"})
        tab.page.keyboard.press("+")
        tab.page.keyboard.press("+")
        zoomed = tab.link(unlike=chosen)
        assert int(zoomed["last"]) - int(zoomed["first"]) == pytest.approx(500, abs=3)
        assert int(zoomed["first"]) <= 700 <= int(zoomed["last"])
        tab.page.keyboard.press("Escape")
        assert "first" not in tab.link(unlike=zoomed)
        assert tab.link({"layer": "block11.bias"})["layer"] == "block11.bias"


def test_incidents_open_by_keyboard(browser, fast_board):
    """Enter on an entry unfolds it, and the focus stays where it was."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.frame.locator(".incident", has_text="step 1,500").focus()
        tab.page.keyboard.press("Enter")
        assert "step 1,500" in tab.text(".incident[aria-expanded=true]")
        assert "step 1,500" in tab.frame.evaluate("document.activeElement.textContent")


def test_a_deep_link_restores_what_was_seen(browser, fast_board):
    """Run, layer, step, statistic, rows, scale and zoom come back from the address of another page."""
    state = {
        "incident": "GW101@1500",
        "step": 1490,
        "layer": "block2",
        "statistic": "update_ratio",
        "rows": "modules",
        "relative": 1,
        "first": 1000,
        "last": 1600,
        "row_first": 1,
        "row_last": 9,
    }
    with opened(browser, fast_board, "spikes", **state) as tab:
        assert tab.value("#run") == "spikes"
        assert (tab.value("#layer"), tab.value("#step"), tab.value("#statistic")) == ("block2", "1490", "update_ratio")
        assert tab.frame.locator("#rows-modules").is_checked()
        assert tab.frame.locator("#colour-relative").is_checked()
        assert "step 1,500" in tab.text(".incident[aria-expanded=true]")
        tab.wait("performance.getEntriesByType('resource').some(e => e.name.includes('row_first=1&row_last=9'))")
        tab.frame.locator("#step").fill("1480")
        known = {**{key: str(value) for key, value in state.items()}, "run": "spikes", "step": "1480"}
        assert tab.link({"step": "1480"}) == known


def test_another_address_in_the_same_window_is_followed(browser, fast_board):
    """Somebody pastes a colleague's link into the open TensorBoard."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.page.evaluate(f"location.hash = '#{link('sick', step=7, layer='2.weight')}'")
        tab.wait("document.querySelector('#run').value === 'sick'")
        assert (tab.value("#step"), tab.value("#layer")) == ("7", "2.weight")


def test_an_address_that_makes_no_sense_does_no_harm(browser, fast_board):
    """Unknown run, statistic and optimizer, a negative step, foreign keys: the page opens and says what is missing."""
    nonsense = {"step": -3, "first": "x", "rows": "<b>", "layer": "gone", "statistic": "fame", "optimizer": 77}
    with opened(browser, fast_board, "no-such-run", **nonsense, __proto__=1) as tab:
        assert "there is no run “no-such-run” here" in tab.text(".trouble")
        assert tab.frame.locator(".verdict h2").is_visible()
        assert tab.value("#statistic") == "grad_norm"
    with opened(browser, fast_board, "spikes", **nonsense, incident="") as tab:
        assert tab.value("#statistic") == "grad_norm"
        tab.figures()
        assert "gone" in tab.text("#line .plot-empty")
        assert all("layer=gone" in message for message in tab.trouble), "the one request that had to be refused"
        tab.trouble.clear()
    with opened(browser, fast_board, "spikes", first=900, last=100, row_first=9, row_last=1) as tab:  # wrong way round
        tab.figures()
        assert not {"first", "last", "row_first", "row_last"} & set(tab.link({"run": "spikes"}))


def test_dark_mode_follows_tensorboard(browser, fast_board):
    """A press on TensorBoard's own switch turns page and figures dark without a reload, and light again."""
    with opened(browser, fast_board, "sick") as tab:
        tab.figures()
        light = tab.frame.evaluate("getComputedStyle(document.body).backgroundColor")
        tab.frame.evaluate("window.stayed = true")
        tab.page.evaluate("document.body.classList.add('dark-mode')")
        tab.wait("document.documentElement.dataset.theme === 'dark'")
        tab.figures()
        assert tab.frame.evaluate("getComputedStyle(document.body).backgroundColor") != light
        assert any("theme=dark" in path for path in tab.asked if path.startswith("line"))
        tab.page.evaluate("document.body.classList.remove('dark-mode')")
        tab.wait("document.documentElement.dataset.theme === 'light' && window.stayed")


def test_two_runs_are_compared(browser, fast_board):
    """A second map with the same steps appears, the figures are asked for both runs, the address keeps it."""
    with opened(browser, fast_board, "spikes", **PLACE) as tab:
        tab.frame.locator("#compare").select_option("sick")
        tab.wait("document.querySelector('.compared .map').clientHeight > 100")
        tab.figures()
        assert "compared with sick" in tab.text(".compared")
        assert tab.link({"compare": "sick"})["compare"] == "sick"
        assert any("compare=sick" in path for path in tab.asked if path.startswith(("profile", "line")))
        tab.frame.locator("#compare").select_option("")
        assert not tab.frame.locator(".compared").is_visible()


def test_statistic_rows_and_scale_are_asked_of_the_server(browser, fast_board):
    """Each control changes the cells, not only the page."""
    with opened(browser, fast_board, "spikes", **PLACE) as tab:
        tab.frame.locator("#statistic").select_option("update_ratio")
        tab.frame.locator("label[for=rows-modules]").click()
        tab.frame.locator("label[for=colour-relative]").click()
        wanted = {"statistic": "update_ratio", "rows": "modules", "relative": "1"}
        tab.wait("performance.getEntriesByType('resource').some(e => e.name.includes('relative=1'))")
        last = dict(
            urllib.parse.parse_qsl([path for path in tab.asked if path.startswith("heatmap")][-1].partition("?")[2])
        )
        assert wanted.items() <= last.items()


def test_a_layer_is_found_by_a_part_of_its_name(browser, fast_board):
    """Typing and Enter in the search field select the layer."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.figures()
        tab.frame.locator("#layer").fill("block17")
        tab.page.keyboard.press("Enter")
        assert tab.link({"layer": "block17.weight"})["layer"] == "block17.weight"


def test_no_scrolling_sideways_at_any_width(browser, fast_board):
    """Readable at 1280 and 2560, and usable at 700 pixels."""
    for width in (700, 1280, 2560):
        with opened(browser, fast_board, "sick", width=width) as tab:
            tab.figures()
            assert tab.frame.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert tab.pixels(WHITE), "the selection is drawn"


def drag(tab, start, end):
    """With the left button."""
    tab.page.mouse.move(*tab.mouse(*start))
    tab.page.mouse.down()
    tab.page.mouse.move(*tab.mouse((start[0] + end[0]) / 2, (start[1] + end[1]) / 2))
    tab.page.mouse.move(*tab.mouse(*end))
    tab.page.mouse.up()
