"""Whether what the ranks have seen is what one process would have seen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from plans import Figures, Seen

from gradwatch.records import StepRecord

RELATIVE = 1e-6


def agree(ranks: list[Seen], reference: list[Figures]) -> None:
    """Every rank's records hold the reference's figures, and are the same on all ranks.

    Args:
        ranks: What each has seen.
        reference: Per step.
    """
    assert len(reference) > 0
    for seen in ranks:
        assert [record.step for record in seen.records] == list(range(len(reference)))
        for record, step in zip(seen.records, reference, strict=True):
            holds(record, step)
        told = [shared(record) for record in seen.records]
        np.testing.assert_equal(told, [shared(record) for record in ranks[0].records])
        assert [incident.to_json() for incident in seen.incidents] == [
            incident.to_json() for incident in ranks[0].incidents
        ]


def holds(record: StepRecord, step: Figures) -> None:
    """The record has the figures of this step."""
    present = {name: value for name, value in zip(record.names, record.grad_norm, strict=True) if name in step.norm}
    absent = [name for name in record.names if name not in step.norm]
    assert set(present) == set(step.norm), "parameters are missing"
    assert len(set(record.names)) == len(record.names)
    assert np.isnan([record.grad_norm[record.names.index(name)] for name in absent]).all()
    assert record.total_norm == approx(step.total_norm)
    assert present == {name: approx(value) for name, value in step.norm.items()}
    counts = dict(zip(record.names, record.num_nonfinite.tolist(), strict=True))
    assert {name: counts[name] for name in step.num_nonfinite} == step.num_nonfinite
    assert record.grad_max is not None
    maxima = dict(zip(record.names, record.grad_max, strict=True))
    known = {name: value for name, value in step.largest.items() if math.isfinite(value)}
    assert {name: maxima[name] for name in known} == {name: approx(value) for name, value in known.items()}
    assert not any(math.isfinite(maxima[name]) for name in step.largest if name not in known)


def shared(record: StepRecord) -> dict[str, Any]:
    """What every rank has to say alike: all but what it has seen of its own rows of the batch."""
    return {key: value for key, value in record.to_json().items() if key not in _OF_ITS_ROWS}


_OF_ITS_ROWS = {"loss", "activations", "through_time", "birthplace", "unavailable"}


def same_weights(ranks: list[Seen], reference: dict[str, torch.Tensor]) -> None:
    """Every rank has trained to the same weights."""
    for seen in ranks:
        assert set(seen.weights) == set(reference)
        for name, weight in reference.items():
            torch.testing.assert_close(seen.weights[name], weight, rtol=RELATIVE, atol=1e-12, msg=lambda m: name + m)  # noqa: B023


def misleads(naive: list[dict[str, float]], reference: list[Figures]) -> bool:
    """Whether these norms, measured naively, are wrong by 1 % somewhere at each step."""
    return all(
        any(abs(norms.get(name, 0.0) - norm) > 0.01 * norm for name, norm in step.norm.items())
        for norms, step in zip(naive, reference, strict=True)
    )


def local_misleads(ranks: list[Seen], reference: list[Figures]) -> bool:
    """Whether a monitor that looks at its own rank only would be wrong on every rank, at each step."""
    return all(misleads([figures.norm for figures in seen.local], reference) for seen in ranks)


def approx(value: float) -> Any:
    """To 1e-6, and a NaN is a NaN."""
    return pytest.approx(value, rel=RELATIVE, abs=0.0, nan_ok=True)
