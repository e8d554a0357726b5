"""The terminal."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console
from rich.progress import Progress
from tqdm import tqdm

from gradwatch.records import (
    Cause,
    Incident,
    LayerSummary,
    ModelInfo,
    Remedy,
    RunSummary,
    Severity,
    StepRecord,
    Unavailable,
)
from gradwatch.writers import SummaryTaker, Writer
from gradwatch.writers.console import WIDTH, ConsoleWriter, summary_table


def _incident(**changes):
    remedies = (Remedy("nn.ReLU", "it passes the signal on", "model.act0 = nn.ReLU()"), Remedy("a normalisation layer"))
    values = {
        "kind": "vanishing",
        "step": 4,
        "layers": ("fc0",),
        "severity": Severity.WARNING,
        "value": 1.0,
        "threshold": 2.0,
        "message": "The signal fades.",
        "causes": (Cause("saturating_activations", 0.9, "12 sigmoids", remedies), Cause("other", 0.2, "perhaps")),
        "unavailable": (Unavailable("activations", "the model is compiled"),),
    }
    return Incident(**{**values, **changes})


def _summary(num_layers=3, incidents=(), name="fc{}.weight"):
    layers = tuple(LayerSummary(name.format(index), 1e-5, 2e-5, 3e-12, 7) for index in range(num_layers))
    return RunSummary(
        ModelInfo("MLP", (), 101_770), 400, 0, 31, "ClipNorm(max_norm=1.0)", 0.5, layers, incidents, (), 0.21, 23.3
    )


def test_it_is_a_writer():
    """It takes records, incidents and the summary."""
    assert isinstance(ConsoleWriter(), Writer)
    assert isinstance(ConsoleWriter(), SummaryTaker)


def test_incident():
    """An incident is a short block: what, why, what to do (code under the remedy it belongs to), what was not seen."""
    file = io.StringIO()
    ConsoleWriter(file).write_incident(_incident())
    assert file.getvalue() == (
        "vanishing · step 4 · fc0 · GW102\n"
        "  The signal fades.\n"
        "  why   saturating activations (confident): 12 sigmoids · GW201\n"
        "  or    other (possible): perhaps\n"
        "  try   1. nn.ReLU: it passes the signal on\n"
        "           model.act0 = nn.ReLU()\n"
        "        2. a normalisation layer\n"
        "  could not see   activations, because the model is compiled\n"
    )


def test_closing_line_is_one_line():
    """The closing line is one line in a log file, however long."""
    file = io.StringIO()
    ConsoleWriter(file).write_summary(_summary())
    assert file.getvalue().count("\n") == 1
    assert "nothing found; watching took 0.21 s" in file.getvalue()


def test_default_is_stderr(capsys):
    """By default it speaks on stderr, so that piped output stays clean."""
    ConsoleWriter().write_summary(_summary())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gradwatch: 400 steps")


def test_without_stderr(monkeypatch):
    """A process without stderr is no reason to fail."""
    monkeypatch.setattr(sys, "stderr", None)
    ConsoleWriter().write_summary(_summary())


def test_ascii_stream():
    """A stream that cannot encode our dots gets question marks, not an exception."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", write_through=True) as file:
        ConsoleWriter(file).write_incident(_incident())
        assert raw.getvalue().startswith(b"vanishing ? step 4")


def test_rich_console():
    """A rich console of the user's is written to directly, with its colours."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80, _environ={})
    ConsoleWriter(console).write_incident(_incident())
    assert "\x1b[1;33mvanishing" in console.file.getvalue()


@pytest.mark.parametrize("name", ["[bold]x[/bold]", "[/]", "x" * 10_000, "a\x1b[2Jb", ":smile:"])
def test_hostile_names(name):
    """No name is taken for markup, steers the terminal or fills it."""
    file = io.StringIO()
    incident = _incident(layers=(name,), message=name, causes=())
    ConsoleWriter(file).write_incident(incident)
    table = summary_table(_summary(name=name.replace("{", "") + "{}", incidents=(incident,)))
    for text in (file.getvalue(), table):
        assert "\x1b" not in text
        assert len(text) < 6_000
    if len(name) < 20 and "\x1b" not in name:
        assert name in file.getvalue()
        assert name in table


def test_rich_progress_bar_stays_intact():
    """While a rich progress bar redirects stderr, an incident goes above it."""
    terminal = io.StringIO()
    console = Console(file=terminal, force_terminal=True, width=100, _environ={})
    with Progress(console=console, auto_refresh=False) as progress:
        progress.add_task("training", total=2)
        progress.refresh()
        ConsoleWriter().write_incident(_incident())
        progress.refresh()
    text = terminal.getvalue()
    assert text.index("vanishing") < text.rindex("training")
    assert "GW102" in text


def test_tqdm_bar_is_set_aside():
    """While a tqdm bar is on the stream, it is cleared before an incident and drawn again after it."""
    stream = io.StringIO()
    with tqdm(total=5, file=stream, ncols=60, mininterval=0) as bar:
        bar.update(1)
        ConsoleWriter(stream).write_incident(_incident())
        block = stream.getvalue()
    line = next(line for line in block.split("\n") if "vanishing" in line)
    assert line.split("\r")[-1].startswith("vanishing")
    assert block.rstrip("\r").endswith("]")


def test_summary_is_plain_text(monkeypatch):
    """The summary is readable in a log file: no colours, no line wider than promised."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    text = summary_table(_summary(50, (_incident(),)))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= WIDTH
    for part in ("1 incident, vanishing at step 4", "fc0.weight", "3.0e-12", "30 more layers", "31 of 400", "why"):
        assert part in text


def test_summary_without_steps():
    """A watch that saw no step has a summary too."""
    empty = RunSummary(ModelInfo("MLP"), 0, 0, 0, None, float("nan"), (), (), (), 0.0, 0.0)
    assert summary_table(empty).startswith("gradwatch: no optimizer step")


def test_write_prints_nothing():
    """A step that went well is no news."""
    file = io.StringIO()
    writer = ConsoleWriter(file)
    writer.write(StepRecord(0, 0, (), None, None, 0.0, 0.0))
    writer.close()
    assert file.getvalue() == ""
