"""The fast path in host memory against plain float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gradwatch._norms import SquaredNorms, count_nonfinite, exact_squared_norm
from gradwatch._rows import ROW, dot, dot_by_matmul, flat

SHAPES = [(3,), (128, 128), (0,), (4097,), (16383,), (16381,), (100_003,), (64, 3, 7, 7), (1,), (5000, 7), ()]
"""Small, one row and one more, with and without useful divisors, large with a remainder, empty, 0-dim."""


def measured(tensors):
    """Norms and counts from the fast path."""
    squared, nonfinite = SquaredNorms([t.shape for t in tensors], [t.dtype for t in tensors])(tensors)
    return np.sqrt(squared), np.zeros(len(tensors), dtype=np.int64) if nonfinite is None else nonfinite


def reference(tensor):
    """Plain float64."""
    return float(tensor.double().norm()) if tensor.numel() else 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("exponent", [-30, -25, -22, -19, -15, -12, -8, -4, 0, 4, 10, 19, 20, 30])
def test_relative_error_is_within_1e_5(dtype, exponent):
    """Every dtype, 1e-30 to 1e30, all shapes."""
    generator = torch.Generator().manual_seed(exponent + 100)
    tensors = [(torch.randn(s, dtype=torch.float64, generator=generator) * 10.0**exponent).to(dtype) for s in SHAPES]
    norms, nonfinite = measured(tensors)
    for tensor, norm, count in zip(tensors, norms, nonfinite, strict=True):
        assert count == int((~torch.isfinite(tensor)).sum())
        if count == 0:  # float16 has no 1e10
            assert norm == pytest.approx(reference(tensor), rel=1e-5, abs=0)


@pytest.mark.parametrize("value", [0.1, 1e-30, 1e30])
def test_forty_million_equal_elements(value):
    """Where torch's own float32 norm is off by percents, we are not."""
    tensor = torch.full((40_000_000,), value)
    expected = math.sqrt(tensor.numel()) * float(tensor[0].double())
    (norm,), _ = measured([tensor])
    assert norm == pytest.approx(expected, rel=1e-5)
    if value == 0.1:
        assert abs(float(torch.linalg.vector_norm(tensor)) - expected) > 1e-3 * expected  # the naive handling


def test_rows_are_short_enough_for_any_values():
    """The worst case of a row (equal values, systematic rounding) stays within the promise with room to spare."""
    for value in (0.1, 1 / 3, 0.0017, 0.7):
        row = torch.full((ROW,), value)
        expected = math.sqrt(ROW) * float(row[0].double())
        assert float(torch.linalg.vector_norm(row)) == pytest.approx(expected, rel=5e-6)
        (norm,), _ = measured([row])  # a small one is copied and goes another way
        assert norm == pytest.approx(expected, rel=2e-6)


def test_absent_zero_and_tiny_are_told_apart():
    """None and zero give 0, a gradient of 1e-40 does not; next to them a normal one is right."""
    tensors = [None, torch.zeros(100), torch.full((100,), 1e-40), torch.ones(100), None, torch.zeros(100_003)]
    shapes = [torch.Size([100])] * 5 + [torch.Size([100_003])]
    squared, _ = SquaredNorms(shapes, [torch.float32] * 6)(tensors)
    norms = np.sqrt(squared)
    assert norms[[0, 1, 4, 5]].tolist() == [0, 0, 0, 0]
    assert norms[2] == pytest.approx(1e-39, rel=1e-4)  # 1e-40 itself is a denormal: 5 digits
    assert norms[3] == pytest.approx(10)


def test_nothing_is_left_of_the_step_before():
    """The buffers are used again: a gradient that has gone leaves no trace."""
    meter = SquaredNorms([torch.Size([5]), torch.Size([100_003])], [torch.float32] * 2)
    meter([torch.full((5,), math.nan), torch.ones(100_003)])
    squared, nonfinite = meter([None, None])
    assert squared.tolist() == [0, 0]
    assert nonfinite is None


