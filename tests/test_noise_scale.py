"""The gradient noise scale: the formula of its paper, what may go into its averages, and what is told of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import quiet_watch, small_model, train

import gradwatch
from gradwatch import _noise_scale
from gradwatch._noise_scale import DECAY, FEWEST, WHAT, NoiseScales, estimates, norms_of, spread
from gradwatch._sources.opened import open_records
from gradwatch.errors import ArgumentTypeError
from gradwatch.records import Layer, LocalNorms, StepRecord, Unavailable
from gradwatch.wording import noise_scale_in_words
from gradwatch.writers._scalars import PlainScalars
from gradwatch.writers.jsonl import JSONLWriter, read_jsonl
from gradwatch.writers.tensorboard import TensorBoardWriter

LAYERS = (Layer("a.weight", "a", "Linear", (2, 2)),)


def record(step: int, norms: tuple[float, ...] | None, total_norm: float, **more: Any) -> StepRecord:
    """A step with these local norms."""
    local = None if norms is None else LocalNorms(tuple(range(len(norms))), norms, spread(norms))
    one = np.array([total_norm])
    nothing = np.zeros(1, np.int64)
    return StepRecord(step, 0, LAYERS, one, nothing, total_norm, total_norm, local_norms=local, **more)


def drawn(num_steps: int, num_ranks: int = 4, seed: int = 0, each: float = 0.3) -> list[StepRecord]:
    """Gaussian gradients round a fixed one."""
    rng = np.random.default_rng(seed)
    gradients = each + rng.normal(size=(num_steps, num_ranks, 20))
    norms, totals = np.linalg.norm(gradients, axis=2), np.linalg.norm(gradients.mean(1), axis=1)
    return [record(i, tuple(map(float, norms[i])), float(totals[i])) for i in range(num_steps)]


def test_the_estimates_are_those_of_the_paper():
    """Appendix A.1 with its own letters, and B_small of 8 rows: G^2 and S."""
    squares, big, num_ranks, rows = (3.0, 5.0, 7.0, 4.0), 2.5, 4, 8
    b_small, b_big, small = rows, rows * num_ranks, np.mean(squares)
    signal = (b_big * big - b_small * small) / (b_big - b_small)
    trace = (small - big) / (1 / b_small - 1 / b_big)
    assert estimates(squares, big) == pytest.approx((trace / rows, signal))


def test_the_estimates_are_unbiased():
    """Over 20,000 steps their means are the variance (20 dimensions of 1) and the squared signal, 20 x 0.09."""
    found = [estimates(tuple(n * n for n in r.local_norms.norms), r.total_norm**2) for r in drawn(20_000)]
    noise, signal = np.mean(found, axis=0)
    assert noise == pytest.approx(20, rel=4 * math.sqrt(2 / 60 / 20_000))
    assert signal == pytest.approx(1.8, abs=0.08)  # four standard errors


def test_numerator_and_denominator_are_averaged_before_they_are_divided():
    """The exponential moving average in plain numpy, at every step."""
    records, scales = drawn(60), NoiseScales()
    noise = signal = 0.0
    for number, one in enumerate(records, start=1):
        s, g = estimates(tuple(n * n for n in one.local_norms.norms), one.total_norm**2)
        noise, signal = DECAY * noise + (1 - DECAY) * s, DECAY * signal + (1 - DECAY) * g
        found = scales.completed(one).local_norms.noise_scale
        known = number >= FEWEST and signal > 0
        assert found == (pytest.approx(noise / signal) if known else None)


def test_a_signal_below_zero_is_no_noise_scale():
    """Pure noise: None, not a number; and neither infinite nor negative ones."""
    scales = NoiseScales()
    for step in range(2 * FEWEST):
        found = scales.completed(record(step, (1.0, 1.0), 0.5)).local_norms
        assert found.noise_scale is None
    assert "not known yet" in scales.told()[0]


@pytest.mark.parametrize(
    "odd",
    [
        record(0, (math.nan, 1.0), math.nan),
        record(0, (math.inf, 1.0), math.inf),
        record(0, (1.0, 1.0), 0.9, skipped=True),
        record(0, (1e200, 1.0), 1e10),  # its square is none any more
        record(0, (1.0, 1.0), 1.5),  # no mean is longer than its parts: somebody has changed the gradients since
    ],
    ids=["nan", "inf", "skipped", "huge", "changed"],
)
def test_what_is_no_sample_leaves_the_averages_as_they_are(odd):
    """One NaN does not blind it; the norms are recorded all the same."""
    scales, others = NoiseScales(), NoiseScales()
    for one in drawn(2 * FEWEST, num_ranks=2, each=1.0):
        scales.completed(one)
        others.completed(one)
    kept = others.completed(odd)
    assert kept.local_norms.norms == odd.local_norms.norms or math.isnan(odd.local_norms.norms[0])
    assert others.state_dict() == scales.state_dict()
    assert kept.local_norms.noise_scale == scales.completed(odd).local_norms.noise_scale > 0


def test_a_resumed_run_goes_on_with_the_averages():
    """Bit by bit what the run in one go says, through JSON."""
    records, whole, first, rest = drawn(40), NoiseScales(), NoiseScales(), NoiseScales()
    expected = [whole.completed(one).local_norms for one in records]
    for one in records[:25]:
        first.completed(one)
    rest.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [rest.completed(one).local_norms for one in records[25:]] == expected[25:]


def test_another_number_of_ranks_begins_anew():
    """And says why: in the record and in the summary."""
    scales = NoiseScales()
    for one in drawn(20):
        scales.completed(one)
    after = [scales.completed(one) for one in drawn(20, num_ranks=2)]
    assert after[0].local_norms.noise_scale is None
    (gap,) = after[0].unavailable
    assert gap.because == "it was averaged over 4 ranks before, and there are 2 now"
    assert all(not one.unavailable for one in after[1:])
    assert "begun anew" in scales.told()[0]
    assert scales.state_dict()["0"]["num_steps"] == 20


def test_nothing_is_told_where_nobody_has_asked_and_why_where_there_is_nothing():
    """Three cases: not asked, cannot be had, had."""
    scales = NoiseScales()
    plain = record(0, None, 1.0)
    assert scales.completed(plain) is plain
    assert scales.told() == ()
    scales.completed(record(1, None, 1.0, unavailable=(Unavailable(WHAT, "there is one process only"),)))
    assert scales.told() == (f"{WHAT}: unavailable, because there is one process only",)
    scales.completed(record(2, (1.0, 2.0), 1.2))
    assert scales.told()[0].startswith("gradient noise scale: not known yet")


def test_norms_come_unscaled_or_with_who_has_failed():
    """A GradScaler's factor is taken out; NaN and infinite ones stay what they are."""
    told = np.array([[16.0, math.inf, math.nan], [0.0, 0.0, 0.0]])
    found = norms_of((0, 2, 5), told, 2.0)
    assert found.norms[:2] == (2.0, math.inf)
    assert math.isnan(found.norms[2])
    assert math.isnan(found.spread)
    told[1, 1:] = 1.0
    assert norms_of((0, 2, 5), told, 2.0) == Unavailable(WHAT, "gradwatch failed on ranks 2 and 5")


