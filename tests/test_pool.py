"""Pooling to a screen's size loses no spike."""

from __future__ import annotations

import numpy as np
import pytest

from gradwatch._pool import edges, highest, pool


@pytest.mark.parametrize(("num_steps", "num_layers"), [(2_000, 500), (9_999, 1_000), (1_141, 481), (100, 7)])
def test_no_spike_is_lost(num_steps, num_layers):
    """Of up to 500 spikes of one step in one layer, every one is the value of its cell."""
    rng = np.random.default_rng(0)
    values = rng.random((num_steps, num_layers)).astype(np.float32)
    num = min(500, num_steps)
    steps, layers = rng.choice(num_steps, num, replace=False), rng.integers(num_layers, size=num)
    values[steps, layers] = 1e3 + np.arange(num)
    pooled = pool(values)
    rows = np.searchsorted(pooled.row_edges, layers, side="right") - 1
    columns = np.searchsorted(pooled.step_edges, steps, side="right") - 1
    assert (pooled.values[rows, columns] >= values[steps, layers]).all()
    assert pooled.values.shape == (len(pooled.row_edges) - 1, len(pooled.step_edges) - 1)
    assert pooled.values.shape[0] <= 480
    assert pooled.values.shape[1] <= 1140


def test_every_cell_is_the_highest_of_its_bin():
    """Against the definition, cell by cell, with gaps: NaN hides nothing, inf is never hidden."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(53, 17)).astype(np.float32)
    values[rng.random(values.shape) < 0.4] = np.nan
    values[30, 3] = np.inf
    values[:, 8:12] = np.nan
    pooled = pool(values, max_rows=5, max_cols=7)
    for row in range(5):
        for column in range(7):
            part = values[
                pooled.step_edges[column] : pooled.step_edges[column + 1],
                pooled.row_edges[row] : pooled.row_edges[row + 1],
            ]
            expected = np.nan if np.isnan(part).all() else np.nanmax(part)
            np.testing.assert_equal(pooled.values[row, column], np.float32(expected))
    assert np.isinf(pooled.values).sum() == 1
    assert np.isnan(pooled.values).any()


def test_what_stands_for_non_finite_wins():
    """A NaN that is known to be a non-finite gradient is shown as that, not as absent."""
    values = np.array([[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan]], dtype=np.float32)
    marked = np.array([[False, False], [True, False], [True, False]])
    np.testing.assert_array_equal(
        pool(values, nonfinite=marked).values, [[np.nan, np.inf, np.inf], [1, np.nan, np.nan]]
    )
    np.testing.assert_array_equal(pool(values, max_cols=1, nonfinite=marked).values, [[np.inf], [1.0]])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1000])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_bins_are_equal_and_few(count, most):
    """Equal integer bins, the last one perhaps shorter, never more than allowed."""
    sizes = np.diff(edges(count, most))
    assert sizes.sum() == count
    assert len(sizes) <= most
    assert len(set(sizes[:-1])) <= 1
    assert (sizes[-1:] <= sizes[:1]).all()
    assert len(highest(np.ones((count, 2), np.float32), int(max(1, sizes[:1].sum())))) == len(sizes)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (5_000, 0), (0, 5_000)])
def test_empty_runs_are_empty_pictures(shape):
    """No steps or no layers: nothing to show, and no error."""
    pooled = pool(np.empty(shape, np.float32))
    assert pooled.values.shape == (len(pooled.row_edges) - 1, len(pooled.step_edges) - 1)
    assert pooled.values.size == 0
