"""Columns, three states, odd layouts, and that nothing waits for a device."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gradwatch._sampling import WeightSampler
from gradwatch._statistics import ALWAYS, Column, Meter, Reduction
from gradwatch.clipping import ClipNorm, ClipValue

EVERYTHING = (*ALWAYS, Column.ABS_MAX, Column.POWER)


def test_every_column_says_how_parts_combine():
    """The packed reduction of a sharded run needs no further knowledge."""
    assert {column.reduction for column in Column} == {Reduction.SUM, Reduction.MAX}
    assert Column.SQUARED_NORM.reduction is Reduction.SUM
    assert Column.ABS_MAX.reduction is Reduction.MAX


def test_columns_of_plain_gradients():
    """Norm, counts, presence, maximum and p-norm equal the plain computation."""
    gradients = [torch.randn(40, 30), None, torch.zeros(5), torch.randn(20_000)]
    templates = [torch.zeros(40, 30), torch.zeros(2), torch.zeros(5), torch.zeros(20_000)]
    statistics = Meter(templates).measure(gradients, EVERYTHING, norm_type=3.0)
    assert statistics.data.shape == (4, 5)
    assert statistics.data.dtype == torch.float64
    assert statistics[Column.PRESENT].tolist() == [1, 0, 1, 1]
    for i in (0, 2, 3):
        exact = gradients[i].double()
        assert statistics[Column.SQUARED_NORM][i].sqrt() == pytest.approx(exact.norm().item(), rel=1e-5)
        assert statistics[Column.ABS_MAX][i] == exact.abs().max()
        assert statistics[Column.POWER][i] == pytest.approx((exact.abs() ** 3).sum().item(), rel=1e-9)
    total = torch.cat([g.flatten() for g in gradients if g is not None]).double().norm()
    assert statistics.total_norm() == pytest.approx(total.item(), rel=1e-5)


@pytest.mark.parametrize("coalesced", [True, False])
def test_sparse_gradients(coalesced):
    """The norm is over summed duplicates, not over the raw values; the gradient itself stays as it is."""
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    sparse = torch.sparse_coo_tensor([[1, 1, 3]], values, (6, 2), check_invariants=True)
    sparse = sparse.coalesce() if coalesced else sparse
    statistics = Meter([torch.zeros(6, 2)]).measure([sparse], EVERYTHING, 1.0)
    dense = sparse.to_dense()
    assert statistics[Column.SQUARED_NORM][0].sqrt() == pytest.approx(dense.norm().item())
    assert statistics[Column.ABS_MAX][0] == dense.abs().max()
    assert statistics[Column.POWER][0] == dense.abs().sum()
    assert sparse.is_coalesced() == coalesced


def test_complex_gradients():
    """The norm and the maximum are those of the moduli, conjugate views included."""
    gradient = torch.randn(50, dtype=torch.complex64).conj()
    statistics = Meter([torch.zeros(50, dtype=torch.complex64)]).measure([gradient], (*ALWAYS, Column.ABS_MAX))
    assert statistics[Column.SQUARED_NORM][0].sqrt() == pytest.approx(gradient.abs().double().norm().item(), rel=1e-6)
    assert statistics[Column.ABS_MAX][0] == pytest.approx(gradient.abs().max().item())


def test_a_gradient_in_another_dtype_than_its_parameter():
    """It is measured in the parameter's (or a wider) precision."""
    statistics = Meter([torch.zeros(3), torch.zeros(3, dtype=torch.float16)]).measure(
        [torch.ones(3, dtype=torch.float64), torch.full((3,), 6e4, dtype=torch.float16)]
    )
    norms = statistics[Column.SQUARED_NORM].sqrt().tolist()
    assert norms == pytest.approx([math.sqrt(3), math.sqrt(3) * 6e4], rel=1e-3)


def test_a_loss_scale_is_taken_out():
    """Norms, maxima and p-norms shrink by the scale, counts do not; a tensor scale works, too."""
    meter = Meter([torch.zeros(4)])
    plain = meter.measure([torch.tensor([1.0, -2.0, 3.0, 0.0])], EVERYTHING, 3.0)
    for scale in (1024.0, torch.tensor(1024.0)):
        scaled = meter.measure([torch.tensor([1.0, -2.0, 3.0, 0.0]) * 1024], EVERYTHING, 3.0).unscaled(scale, 3.0)
        assert torch.allclose(scaled.data, plain.data)


def test_no_layer_at_all():
    """An empty list is measured as nothing."""
    statistics = Meter([]).measure([])
    assert statistics.data.shape == (0, 3)
    assert statistics.total_norm() == 0


