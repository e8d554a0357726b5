"""What a first look says, and what a press on an incident does, in a real TensorBoard and a real browser."""

from __future__ import annotations

from collections import Counter

import planted
import pytest
from browser import RED, WHITE, chromium, middle, opened

BLOCK_10_BIAS, BLOCK_2_WEIGHT = "block10.bias", "block2.weight"  # the spikes at steps 700 and 1,500


@pytest.fixture(scope="module")
def browser():
    """One for all."""
    with chromium() as running:
        yield running


def test_a_first_look_says_what_is_wrong(browser, fast_board):
    """Without a press the page names the worst incident, unfolds why and what to do, and goes to step and layer."""
    with opened(browser, fast_board, "sick") as tab:
        assert tab.text(".verdict h2").startswith("Vanishing at step 2 in ")
        assert "learning signal fades" in tab.text(".details .message")
        assert "saturating activations" in tab.text(".details .why")
        assert "nn.ReLU" in tab.text(".details .what pre")
        assert tab.value("#step") == "2"
        assert tab.pixels(RED), "the incident is ringed in the colour of its severity"


def test_the_sickest_run_comes_first(browser, fast_board):
    """An address without a run shows one whose worst incident is an error."""
    with opened(browser, fast_board, None) as tab:
        tab.wait("document.querySelector('.verdict.error')")
        run = tab.value("#run")
        assert tab.link({"run": run})["run"] == run


def test_a_healthy_run_says_so_in_one_line(browser, fast_board, runs):
    """No list, no details: one line, with what was watched."""
    healthy = next(run for run in ("two", "recurrent") if runs.incidents[run] == 0)
    with opened(browser, fast_board, healthy) as tab:
        assert tab.text(".verdict").split("\n")[1].startswith("Healthy")
        assert f"{runs.last[healthy] + 1} steps watched, nothing found" in tab.text(".verdict")
        assert not tab.frame.locator(".incidents").is_visible()


def test_both_spikes_are_listed_and_ringed(browser, fast_board):
    """Two one-step spikes among 40 layers and 2,000 steps: two entries, two rings, at different places."""
    with opened(browser, fast_board, "spikes") as tab:
        entries = tab.frame.locator(".incident").all_inner_texts()
        assert [("step 700" in text, "step 1,500" in text) for text in entries] == [(False, True), (True, False)]
        chosen, other = middle(tab.pixels(RED)), middle(around(tab, WHITE, 1500))
        assert chosen[0] < other[0]
        assert chosen[1] > other[1], "block10 lies deeper than block2"


def test_a_press_lands_on_step_and_layer_and_shows_the_remedy(browser, fast_board):
    """List entry, address, both inputs and the layer's figure agree; cause and remedy are unfolded."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.frame.locator(".incident", has_text="step 1,500").click()
        assert (tab.value("#layer"), tab.value("#step")) == (BLOCK_2_WEIGHT, "1500")
        known = tab.link({"step": "1500"})
        assert (known["layer"], known["step"], known["incident"]) == (BLOCK_2_WEIGHT, "1500", "GW101@1500")
        assert "no clipping rule is set" in tab.text(".details .why")
        assert "clip the norm: one batch then cannot undo the training" in tab.text(".details .what")
        assert "clip=gradwatch.ClipNorm(1.0)" in tab.text(".details pre")
        tab.figures()
        assert BLOCK_2_WEIGHT in tab.text("#line h3")
        assert "step 1,500" in tab.text("#profile h3")


def test_a_second_press_folds_the_incident(browser, fast_board):
    """The details go, the list stays, and the address says that nothing is unfolded."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.frame.locator(".incident[aria-expanded=true]").click()
        assert not tab.frame.locator(".details").is_visible()
        assert tab.frame.locator(".incident").count() == 2
        assert tab.link({"incident": ""})["incident"] == ""


