"""The tab's server in a real TensorBoard, with both of its loaders, over runs that gradwatch itself wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from boards import PLUGIN, cell_of, cells
from planted import HOSTILE, HOSTILE_RUN, SPIKES

from gradwatch.tensorboard_plugin.heatmap import ABSENT, HIGHEST, NOT_FINITE, ZERO


def test_tab_is_there_and_active(any_board):
    """TensorBoard shows the tab by itself, next to Scalars, as it finds data of gradwatch."""
    _, body, _ = any_board.ask("data/plugins_listing")
    listed = json.loads(body)["gradwatch"]
    assert listed["enabled"]
    assert listed["loading_mechanism"]["type"] == "IFRAME"
    path = listed["loading_mechanism"]["module_path"]
    assert any_board.ask(path.lstrip("/"))[0] == 200


def test_every_run_is_listed(any_board, runs):
    """Each run with its last step, its state, its incidents and what was recorded."""
    found = {entry["run"]: entry for entry in any_board.get("runs")["runs"]}
    assert {run: entry["last_step"] for run, entry in found.items()} == runs.last
    assert {run: entry["incidents"] for run, entry in found.items()} == runs.incidents
    assert found["sick"]["state"] == "finished"
    assert found["killed"]["state"] in {"running", "unknown"}
    assert found["two"]["optimizers"] == [0, 1]
    assert found["recurrent"]["has_through_time"]
    assert not found["sick"]["has_through_time"]
    assert "num_nonfinite" in found["blown_up"]["statistics"]
    assert found["spikes"]["worst"] == "error"
    assert found["recurrent"]["worst"] is None or found["recurrent"]["incidents"]


def test_both_spikes_are_listed_ringed_and_in_the_picture(any_board, runs):
    """Two planted one-step spikes: both in the list with a remedy, both ringed at their layer and step, both seen."""
    listed = any_board.get("incidents", run="spikes")
    assert [(i["step"], i["layers"][0]) for i in listed["incidents"]] == [
        (700, "block10.bias"),
        (1500, "block2.weight"),
    ]
    assert listed["total"] == 2
    assert listed["skipped"] == []
    for incident in listed["incidents"]:
        assert incident["code"] in incident["headline"]
        assert incident["causes"][0]["remedies"][0]["snippet"] == "clip=gradwatch.ClipNorm(1.0)"
        assert "evidence" not in incident
    picture = any_board.get("heatmap", run="spikes")
    codes = cells(picture)
    assert codes.shape == (40, 1000)
    for number, (step, layer) in enumerate(SPIKES.items()):
        row, column = cell_of(picture, layer, step)
        assert {"row": row, "col": column, "incident": number} in picture["rings"]
        height = picture["low"] + (int(codes[row, column]) - 1) / 249 * (picture["high"] - picture["low"])
        assert height == pytest.approx(np.log10(runs.norms["spikes"][step, layer]), abs=0.02)
        others = np.delete(codes[row], column)
        assert codes[row, column] > others.max() + 50
    assert len(picture["rings"]) == 2


def test_every_cell_holds_its_highest_value(any_board, runs):
    """Decoded, each cell is the highest norm of its layers and steps, to half a colour."""
    picture = any_board.get("heatmap", run="spikes")
    highest = np.log10(runs.norms["spikes"].reshape(1000, 2, 40).max(axis=1).T)
    found = picture["low"] + (cells(picture).astype(float) - 1) / 249 * (picture["high"] - picture["low"])
    assert np.abs(found - highest).max() <= 0.51 * (picture["high"] - picture["low"]) / 249


def test_zoom_shows_single_steps_and_layers(any_board, runs):
    """Zoomed in, each column is one step and each row one layer, and the colours mean the same as before."""
    whole = any_board.get("heatmap", run="spikes")
    part = any_board.get("heatmap", run="spikes", first=690, last=709, row_first=20, row_last=23)
    assert part["step_first"] == list(range(690, 710))
    assert part["last_step"] == 709
    assert part["names"] == part["names_last"] == ["block10.weight", "block10.bias", "block11.weight", "block11.bias"]
    assert part["row_first"] == [20, 21, 22, 23]
    assert part["num_rows"] == 40
    assert part["rings"] == [{"row": 1, "col": 10, "incident": 0}]
    assert part["high"] == whole["high"]
    found = part["low"] + (cells(part).astype(float) - 1) / 249 * (part["high"] - part["low"])
    exact = np.log10(runs.norms["spikes"][690:710, 20:24].T)
    assert np.abs(found - exact).max() <= 0.51 * (part["high"] - part["low"]) / 249


def test_relative_is_to_the_layers_own_median(any_board, runs):
    """Relative values are over the layer's median, on a scale symmetric around it."""
    picture = any_board.get("heatmap", run="spikes", relative=1, first=700, last=700)
    assert picture["low"] == -picture["high"]
    usual = np.median(runs.norms["spikes"], axis=0)
    found = picture["low"] + (cells(picture)[:, 0].astype(float) - 1) / 249 * 2 * picture["high"]
    expected = np.log10(runs.norms["spikes"][700] / usual)
    assert np.abs(found - expected).max() < 0.03
    assert found.argmax() == 21


