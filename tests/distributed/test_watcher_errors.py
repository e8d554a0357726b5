"""An error of ours on one rank: that rank says so once, all go on training, nobody waits for ever."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import placements
import pytest
from agreement import same_weights
from plans import Plan, Seen, alone, together
from ranks import on_ranks
from torch import distributed as dist

import gradwatch
from gradwatch.errors import GradwatchWarning

LIMIT = 30.0
NUM_STEPS = 5
BAD_STEP = 2
BROKEN = 1
"""The rank with the error."""


class Boom(Exception):  # noqa: N818 - what goes wrong here is no error of the test
    """What nobody expects."""


def raising(function: Callable[..., Any], *, at: int) -> Callable[..., Any]:
    """The function, but its call number ``at`` raises, and all that follow."""
    calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise Boom("boom")
        return function(*args, **kwargs)

    return call


def broken_together(place: Any, plan: Plan, module: str, name: str, at: int) -> tuple[Seen, list[str]]:
    """The training with one function of ours broken on one rank; and what was warned of there."""
    import importlib

    owner: Any = importlib.import_module(f"gradwatch.{module}")
    *path, attribute = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    if dist.get_rank() == BROKEN:
        setattr(owner, attribute, raising(getattr(owner, attribute), at=at))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradwatchWarning)
        seen = together(place, plan)
    return seen, [str(warning.message) for warning in caught if issubclass(warning.category, GradwatchWarning)]


PLACES = {
    "gradients cannot be measured": ("_statistics", "Meter.measure", BAD_STEP),
    "weights cannot be sampled": ("_sampling", "WeightSampler.take", BAD_STEP),
    "updates cannot be measured": ("_sampling", "WeightSampler._norms", 2 * BAD_STEP),
    "nothing can be sent to the host": ("_transfer", "Transfer.send", BAD_STEP),
    "no record can be made": ("_arrivals", "record_of", BAD_STEP),
    "the layout is not found": ("_tracks", "Tracks.of", BAD_STEP),
    "the first layout is not found": ("_layout", "Layouts.of", 0),
    "the clip fails": ("clipping", "ClipNorm.apply", BAD_STEP),
    "no record can be judged": ("_judges", "Judges.observe", BAD_STEP),
}
"""Module, function, and how many calls go well before it breaks."""


@pytest.mark.parametrize("place", [placements.ddp, placements.fsdp2, placements.hsdp])
@pytest.mark.parametrize("broken", PLACES)
def test_an_error_on_one_rank_stops_nobody(place, broken):
    """All train on to the last step, in time, and the other ranks have all their records."""
    num = 4 if place is placements.hsdp else 2
    clip = gradwatch.ClipNorm(0.3) if broken == "the clip fails" else None
    plan = Plan(num_steps=NUM_STEPS, clip=clip)
    answers = on_ranks(broken_together, place, plan, *PLACES[broken], num=num, limit=LIMIT)
    for rank, (seen, said) in enumerate(answers):
        assert len(seen.whole) == NUM_STEPS
        assert rank != BROKEN or said  # the first rank speaks of what all have learnt, and nobody else
        assert rank in (0, BROKEN) or not said, said
        if rank != BROKEN:
            assert len(seen.records) == NUM_STEPS
    said = answers[BROKEN][1]
    assert len([text for text in said if "This is said only once" in text]) == 1, said
    assert all("boom" in text for text in said), said
    if clip is None:
        same_weights([seen for seen, _ in answers], alone(Plan(num_steps=NUM_STEPS)).weights)


class RaisingWriter:
    """A user's own, with a fault."""

    def write(self, record: Any) -> None:
        """Not for long."""
        if record.step == BAD_STEP:
            raise Boom("disk full")

    def write_incident(self, incident: Any) -> None:
        """Not here."""

    def close(self) -> None:
        """Nothing to close."""


def with_raising_writer(place: Any) -> tuple[Seen, list[str]]:
    """On the rank that writes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GradwatchWarning)
        seen = together(place, Plan(num_steps=NUM_STEPS, watch={"writers": [RaisingWriter()]}))
    return seen, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("place", [placements.ddp, placements.fsdp2])
def test_a_writer_that_raises_stops_nobody(place):
    """It is dropped where it writes, on the first rank; everything else goes on."""
    answers = on_ranks(with_raising_writer, place, limit=LIMIT)
    assert [len(seen.records) for seen, _ in answers] == [NUM_STEPS] * 2
    assert [len(said) for _, said in answers] == [1, 0]
    same_weights([seen for seen, _ in answers], alone(Plan(num_steps=NUM_STEPS)).weights)
