"""Suppressions through the callback."""

from __future__ import annotations

import pytest
from fits import fit, module, quiet_watch, spiky

import gradwatch
from gradwatch.detectors import DataOutlierDetector, ExplodingDetector


def test_suppressed_in_a_fit(pl):
    """The same argument, the same effect: not told, but counted in the summary."""
    told = quiet_watch(detectors=[DataOutlierDetector(), ExplodingDetector()])
    fit(pl, module(pl), told, spiky(30, 25))
    assert told.incidents
    kinds = {incident.kind for incident in told.incidents}
    rules = [gradwatch.Suppression(kind, reason="a test") for kind in sorted(kinds)]
    quiet = quiet_watch(detectors=[DataOutlierDetector(), ExplodingDetector()], suppress=rules)
    fit(pl, module(pl), quiet, spiky(30, 25))
    assert quiet.incidents == []
    assert ": a test)" in quiet.summary()


def test_the_state_key_knows_them():
    """Two callbacks that suppress other things keep their states apart; an equal one finds its state again."""
    one, other, same = (
        quiet_watch(suppress=[gradwatch.Suppression(kind, reason="x")]).state_key
        for kind in ("GW101", "GW102", "GW101")
    )
    assert one == same != other
    assert quiet_watch().state_key not in (one, other)


@pytest.mark.parametrize("suppress", [(), []])
def test_nothing_to_suppress(pl, suppress):
    """An empty sequence is as good as none."""
    watch = quiet_watch(suppress=suppress)
    assert len(fit(pl, module(pl), watch)) == 4