def test_the_spread_is_scale_free():
    """By the book, also where squares would leave the range of float64; 0 where all are 0."""
    norms = (1.0, 2.0, 4.0)
    for factor in (1.0, 1e-200, 1e200):
        assert spread(tuple(factor * norm for norm in norms)) == pytest.approx(np.std(norms) / np.mean(norms))
    assert spread((0.0, 0.0)) == 0


def test_records_keep_them_in_files_and_old_files_load(tmp_path: Path):
    """JSON lines and a TensorBoard log, both read back; a line without them is a record without them."""
    scales = NoiseScales()
    records = [scales.completed(one) for one in drawn(FEWEST + 2)]
    records += [record(FEWEST + 2, (math.nan, 1.0), math.nan), record(FEWEST + 3, None, 1.0)]
    lines, board = JSONLWriter(tmp_path / "lines"), TensorBoardWriter(tmp_path / "board")
    for one in records:
        lines.write(one)
        board.write(one)
    lines.close()
    board.close()
    read = read_jsonl(tmp_path / "lines").records
    np.testing.assert_equal([r.to_json() for r in read], [r.to_json() for r in records])
    assert read[0].local_norms == records[0].local_norms
    assert "local_norms" not in records[-1].to_json()
    assert read[-1].local_norms is None
    again = [r.to_json().get("local_norms") for r in open_records(tmp_path / "board")[0].records]
    np.testing.assert_equal(again, [r.to_json().get("local_norms") for r in records])


def test_damaged_norms_are_refused():
    """One norm for each rank, or none is believed."""
    with pytest.raises(ValueError, match="one norm for each rank"):
        LocalNorms.from_json({"ranks": [0, 1], "norms": [1.0], "spread": 0.0, "noise_scale": None})


def test_the_plain_scalars_show_both():
    """The logarithm of the noise scale, where it is known, for it spans decades."""
    scalars = PlainScalars()
    known = LocalNorms((0, 1), (1.0, 3.0), 0.5, 100.0)
    values = scalars.of(record(0, None, 1.0))
    assert not [tag for tag in values if "noise" in tag or "spread" in tag]
    base = record(1, (1.0, 3.0), 1.0)
    values = scalars.of(base)
    assert values["gradwatch/spread of the ranks' gradient norms"] == 0.5
    assert not [tag for tag in values if "noise" in tag]
    values = scalars.of(replace(base, local_norms=known))
    assert values["gradwatch/log10 gradient noise scale (batches of one rank)"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (100.0, "far above the 4 in use: more ranks or larger batches pay off almost linearly"),
        (4.0, "near"),
        (0.1, "little"),
    ],
)
def test_a_newcomer_reads_what_to_do(scale, words):
    """Far above, near or far below the batch in use, and what twice the batch would save."""
    text = noise_scale_in_words(scale, 4, 0.1)
    assert words in text
    assert "the 4 ranks' own norms differ by 10 %" in text
    ratio = scale / 4
    assert f"{100 * (1 + ratio / 2) / (1 + ratio):.0f} % of the steps" in text


def test_a_single_process_is_told_why_and_trains_on():
    """The option makes no sense there: neither silent nor fatal."""
    model = small_model()
    with quiet_watch(model, local_norms=True) as watch:
        train(model, torch.optim.SGD(model.parameters(), 0.1), 3)
    assert len(watch.history) == 3
    for one in watch.history:
        assert Unavailable(WHAT, "there is one process only") in one.unavailable
    assert "unavailable, because there is one process only" in " ".join(watch.summary().split())


@pytest.mark.parametrize("given", [1, "yes", None])
def test_the_option_is_true_or_false(given):
    """At both entrances."""
    with pytest.raises(ArgumentTypeError, match="local_norms"):
        gradwatch.watch(small_model(), local_norms=given)
    with pytest.raises(ArgumentTypeError, match="local_norms"):
        gradwatch.GradWatch(local_norms=given)


def test_a_callback_with_the_option_is_another_one():
    """Checkpoints tell them apart."""
    assert gradwatch.GradWatch(local_norms=True).state_key != gradwatch.GradWatch().state_key


def test_the_source_is_named():
    """Whoever reads the formula finds where it comes from."""
    assert "arXiv:1812.06162" in _noise_scale.__doc__
    assert "appendix A.1" in _noise_scale.__doc__