def test_module_rows_put_norms_together(any_board, runs):
    """A module's norm is that of its parameters together; incidents of a parameter are ringed in its module."""
    names = any_board.get("names", run="spikes", rows="modules")["names"]
    assert names == [f"block{index}" for index in range(20)]
    picture = any_board.get("heatmap", run="spikes", rows="modules")
    assert {(ring["row"], ring["incident"]) for ring in picture["rings"]} == {(10, 0), (2, 1)}
    value = any_board.get("value", run="spikes", rows="modules", row="block10", step=700)
    assert value["value"] == pytest.approx(np.linalg.norm(runs.norms["spikes"][700, 20:22]), rel=1e-5)


def test_values_are_exact(any_board, runs):
    """The value under the pointer is the recorded one, of the last step up to the one asked for."""
    for step, layer in ((0, 0), (700, 21), (1999, 39)):
        name = any_board.get("names", run="spikes")["names"][layer]
        found = any_board.get("value", run="spikes", row=name, step=step)
        assert found == {"step": step, "layer": name, "value": float(runs.norms["spikes"][step, layer])}
    sampled = any_board.get("value", run="spikes", statistic="update_ratio", row="block0.weight", step=1239)
    assert sampled["step"] == 1230
    assert sampled["value"] == pytest.approx(runs.norms["spikes"][1230, 0] / 100, rel=1e-6)
    beyond = any_board.get("value", run="spikes", row="block0.weight", step=10**17)
    assert beyond["step"] == 1999


def test_absent_zero_tiny_and_non_finite_differ(any_board):
    """No gradient, exactly zero, the smallest values, NaN and inf are told apart, in the picture and as values."""
    picture = any_board.get("heatmap", run=HOSTILE_RUN)
    codes = cells(picture)
    assert picture["names"] == list(HOSTILE)
    assert (codes[0] == ABSENT).all()
    assert (codes[1] == ZERO).all()
    assert ((codes[2] >= 1) & (codes[2] <= HIGHEST)).all()
    assert [codes[row].tolist().index(NOT_FINITE) for row in (4, 5)] == [5, 5]
    assert (codes == NOT_FINITE).sum() == 2

    def value(row, step=5):
        return any_board.get("value", run=HOSTILE_RUN, row=HOSTILE[row], step=step)["value"]

    assert [value(0), value(1), value(4), value(5), value(5, 4)] == [None, 0.0, "nan", "inf", 1.0]
    assert value(2) == pytest.approx(1e-40, rel=1e-3)


def test_non_finite_counts_have_a_zero_where_nothing_was_wrong(any_board):
    """The count of non-finite elements covers all steps: zero where all was finite, absent without a gradient."""
    picture = any_board.get("heatmap", run=HOSTILE_RUN, statistic="num_nonfinite")
    codes = cells(picture)
    assert picture["cols"] == 12
    assert (codes[0] == ABSENT).all()
    assert (np.delete(codes[4], 5) == ZERO).all()
    assert 1 <= codes[4, 5] <= HIGHEST
    assert codes[4, 5] > codes[5, 5]
    value = any_board.get("value", run=HOSTILE_RUN, statistic="num_nonfinite", row=HOSTILE[4], step=5)
    assert value["value"] == 3.0


def test_a_run_that_turned_to_nan_is_not_finite_to_its_end(any_board):
    """After real weights have become NaN, every cell to the right says not finite."""
    picture = any_board.get("heatmap", run="blown_up")
    assert (cells(picture)[:, -1] == NOT_FINITE).all()
    assert any_board.get("incidents", run="blown_up")["total"] >= 1