@pytest.mark.parametrize("clip", [ClipNorm(1.0), ClipNorm(1.0, math.inf), ClipNorm(1.0, 3.0), ClipValue(0.5)], ids=str)
def test_measuring_and_clipping_never_wait_for_a_device(clip):
    """On the meta device every look at a value would raise: measuring, clipping and sampling do without."""
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 100_000)).to("meta")
    for parameter in model.parameters():
        parameter.grad = torch.empty_like(parameter)
    parameters = list(model.parameters())
    meter = Meter(parameters)
    statistics = meter.measure([p.grad for p in parameters], EVERYTHING, clip.norm_type if clip.norm_type < 9 else 2.0)
    statistics = statistics.unscaled(torch.empty((), device="meta"), 2.0)
    clip.apply(parameters, statistics, torch.empty((), device="meta"))
    assert statistics.total_norm().device.type == "meta"
    sampler = WeightSampler(parameters)
    assert sampler.update_ratio(sampler.take(parameters), parameters).device.type == "meta"


def test_the_meta_test_can_fail():
    """Looking at a meta tensor does raise."""
    with pytest.raises(RuntimeError):
        float(torch.empty((), device="meta"))


def test_the_device_path_is_the_reference():
    """What an accelerator computes (run here on the CPU) equals what the host's fast path computes."""
    gradients = [torch.randn(300, 70), None, torch.full((9,), 1e-30), torch.full((9,), 1e30), torch.randn(17) * 1e-3]
    gradients[4][3] = math.nan
    templates = [torch.zeros(300, 70), torch.zeros(2), torch.zeros(9), torch.zeros(9), torch.zeros(17)]
    host, device = Meter(templates), Meter(templates)
    device._norms = None
    a, b = host.measure(gradients, EVERYTHING, 1.0), device.measure(gradients, EVERYTHING, 1.0)
    assert torch.allclose(a.data, b.data, rtol=2e-5, atol=0, equal_nan=True)


def test_update_ratio_from_a_sample():
    """Exact for small parameters, within a few percent for large ones; the global random state is not touched."""
    small, large = torch.randn(100), torch.randn(1_000_000)
    random_state = torch.get_rng_state()
    sampler = WeightSampler([small, large])
    before = sampler.take([small, large])
    moved = [small * 1.01, large + 0.001 * torch.randn(1_000_000, generator=torch.Generator().manual_seed(3))]
    ratio = sampler.update_ratio(before, moved)
    assert ratio[0] == pytest.approx(0.01, rel=1e-4)
    assert ratio[1] == pytest.approx(0.001, rel=0.08)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_the_same_sample_with_and_without_the_buffer():
    """The host's way of sampling picks the very elements that the plain way picks, whatever the shapes."""
    shapes = [(100,), (), (40, 30), (128, 128), (0,), (200, 300), (513,), (100,), (64, 3, 9, 9), (3, 17_000)]
    generator = torch.Generator().manual_seed(0)
    before = [torch.randn(shape, generator=generator) for shape in shapes]
    before.append(torch.randn(300, 200, generator=generator).t())
    before.append(torch.randn(90, 80, generator=generator).t())
    after = [tensor + 1e-3 * torch.randn(tensor.shape, generator=generator) for tensor in before]
    host, plain = WeightSampler(before), WeightSampler(before)
    plain._on_host = None
    ratios = [sampler.update_ratio(sampler.take(before), after) for sampler in (host, plain)]
    assert torch.allclose(*ratios, rtol=1e-5, equal_nan=True)


def test_maxima_come_with_the_norms():
    """Of small, large and remaining elements, of all dtypes; absent is 0, and NaN is not lost among larger ones."""
    templates = [torch.zeros(n, dtype=d) for n in (7, 16_385, 100_003) for d in (torch.float32, torch.bfloat16)]
    gradients = [torch.randn(t.shape).to(t.dtype) for t in templates]
    gradients[4][100_002] = -1e30
    gradients[2][5], gradients[2][6] = math.nan, 9.0
    gradients[1] = None
    found = Meter(templates).measure(gradients, (*ALWAYS, Column.ABS_MAX))[Column.ABS_MAX].tolist()
    assert found[1] == 0
    assert math.isnan(found[2])
    for i in (0, 3, 4, 5):
        assert found[i] == float(gradients[i].abs().max())


def test_a_sparse_gradient_may_come_at_any_step():
    """The quick way finds out by itself, and the step is measured all the same, large or small."""
    for num_rows in (6, 60_000):
        meter = Meter([torch.zeros(num_rows, 2), torch.zeros(3)])
        sparse = torch.sparse_coo_tensor([[1, 1, 3]], torch.ones(3, 2), (num_rows, 2), check_invariants=True)
        dense = [torch.ones(num_rows, 2), torch.ones(3)]
        for gradients in (dense, [sparse, torch.ones(3)], dense, [None, torch.ones(3)]):
            norms = meter.measure(gradients).norms().tolist()
            expected = [0.0 if g is None else float(g.to_dense().norm()) for g in gradients]
            assert norms == pytest.approx(expected, rel=1e-5)