@pytest.mark.parametrize("place", [0, 4095, 4096, 100_002])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_bad_element_is_counted(place, value):
    """In a row, in a remainder, in a small tensor: found, counted, and the neighbours stay right."""
    large, small = torch.ones(100_003), torch.ones(7)
    large[place] = value
    small[place % 7] = value
    norms, nonfinite = measured([large, small, torch.ones(9)])
    assert nonfinite.tolist() == [1, 1, 0]
    assert not np.isfinite(norms[:2]).any()
    assert norms[2] == 3


def test_overflow_of_the_norm_is_no_bad_element():
    """1e30 squared leaves float32: the second look says finite."""
    norms, nonfinite = measured([torch.full((100_003,), 1e30), torch.full((7,), 3e38)])
    assert nonfinite.tolist() == [0, 0]
    assert norms == pytest.approx([math.sqrt(100_003) * 1e30, math.sqrt(7) * 3e38], rel=1e-5)


def test_any_memory_layout():
    """Transposed, expanded and channels-last gradients are measured as they are."""
    base = torch.randn(64, 32, 9, 9)
    tensors = [base.to(memory_format=torch.channels_last), base.transpose(0, 3), torch.ones(1, 1).expand(300, 100)]
    norms, _ = measured(tensors)
    assert norms == pytest.approx([reference(t) for t in tensors], rel=1e-5)
    assert flat(tensors[0]).data_ptr() == tensors[0].data_ptr()  # no copy of a dense tensor


def test_the_second_look_agrees_with_the_first():
    """float64 in chunks is the reference itself."""
    tensor = torch.randn(2_500_000)
    assert math.sqrt(exact_squared_norm(tensor)) == pytest.approx(reference(tensor), rel=1e-12)
    tensor[[5, 2_499_999]] = math.nan
    assert count_nonfinite(tensor) == 2


def test_numpy_1_comes_to_the_same():
    """Without ``numpy.vecdot`` rows are multiplied by BLAS all the same, in one or two streams."""
    rows = np.random.default_rng(0).standard_normal((6, 512)).astype(np.float32)
    for given in (rows, rows.reshape(2, 3, 512).swapaxes(0, 1)):
        here, there = np.empty(given.shape[:-1], np.float32), np.empty(given.shape[:-1], np.float32)
        dot(given, given, here)
        dot_by_matmul(given, given, there)
        assert here == pytest.approx(there, rel=1e-6)


@pytest.mark.parametrize("numel", [16_385, 17 * 1024, 33 * 512, 40 * 1024 + 1, 5 * 4096, 65_521])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_large_tensors_in_one_and_two_streams(numel, dtype):
    """Whatever number of rows that makes: every element counts once, in the norm and in the maximum."""
    tensor = torch.randn(numel, generator=torch.Generator().manual_seed(numel)).to(dtype)
    tensor[numel // 2] = -9.5
    maxima = np.zeros(1)
    squared, nonfinite = SquaredNorms([tensor.shape], [dtype])([tensor], maxima)
    assert math.sqrt(squared[0]) == pytest.approx(reference(tensor), rel=1e-6)
    assert maxima[0] == 9.5
    assert nonfinite is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sound_is_neither_zero_nor_bad(dtype):
    """What is passed on as sound is not asked again, so it must hold."""
    shapes = [torch.Size([5]), torch.Size([100_003])]
    meter = SquaredNorms(shapes, [dtype] * 2)
    tensors = [torch.ones(shape, dtype=dtype) for shape in shapes]
    assert meter.judged(tensors, complete=True)[2]
    for value in (0.0, math.nan, math.inf, 1e-30):
        for which in range(2):
            changed = [tensor.fill_(value) if i == which else tensor.fill_(1.0) for i, tensor in enumerate(tensors)]
            sound = meter.judged(changed, complete=True)[2]
            assert sound == (value == 1e-30 and dtype == torch.float64)
    for which in range(2):
        with pytest.raises(TypeError):
            meter.judged(
                [None if i == which else torch.ones(s, dtype=dtype) for i, s in enumerate(shapes)], complete=True
            )