def test_killed_run_shows_every_incident(any_board):
    """SIGKILL loses no incident: also not two of one step, or one that began before the last."""
    found = any_board.get("incidents", run="killed")["incidents"]
    told = sorted((incident["step"], incident["layers"][0]) for incident in found)
    assert told == sorted(
        (step - 2 * (index == 3), f"block{index // 2}.{'bias' if index % 2 else 'weight'}")
        for step in (5, 25)
        for index in (0, 1, 3)
    )


def test_resumed_run_shows_every_incident_and_the_later_steps(any_board):
    """A resumed run: every incident of both sessions, those trained again marked; repeated steps are the later ones."""
    found = any_board.get("incidents", run="resumed")
    assert [(incident["step"], incident["superseded"]) for incident in found["incidents"]] == [
        (10, False),
        (35, False),
        (40, True),
        (60, False),
    ]
    values = [
        any_board.get("value", run="resumed", row="block0.weight", step=step)["value"] for step in (29, 30, 49, 69)
    ]
    assert values == [1.0, 2.0, 2.0, 2.0]
    picture = any_board.get("heatmap", run="resumed")
    assert picture["step_first"] == list(range(70))
    assert len(set(cells(picture)[0, :30])) == len(set(cells(picture)[0, 30:])) == 1


def test_two_optimizers_have_a_picture_each(any_board):
    """Each optimizer has its own layers; there is no third."""
    first, second = (any_board.get("names", run="two", optimizer=index)["names"] for index in (0, 1))
    assert set(first) & set(second) == set()
    assert second == ["head.weight", "head.bias"]
    assert any_board.get("heatmap", run="two", optimizer=1)["step_first"] == list(range(1, 20, 2))
    assert "no optimizer '2'" in any_board.refused("heatmap", run="two", optimizer=2)


def test_statistics_that_were_not_recorded_are_an_empty_picture(any_board):
    """A statistic without a value is no error: rows without a column."""
    picture = any_board.get("heatmap", run="killed", statistic="grad_max")
    assert (picture["rows"], picture["cols"], picture["cells"]) == (4, 0, "")


def test_figures_are_drawn_by_the_server(any_board):
    """Depth profile, layer line and the signal through time come as plotly figures, also compared with another run."""
    for theme in ("light", "dark"):
        profile = any_board.get("profile", run="sick", step=20, theme=theme, compare="blown_up")
        assert profile["data"]
        assert "vanishing" in json.dumps(profile)
    assert any_board.get("line", run="spikes", layer="block10.bias", first=600, last=800)["data"]
    assert any_board.get("line", run="spikes", layer="block10", compare="sick")["data"]
    assert any_board.get("through_time", run="recurrent")["data"]
    assert "empty" in any_board.get("through_time", run="sick")


def test_names_do_nothing_in_figures(any_board):
    """A hostile name is plain text in a figure, which plotly would otherwise render as HTML."""
    for layer in HOSTILE[:8]:
        figure = json.dumps(any_board.get("line", run=HOSTILE_RUN, layer=layer))
        assert "<img" not in figure
        assert "<script" not in figure


def test_wrong_arguments_are_refused_in_words(any_board):
    """Unknown runs, unknown and repeated arguments, and every malformed value: 400, and a sentence that says which."""
    for route, arguments, words in (
        ("heatmap", {}, "run is missing"),
        ("heatmap", {"run": "../../etc/passwd"}, "no run '../../etc/passwd'"),
        ("heatmap", {"run": str(Path("/etc/passwd"))}, "no run"),
        ("heatmap", {"run": "sick", "Statistic": "x"}, "unknown argument 'Statistic'"),
        ("heatmap", {"run": "sick", "statistic": "loss"}, "none of grad_norm"),
        ("heatmap", {"run": "sick", "rows": "layers"}, "none of parameters, modules"),
        ("heatmap", {"run": "sick", "relative": "yes"}, "none of 0, 1"),
        ("heatmap", {"run": "sick", "first": "-1"}, "first='-1' is not a whole number"),
        ("heatmap", {"run": "sick", "last": "1e3"}, "not a whole number"),
        ("heatmap", {"run": "sick", "first": 9, "last": 3}, "greater than"),
        ("heatmap", {"run": "sick", "first": "9" * 40}, "not a whole number"),
        ("heatmap", {"run": "sick", "first": "\u0663"}, "not a whole number"),
        ("value", {"run": "sick", "row": "0.weight"}, "step is missing"),
        ("value", {"run": "sick", "row": "nowhere", "step": 1}, "no row 'nowhere'"),
        ("line", {"run": "sick"}, "layer is missing"),
        ("line", {"run": "sick", "layer": "x" * 10_000}, "no layer"),
        ("profile", {"run": "sick", "theme": "<b>"}, "none of light, dark"),
        ("profile", {"run": "sick", "compare": "nope"}, "no run 'nope'"),
        ("runs", {"x": 1}, "unknown argument 'x'; there are: none"),
    ):
        text = any_board.refused(route, **arguments)
        assert words in text
        assert len(text) < 1000
    status, body, _ = any_board.ask(f"{PLUGIN}/incidents?run=sick&run=spikes")
    assert (status, json.loads(body)["error"]) == (400, "run is given twice")


