"""What a user expects is not told, and never silently."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
import torch
from models import batch, loss_of, mlp
from torch import nn
from trainings import healthy

import gradwatch
from gradwatch import Suppression, wording
from gradwatch._judges import Judges
from gradwatch.errors import ArgumentTypeError, ArgumentValueError
from gradwatch.records import Cause, Incident, ModelInfo, Severity
from gradwatch.suppression import Sieve
from gradwatch.writers.console import ConsoleWriter


def incident(kind="vanishing", layers=("encoder.0", "encoder.1", "head"), cause="small_weights"):
    """One with this first cause; the second one is never what a suppression is about."""
    causes = (Cause(cause, 0.8, "seen"), Cause("no_normalisation", 0.4, "perhaps"))
    return Incident(kind, 7, layers, Severity.ERROR, 1.0, 2.0, "It fades.", causes)


class Scripted:
    """A detector that finds what it is told to find, step after step."""

    kind = "my_own"

    def __init__(self, *found):
        self._found = list(found)

    def observe(self, record):
        """The next list of incidents."""
        return self._found.pop(0) if self._found else []

    def state_dict(self):
        """Nothing."""
        return {}

    def load_state_dict(self, state):
        """Nothing."""


def train(suppress, steps=range(12), **options):
    """A net whose signal vanishes, under a watch."""
    model = mlp(8, nn.Sigmoid)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    with gradwatch.watch(model, suppress=suppress, **{"writers": [], **options}) as watch:
        healthy(watch, model, optimizer, steps)
    return watch


@pytest.mark.parametrize(
    ("identity", "covered"),
    [
        ("GW102", True),
        ("vanishing", True),
        ("Vanishing", True),
        ("GW202", True),
        ("small_weights", True),
        ("GW205", False),
        ("no_normalisation", False),
        ("GW101", False),
        ("exploding", False),
    ],
)
def test_what_it_is_about(identity, covered):
    """A kind, or the most likely cause, by code or name; a cause that is merely possible suppresses nothing."""
    sieve = Sieve([Suppression(identity, reason="known")])
    assert (sieve.sift([incident()]) == []) is covered
    assert len(sieve.suppressed) == covered


def test_a_name_of_both_is_the_kind():
    """lr_too_high is a kind and a cause: the name stands for the kind, the code of the cause for the cause."""
    exploding = incident("exploding", cause="lr_too_high")
    assert Sieve([Suppression("lr_too_high", reason="x")]).sift([exploding]) == [exploding]
    assert Sieve([Suppression("GW211", reason="x")]).sift([exploding]) == []


def test_layers_that_remain_are_told():
    """Only the layers that match are kept quiet, and the incident says so."""
    (told,) = Sieve([Suppression("GW102", "encoder.*", reason="rests at first")]).sift([incident()])
    assert told.layers == ("head",)
    assert told.message == ("It fades. (Suppressed for encoder.0, encoder.1: GW102 in encoder.*: rests at first.)")


def test_patterns_together_leave_nothing():
    """Two patterns that cover all layers together suppress the incident; it is counted once."""
    sieve = Sieve([Suppression("GW102", "encoder.*", reason="a"), Suppression("GW102", "head", reason="b")])
    assert sieve.sift([incident()]) == []
    assert sieve.suppressed == ("1 incident (GW102 in head: b)",)


@pytest.mark.parametrize(("pattern", "quiet"), [("*", True), ("*.*", False), ("?", False), ("encoder.*", False)])
def test_an_incident_without_layers(pattern, quiet):
    """It matches "*" only: no other pattern can mean it."""
    found = incident("nonfinite", layers=())
    assert (Sieve([Suppression("GW103", pattern, reason="x")]).sift([found]) == []) is quiet


def test_a_suppressed_root_mutes_its_consequences():
    """Suppressing comes last: what follows from the incident is no news, although the incident itself is not told."""
    root, consequence = incident("exploding", cause="large_weights"), incident("vanishing")
    rules = [Suppression("exploding", reason="expected")]
    records = [_record(step) for step in range(2)]
    for suppress, expected in (((), ["exploding"]), (rules, [])):
        judges = Judges([Scripted([root], [consequence])], suppress)
        told = [found.kind for record in records for found in judges.observe(record, ModelInfo("M"))]
        assert told == expected


def _record(step):
    import numpy as np

    from gradwatch.records import Layer, StepRecord

    return StepRecord(step, 0, (Layer("a"),), np.ones(1), np.zeros(1, np.int64), 1.0, 1.0)


def test_the_summary_says_so():
    """Neither the closing line nor the summary keeps quiet about what was suppressed."""
    out = io.StringIO()
    watch = train([Suppression("GW102", reason="shown in a lecture")], writers=[ConsoleWriter(out)])
    assert watch.incidents == []
    text = "suppressed: 1 incident (GW102: shown in a lecture)"
    assert text in out.getvalue()
    assert text in " ".join(watch.summary().split())
    assert watch._monitor.summary().suppressed == ("1 incident (GW102: shown in a lecture)",)
    facts = dict(wording.facts(watch._monitor.summary()))
    assert facts["suppressed"] == "1 incident (GW102: shown in a lecture)"


def test_without_suppressions_nothing_is_said():
    """The word does not occur, and the incident is told."""
    watch = train([Suppression("GW101", reason="never happens")])
    assert [found.kind for found in watch.incidents] == ["vanishing"]
    assert "suppressed" not in watch.summary()


def test_the_count_survives_a_resume():
    """A resumed run still knows what was suppressed before."""
    rules = [Suppression("GW102", reason="shown in a lecture")]
    state = train(rules).state_dict()
    model = mlp(8, nn.Sigmoid)
    with gradwatch.watch(model, writers=[], suppress=rules) as watch:
        watch.load_state_dict(state)
        healthy(watch, model, torch.optim.SGD(model.parameters(), 0.05), range(3))
    assert watch._monitor.summary().suppressed == ("1 incident (GW102: shown in a lecture)",)
    assert watch.state_dict() == watch.state_dict()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"identity": 102, "reason": "x"}, ArgumentTypeError, "identity=102 is of type int"),
        ({"identity": "GW102", "layers": None, "reason": "x"}, ArgumentTypeError, "layers=None"),
        ({"identity": "GW102", "reason": 3}, ArgumentTypeError, "reason=3"),
        ({"identity": "GW102", "reason": "  "}, ArgumentValueError, "reason='  ' is not allowed: it is empty"),
        ({"identity": "", "reason": "x"}, ArgumentValueError, "identity='' is not allowed"),
    ],
)
def test_wrong_suppressions(arguments, error, message):
    """Told when it is made, by argument."""
    with pytest.raises(error, match=message):
        Suppression(**arguments)


def test_the_reason_is_mandatory():
    """Nobody suppresses without saying why."""
    with pytest.raises(TypeError, match="reason"):
        Suppression("GW102")
    with pytest.raises(TypeError):
        Suppression("GW102", "*", "because")


@pytest.mark.parametrize(
    ("suppress", "error", "message"),
    [
        (Suppression("GW102", reason="x"), ArgumentTypeError, r"suppress=.* must be a sequence"),
        ("GW102", ArgumentTypeError, "suppress='GW102'"),
        (["GW102"], ArgumentTypeError, "a member of suppress='GW102'"),
        (None, ArgumentTypeError, "suppress=None"),
        ([Suppression("vanishin", reason="x")], ArgumentValueError, "did you mean 'vanishing'"),
        ([Suppression("GW1022", reason="x")], ArgumentValueError, "did you mean 'GW102'"),
        ([Suppression("zzzzzz", reason="x")], ArgumentValueError, "`gradwatch explain` lists them all"),
    ],
)
def test_wrong_arguments_at_both_entrances(suppress, error, message):
    """Told before training starts, with the nearest names."""
    from gradwatch.lightning import GradWatch

    for entrance in (lambda: gradwatch.watch(mlp(), suppress=suppress), lambda: GradWatch(suppress=suppress)):
        with pytest.raises(error, match=message):
            entrance()


def test_a_kind_of_ones_own_detector():
    """It has no code, and can be suppressed by its name."""
    model = mlp()
    found = [Incident("my_own", 0, (), Severity.INFO, 1.0, 1.0, "x")]
    rules = [Suppression("my_own", reason="experiment")]
    with gradwatch.watch(model, writers=[], detectors=[Scripted(found)], suppress=rules) as watch:
        loss = loss_of(model, batch(model, torch.Generator().manual_seed(0)))
        loss.backward()
        torch.optim.SGD(model.parameters(), 0.1).step()
    assert watch.incidents == []
    assert watch._monitor.summary().suppressed == ("1 incident (my_own: experiment)",)


def test_it_is_light():
    """The room is plain data: no torch."""
    code = (
        "import sys; from gradwatch import Suppression; Suppression('GW102', reason='x'); print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "False"