def test_a_ring_on_the_map_opens_its_incident(browser, fast_board):
    """A press on the ring of the spike that is not chosen chooses it."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.click(*middle(around(tab, WHITE, 1500)))
        assert "step 1,500" in tab.text(".incident[aria-expanded=true]")
        assert tab.value("#layer") == BLOCK_2_WEIGHT


def test_code_is_copied_from_inside_the_frame(browser, fast_board):
    """The Copy button puts the snippet on the clipboard, with and without the browser's clipboard API."""
    with opened(browser, fast_board, "spikes") as tab:
        tab.frame.locator(".copy").first.click()
        tab.wait("document.querySelector('.copy').textContent === 'Copied'")
        assert tab.page.evaluate("navigator.clipboard.readText()") == "clip=gradwatch.ClipNorm(1.0)"
        tab.page.evaluate("navigator.clipboard.writeText('something else')")
        tab.frame.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        tab.wait("document.querySelector('.copy').textContent === 'Copy'")
        tab.frame.locator(".copy").first.click()
        tab.wait("document.querySelector('.copy').textContent === 'Copied'")
        assert tab.page.evaluate("navigator.clipboard.readText()") == "clip=gradwatch.ClipNorm(1.0)"


def test_a_recurrent_run_shows_its_signal_through_time(browser, fast_board):
    """The third figure is there where it was recorded, and nowhere else."""
    with opened(browser, fast_board, "recurrent") as tab:
        tab.figures()
        assert tab.frame.locator("#through-time .main-svg").count() > 0
        tab.frame.locator("#run").select_option("spikes")
        tab.wait("document.querySelector('#through-time').hidden")


def test_killed_and_resumed_runs_show_every_incident(browser, fast_board, runs):
    """None is lost, also where several fell on one step, and each can be opened by itself."""
    for run in ("killed", "resumed"):
        with opened(browser, fast_board, run) as tab:
            entries = tab.frame.locator(".incident")
            assert entries.count() == runs.incidents[run]
            for index in range(entries.count()):
                if entries.nth(index).get_attribute("aria-expanded") == "false":
                    entries.nth(index).click()
                assert entries.nth(index).get_attribute("aria-expanded") == "true"
                assert tab.frame.locator(".incident[aria-expanded=true]").count() == 1
    assert runs.incidents["killed"] == 6


def test_steps_that_were_trained_again_are_marked(browser, fast_board):
    """An incident of a part of the run that a resume has replaced says so; the others do not."""
    with opened(browser, fast_board, "resumed") as tab:
        told = {}
        for step in (10, 40):
            entry = tab.frame.locator(".incident", has_text=f"step {step}")
            if entry.get_attribute("aria-expanded") == "false":
                entry.click()
            told[step] = "trained once more" in tab.text(".details")
        assert told == {10: False, 40: True}


def test_hostile_names_do_nothing(browser, fast_board):
    """Markup, quotes, line separators, 10,000 characters in run, layers and message: all are text, nothing runs."""
    with opened(browser, fast_board, planted.HOSTILE_RUN) as tab:
        assert planted.HOSTILE_RUN in tab.text(".selectors")
        assert "</script><script>alert(2)</script>" in tab.text(".details .message")
        for chip in tab.frame.locator(".chip").all():
            chip.click()
            tab.figures()
        tab.frame.locator("#modules, #rows-modules").first.check(force=True)
        tab.figures()
        assert tab.frame.locator("img, body script:not([src])").count() <= 1, "the one script is TensorBoard's own"
        assert tab.frame.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert not any(message.startswith("dialog") for message in tab.trouble)


def around(tab, colour, step):
    """Pixels of a ring near a step of the run with the two spikes, on the right or the left half of the map."""
    places = tab.pixels(colour)
    rows = Counter(y for _, y in places)
    left, right = min(x for x, _ in places), max(x for x, _ in places)
    half = (left + right) / 2
    return [(x, y) for x, y in places if (x > half) == (step > 1000) and rows[y] < 40]  # no line across the map