def test_only_get_is_allowed(any_board):
    """Whatever would write is refused with 405 and says what is allowed."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("runs", "heatmap?run=sick", "index.js", "plotly.min.js"):
            status, body, headers = any_board.ask(f"{PLUGIN}/{path}", method)
            assert status == 405
            assert headers["Allow"] == "GET, HEAD"
            assert "GET" in json.loads(body)["error"]
    assert any_board.ask(f"{PLUGIN}/runs", "HEAD")[:2] == (200, b"")


def test_no_path_leads_out_of_the_static_folder(any_board):
    """Only the page's own files are served, whatever the path says."""
    for path in (
        "../plugin.py",
        "%2e%2e/plugin.py",
        "..%2f..%2frecords.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "",
        ".",
        "nul%00.js",
        "style.css/..",
    ):
        status, body, _ = any_board.ask(f"{PLUGIN}/static/{path}")
        assert status == 404, path
        assert b"import" not in body


def test_files_are_served_as_what_they_are(any_board):
    """Scripts and styles have their own types, are packed where that is wanted, and are asked for once."""
    for path, mime in (
        ("index.js", "text/javascript"),
        ("static/style.css", "text/css"),
        ("plotly.min.js", "text/javascript"),
    ):
        status, body, headers = any_board.ask(f"{PLUGIN}/{path}", headers={"Accept-Encoding": "gzip"})
        assert status == 200
        assert headers["Content-Type"].startswith(mime)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Encoding"] == "gzip"
        assert len(body) == int(headers["Content-Length"])
        assert headers["Cache-Control"] == "private, no-cache"
        again = any_board.ask(f"{PLUGIN}/{path}", headers={"If-None-Match": headers["ETag"]})
        assert again[:2] == (304, b"")
    assert b"plotly.js v" in any_board.ask(f"{PLUGIN}/plotly.min.js")[1][:2000]


def test_files_of_a_version_are_kept_by_the_browser(any_board):
    """The entry names the other files with their version: these the browser keeps, of another version it does not."""
    entry = any_board.ask(f"{PLUGIN}/index.js")[1].decode()
    versions = set(re.findall(r"\./static/([0-9a-f]{16})/", entry))
    assert len(versions) == 1
    assert len(re.findall(r"\./static/", entry)) == len(re.findall(r"\./static/[0-9a-f]{16}/", entry))
    plain = any_board.ask(f"{PLUGIN}/static/page.js")
    for version, kept in ((versions.pop(), True), ("0123456789abcdef", False)):
        status, body, headers = any_board.ask(f"{PLUGIN}/static/{version}/page.js")
        assert (status, body) == (200, plain[1])
        assert ("immutable" in headers["Cache-Control"]) == kept
        assert any_board.ask(f"{PLUGIN}/static/{version}/../plugin.py")[0] == 404


def test_answers_are_packed_where_it_pays(any_board):
    """A picture is sent packed to a browser that unpacks, and plainly to others: the same answer."""
    path = f"{PLUGIN}/heatmap?run=spikes"
    _, packed, headers = any_board.ask(path, headers={"Accept-Encoding": "gzip"})
    _, plain, _ = any_board.ask(path)
    import gzip

    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain
    assert len(packed) < 0.7 * len(plain)
    assert re.match(r"application/json", headers["Content-Type"])


def test_torch_is_never_loaded(any_board):
    """After all of these questions, TensorBoard's process has not loaded torch."""
    maps = Path(f"/proc/{any_board.process.pid}/maps")
    if not maps.exists():
        pytest.skip("this system does not show what a process has loaded")
    loaded = maps.read_text()
    assert "numpy" in loaded
    assert "torch" not in loaded


def test_nothing_was_logged_as_an_error(any_board):
    """None of the questions made gradwatch fail inside."""
    any_board.get("runs")
    assert [line for line in any_board.log if "Traceback" in line or "gradwatch:" in line] == []
