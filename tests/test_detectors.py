from __future__ import annotations

import json
import math

import numpy as np
import pytest

from gradwatch._baselines import CLEAN_STEPS
from gradwatch._depth import DepthProfiles
from gradwatch.detectors import ExplodingDetector, NonfiniteDetector, VanishingDetector, default_detectors
from gradwatch.detectors.nonfinite import SKIPPED_STEPS
from gradwatch.errors import StateError
from gradwatch.records import Layer, StepRecord


def mlp(depth=8, width=16, prefix="fc"):
    """Weight and bias of ``depth`` linear layers."""
    return tuple(
        Layer(f"{prefix}{i}.{kind}", f"{prefix}{i}", "Linear", shape)
        for i in range(depth)
        for kind, shape in (("weight", (width, width)), ("bias", (width,)))
    )


LAYERS = mlp()


def make(step, norms=1.0, layers=LAYERS, **fields):
    """A record; ``norms`` per parameter, None meaning an absent gradient."""
    values = np.broadcast_to(np.asarray(norms, dtype=np.float64), (len(layers),)).copy()
    bad = fields.pop("num_nonfinite", np.zeros(len(layers), dtype=np.int64))
    values[bad > 0] = math.nan
    with np.errstate(all="ignore"):
        total = math.nan if bad.any() else float(np.sqrt(np.nansum(values**2)))
    fields = {"optimizer": 0, "total_norm": total, "clipped_norm": total, **fields}
    return StepRecord(step=step, layers=layers, grad_norm=values, num_nonfinite=bad, **fields)


def bad_at(*indices, count=1, layers=LAYERS):
    counts = np.zeros(len(layers), dtype=np.int64)
    counts[list(indices)] = count
    return counts


def watch(records, detectors=None):
    detectors = default_detectors() if detectors is None else detectors
    return [incident for record in records for d in detectors for incident in d.observe(record)]


def noise(rng, scale=0.3):
    return np.exp(rng.normal(0, scale, len(LAYERS)))


def fading(per_layer=0.1, depth=8):
    """Parameter norms of a chain in which every layer passes on ``per_layer`` of the signal."""
    return np.repeat(per_layer ** np.arange(depth - 1, -1, -1.0), 2)


# ------------------------------------------------------------------------------------------------------- healthy runs


def healthy_constant(rng):
    return [make(t, noise(rng), loss=1 / (t + 1)) for t in range(200)]


def healthy_heavy_tail(rng):
    return [make(t, noise(rng) * (10 ** rng.uniform(1, 2) if t % 9 == 5 else 1)) for t in range(300)]


def healthy_batch_of_two(rng):
    return [make(t, 10 ** rng.normal(0, 0.8) * noise(rng)) for t in range(400)]


def healthy_converging(rng):
    return [make(t, max(10 ** (-t / 20), 1e-6) * 10 ** rng.normal(0, 0.7) * noise(rng)) for t in range(400)]


def healthy_slow_rise(rng):
    return [make(t, 10 ** (t / 100) * noise(rng), loss=2.0 - t / 500) for t in range(300)]


def healthy_zero_head(rng):
    """The body's gradient is zero at first and then grows with the head's weights, under a warm-up."""
    norms = [np.where(np.arange(16) < 14, min(1.0, (t / 100) ** 2), 1.0) for t in range(200)]
    return [make(t, norm * noise(rng)) for t, norm in enumerate(norms)]


def healthy_zero_branches(rng):
    """Zero-initialised residual branches or LoRA-B: every second layer has no gradient at step 0."""
    zero = np.arange(16) // 2 % 2 == 1
    return [make(t, np.where(zero & (t == 0), 0.0, noise(rng))) for t in range(100)]


def healthy_unused_expert(rng):
    """A routed branch in the midst of others, used at random and rarely."""
    return [make(t, np.where((np.arange(16) // 2 == 4) & (t % 40 != 0), 0.0, noise(rng))) for t in range(200)]


def healthy_absent(rng):
    """A head that is used at every 25th step only."""
    return [make(t, np.where((np.arange(16) > 13) & (t % 25 != 0), math.nan, noise(rng))) for t in range(200)]


def healthy_frozen_front(rng):
    """A frozen backbone whose parameters still count as trainable but never get a gradient."""
    return [make(t, np.where(np.arange(16) < 10, math.nan, noise(rng))) for t in range(100)]


def healthy_odd_layer(rng):
    """Query and key projections far below their neighbours, but not out of the world."""
    return [make(t, np.where(np.arange(16) // 2 % 4 == 1, 3e-3, 1.0) * noise(rng)) for t in range(100)]


def healthy_tiny_loss_scale(rng):
    return [make(t, 1e-12 * noise(rng)) for t in range(100)]


def healthy_zero_weight_matrix(rng):
    """LoRA: half of the matrices start at zero and are replaced by their first update."""
    weights = np.where(np.arange(16) % 4 == 0, 1e-4, 4.0)
    ratio = np.where(np.arange(16) % 4 == 0, 1.0, 1e-3)
    return [make(t, noise(rng), weight_norm=weights, update_ratio=ratio) for t in range(20)]


HEALTHY = [value for name, value in sorted(globals().items()) if name.startswith("healthy_")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("run", HEALTHY, ids=lambda run: run.__name__)
def test_healthy_runs_raise_nothing(run, seed):
    """A healthy run stays silent, whatever its norms do."""
    assert watch(run(np.random.default_rng(seed))) == []


def test_layers_without_elements_are_ignored():
    """A parameter with numel 0 has a norm of zero and is no layer without signal."""
    layers = (Layer("empty.weight", "empty", "Linear", (0, 16)), *LAYERS)
    norms = np.array([0.0, *np.ones(16)])
    ratio = np.array([math.nan, *np.full(16, 1e-3)])
    assert watch(make(t, norms, layers, update_ratio=ratio, weight_norm=norms) for t in range(50)) == []


def test_a_model_without_layers_is_no_error():
    """An optimizer whose layers are few, shapeless or without any gradient raises nothing and breaks nothing."""
    for layers in ((), (Layer("scale"),), mlp(1)):
        assert watch(make(t, 1.0, layers) for t in range(40)) == []
        assert watch(make(t, math.nan, layers) for t in range(40)) == []


# --------------------------------------------------------------------------------------------------------- non-finite


def test_nonfinite_gradient_names_the_deepest_layer_first():
    """With a finite loss the backward pass went bad at the deepest of the bad layers."""
    (incident,) = watch([make(0, loss=1.0), make(1, loss=1.0, num_nonfinite=bad_at(0, 2, 6, count=3))])
    assert (incident.kind, incident.step) == ("nonfinite", 1)
    assert incident.layers == ("fc3.weight", "fc1.weight", "fc0.weight")
    assert (incident.value, incident.threshold, incident.num_layers) == (9.0, 0.0, 16)
    assert "fc3.weight" in incident.message
    assert "3 of 256 elements" in incident.message


def test_nonfinite_weight_comes_first():
    """The layer whose weight is bad leads, although every gradient is bad by then."""
    record = make(5, loss=math.nan, num_nonfinite=bad_at(*range(16)), num_nonfinite_weight=bad_at(4))
    (incident,) = watch([record])
    assert incident.layers[0] == "fc2.weight"
    assert len(incident.layers) == 16
    assert "1 of its 256 elements" in incident.message
    assert incident.evidence["rule"] == "weight"


def test_nonfinite_loss_alone_blames_no_layer():
    """A bad loss with good gradients names the loss and no layer."""
    (incident,) = watch([make(0, loss=math.inf)])
    assert incident.layers == ()
    assert incident.message.startswith("The loss is inf")


def test_nonfinite_forward_names_the_first_layer_that_is_bad_throughout():
    """With a bad loss, the first layer whose input is bad throughout is nearest to where it began."""
    counts = bad_at(*range(16))
    counts[[4, 5]] = LAYERS[4].numel, LAYERS[5].numel
    counts[[6, 7]] = LAYERS[6].numel, LAYERS[7].numel
    (incident,) = watch([make(0, loss=math.nan, num_nonfinite=counts)])
    assert incident.layers[0] == "fc2.weight"
    assert "the forward pass produced it" in incident.message


def test_overflow_of_the_norm_is_no_nonfinite_gradient():
    """A norm of inf without a single non-finite element is a matter of float32, not of the gradient."""
    assert watch(make(t, total_norm=math.inf, clipped_norm=math.inf) for t in range(30)) == []


def test_nonfinite_lasts_spreads_ends_and_comes_again():
    """A lasting, spreading condition is one incident; after 30 clean steps the next is a new one."""
    records = [make(t, num_nonfinite=bad_at(*range(1 + t // 10))) for t in range(40)]
    records += [make(40 + t) for t in range(CLEAN_STEPS - 1)]
    records += [make(70, num_nonfinite=bad_at(3))]
    records += [make(71 + t) for t in range(CLEAN_STEPS)]
    records += [make(110, num_nonfinite=bad_at(3))]
    assert [incident.step for incident in watch(records)] == [0, 110]


def test_skipped_steps_are_no_incident_until_there_are_twenty():
    """Overflow steps of a GradScaler are silent; 20 in a row are one incident that says so once."""
    skipped = [make(t, num_nonfinite=bad_at(2), skipped=True, loss_scale=2.0**-t) for t in range(60)]
    assert watch(skipped[: SKIPPED_STEPS - 1]) == []
    (incident,) = watch(skipped)
    assert (incident.kind, incident.step, incident.value) == ("nonfinite", SKIPPED_STEPS - 1, 20.0)
    assert incident.evidence["rule"] == "loss_scale"
    assert "skipped 20 steps in a row" in incident.message


def test_a_nonfinite_weight_is_found_under_a_scaler_too():
    """A GradScaler that skips because a weight is NaN does not hide it."""
    (incident,) = watch([make(0, num_nonfinite=bad_at(2), num_nonfinite_weight=bad_at(6), skipped=True)])
    assert incident.layers[0] == "fc3.weight"


# ---------------------------------------------------------------------------------------------------------- exploding


def calm(steps, seed=0, start=0):
    rng = np.random.default_rng(seed)
    return [make(start + t, noise(rng, 0.2)) for t in range(steps)]


def test_sustained_explosion_is_one_incident():
    """Fifty times the usual norm for three steps is found once, with its numbers."""
    incidents = watch(calm(40) + [make(40 + t, 50.0) for t in range(30)])
    assert [(i.kind, i.step) for i in incidents] == [("exploding", 42)]
    assert incidents[0].value > incidents[0].threshold > 0
    assert incidents[0].value == pytest.approx(200)
    assert "their norm of 200" in incidents[0].message


def test_explosion_of_one_layer_names_it_first():
    """A single layer that outweighs the rest of the model is found and leads."""
    norms = np.where(np.arange(16) == 6, 500.0, 1.0)
    (incident,) = watch(calm(40) + [make(40 + t, norms) for t in range(5)])
    assert incident.layers == ("fc3.weight",)


def test_explosion_diluted_by_the_other_layers_is_found():
    """One layer fifty times its usual raises the total by less than the jump asks for, and is found all the same."""
    norms = np.where(np.arange(16) == 6, 50.0, 1.0)
    (incident,) = watch(calm(40) + [make(40 + t, norms) for t in range(5)])
    assert incident.layers[0] == "fc3.weight"
    assert incident.value > incident.threshold


def test_burst_is_found_at_once():
    """Four decades above anything seen is evidence enough in one step."""
    (incident,) = watch([*calm(20), make(20, 1e4), make(21)])
    assert (incident.step, incident.evidence["rule"]) == (20, "burst")


@pytest.mark.parametrize("poison", [{"num_nonfinite": bad_at(1)}, {"total_norm": math.inf}, {"loss": math.nan}])
def test_nonfinite_does_not_blind(poison):
    """Non-finite values before an explosion do not enter a baseline: it is found as if they had not been."""
    records = calm(20) + [make(20 + t, **poison) for t in range(5)] + calm(20, 1, 25)
    incidents = watch(records + [make(45 + t, 50.0) for t in range(5)])
    assert [i.step for i in incidents if i.kind == "exploding"] == [47]


def test_skipped_steps_do_not_enter_a_baseline():
    """Norms of skipped steps are no history: neither an explosion nor a reason to miss one."""
    skipped = [make(30 + t, 1e6, skipped=True) for t in range(15)]
    assert watch(calm(30) + skipped) == []
    (incident,) = watch(calm(30) + skipped + [make(45 + t, 50.0) for t in range(5)])
    assert incident.step == 47


def test_updates_that_replace_the_weights():
    """An update as large as the weights is found at the first sampled step, the worst layer first."""
    ratio = np.where(np.arange(16) == 4, 30.0, 3.0)
    record = make(0, update_ratio=ratio, weight_norm=np.full(16, 16.0), lr=0.5)  # far too large for the rate to blame
    (incident,) = watch([record])
    assert (incident.kind, incident.value, incident.threshold) == ("exploding", 3.0, 1.0)
    assert incident.layers[0] == "fc2.weight"
    assert incident.num_layers == 8
    assert watch([make(0, update_ratio=ratio / 10, weight_norm=np.full(16, 4.0))]) == []


def test_signal_that_grows_towards_the_input():
    """Growth over depth is found without any history."""
    (incident,) = watch([make(t, fading(5.0)) for t in range(5)])
    assert (incident.kind, incident.step, incident.layers[0]) == ("exploding", 2, "fc0")
    assert "multiplies it by about 5," in incident.message
    assert incident.value == pytest.approx(5.0**7)


# ---------------------------------------------------------------------------------------------------------- vanishing


def test_fading_signal_is_one_incident():
    """A fade over depth is found after five steps, once, and says how much each layer passes on."""
    (incident,) = watch([make(t, fading(0.25)) for t in range(100)])
    assert (incident.kind, incident.step, incident.num_layers) == ("vanishing", 4, 8)
    assert incident.layers[0] == "fc0"
    assert "passes on about 25 % of it, so fc0 receives 1/16,000 of what fc7 does" in incident.message
    assert incident.value == pytest.approx(0.25**7)
    assert incident.value < incident.threshold


def test_the_bias_shows_a_fade_that_weights_hide():
    """A module's norm includes the bias: weight gradients can be equal while the signal fades."""
    norms = np.where(np.arange(16) % 2 == 0, 1e-9, fading(0.1))
    (incident,) = watch([make(t, norms) for t in range(10)])
    assert incident.kind == "vanishing"


def test_a_single_weak_layer_at_the_front_is_no_trend():
    """One odd first layer is no fading signal, and no broken chain."""
    norms = np.where(np.arange(16) < 2, 1e-6, 1.0)
    assert watch(make(t, norms) for t in range(100)) == []


def test_half_a_fade_counts_only_with_a_standing_loss():
    """Two decades are no fault while the loss falls, and one when it has stood still for long."""
    norms = fading(10 ** (-2 / 7))
    assert watch(make(t, norms) for t in range(200)) == []
    assert watch(make(t, norms, loss=0.98**t) for t in range(200)) == []
    (incident,) = watch(make(t, norms, loss=2.3) for t in range(200))
    assert incident.evidence["rule"] == "slow"
    assert "the loss has stood still" in incident.message


@pytest.mark.parametrize(
    ("decades", "pace", "loss", "begins"),
    [
        (3.5, 1e-6, 0.99, [4]),  # SGD: the first layers do not move
        (3.5, 1e-2, 0.99, []),  # Adam: they do, and the loss falls
        (3.5, 1e-2, 1.0, [63]),  # they do, and nothing comes of it
        (6.0, 1e-2, 0.99, [4]),  # too little is left to make up for
    ],
)
def test_a_fade_that_the_optimizer_makes_up_for_gets_time(decades, pace, loss, begins):
    """A few decades are no fault where every layer moves as usual all the same, and the loss does not stand still."""
    norms = fading(10 ** (-decades / 7))
    records = [
        make(t, norms, loss=loss**t, update_ratio=np.full(16, pace) if t % 10 == 0 else None) for t in range(120)
    ]
    told = watch(records, [VanishingDetector()])
    assert [incident.step for incident in told] == begins
    assert all(incident.kind == "vanishing" for incident in told)


def test_a_fade_is_measured_from_the_last_layer_with_a_signal():
    """A last layer without any signal is nothing to hold the others against, in neither direction."""
    norms = np.where(np.arange(16) > 13, 0.0, fading(0.1))
    (incident,) = watch(make(t, norms) for t in range(50))
    assert incident.evidence["last"] == "fc6"
    assert incident.evidence["ratio"] == pytest.approx(1e-6)
    (incident,) = watch(make(t, np.where(np.arange(16) > 13, 0.0, fading(10.0))) for t in range(50))
    assert (incident.kind, incident.evidence["last"]) == ("exploding", "fc6")
    assert "fc0 receives 1,000,000 times what fc6 does" in incident.message


def test_zero_is_found_where_it_persists():
    """A front that never receives a gradient is found; an absent one is not."""
    front = np.arange(16) < 6
    (incident,) = watch(make(t, np.where(front, 0.0, 1.0)) for t in range(50))
    assert (incident.kind, incident.step, incident.layers) == ("vanishing", 4, ("fc0", "fc1", "fc2"))
    assert "exactly zero" in incident.message


def test_broken_chain_and_weak_middle_are_found():
    """A step in the profile, and a middle layer far below those around it, are found where they last."""
    (step,) = watch(make(t, np.where(np.arange(16) < 8, 1e-5, 1.0)) for t in range(50))
    assert (step.evidence["rule"], len(step.layers)) == ("gap", 4)
    (middle,) = watch(make(t, np.where(np.arange(16) // 2 == 3, 1e-5, 1.0)) for t in range(50))
    assert (middle.evidence["rule"], middle.layers) == ("notch", ("fc3",))
    assert "fc3 receives 1/100,000 of what" in middle.message


def test_a_middle_layer_that_falls_silent_is_found():
    """A layer that had a signal and then has exactly none for long is found."""
    silent = [make(20 + t, np.where(np.arange(16) // 2 == 3, 0.0, 1.0)) for t in range(50)]
    (incident,) = watch(calm(20) + silent)
    assert (incident.evidence["rule"], incident.layers) == ("silent", ("fc3",))


# -------------------------------------------------------------------------------------------------- state and layouts


def stormy():
    """A run with every kind of incident, some of them over and back again."""
    rng = np.random.default_rng(7)
    records = []
    for t in range(240):
        fields = {"loss": float(2.3 + rng.normal(0, 0.1)), "optimizer": t % 2}
        if t % 10 < 2:
            fields |= {"weight_norm": np.full(16, 4.0), "update_ratio": np.full(16, 2.0 if t == 150 else 1e-3)}
        if 60 <= t < 70:
            fields["num_nonfinite"] = bad_at(3)
        if 180 <= t < 230:
            fields["skipped"] = True
        norms = noise(rng) * (100.0 if 40 <= t < 56 else 1.0)
        records.append(make(t, norms * (fading(0.2) if 90 <= t < 120 else 1.0), **fields))
    return records


@pytest.mark.parametrize("cut", [1, 30, 43, 47, 62, 93, 105, 151, 200])
def test_state_round_trip_goes_on_as_if_uninterrupted(cut):
    """Saved, sent through JSON, loaded into new detectors: the rest of the run gives the same, mid-incident too."""
    records = stormy()
    whole, first = default_detectors(), default_detectors()
    expected = [(i.kind, i.step, i.message, dict(i.evidence)) for i in watch(records, whole)]
    got = watch(records[:cut], first)
    second = default_detectors()
    for old, new in zip(first, second, strict=True):
        new.load_state_dict(json.loads(json.dumps(old.state_dict())))
    got += watch(records[cut:], second)
    assert [(i.kind, i.step, i.message, dict(i.evidence)) for i in got] == expected
    assert {kind for kind, *_ in expected} == {"nonfinite", "exploding", "vanishing"}


def test_state_is_plain_data():
    """A state holds only what ``torch.load(weights_only=True)`` takes."""

    def plain(value):
        if isinstance(value, dict):
            return all(type(k) is str and plain(v) for k, v in value.items())
        return all(map(plain, value)) if type(value) is list else type(value) in (str, int, float, bool, type(None))

    detectors = default_detectors()
    watch(stormy(), detectors)
    assert all(plain(detector.state_dict()) for detector in detectors)


@pytest.mark.parametrize("kind", [NonfiniteDetector, ExplodingDetector, VanishingDetector])
@pytest.mark.parametrize("state", [{"0": {"no_such_field": 1}}, {"x": {}}, {"0": 3}])
def test_a_foreign_state_is_refused(kind, state):
    """A state of another version raises StateError and leaves the detector as it was."""
    detector = kind()
    detector.observe(make(0))
    before = json.dumps(detector.state_dict())
    with pytest.raises(StateError, match="not the state"):
        detector.load_state_dict(state)
    assert json.dumps(detector.state_dict()) == before


def test_baselines_follow_the_names():
    """When layers join the optimizer, what is known of the others goes on to count."""
    more = (*mlp(2, prefix="new"), *LAYERS)
    norms = np.array([1.0] * 4 + [500.0 if i == 6 else 1.0 for i in range(16)])
    records = calm(40) + [make(40 + t, np.ones(20), more) for t in range(3)]
    (incident,) = watch(records + [make(43 + t, norms, more) for t in range(5)])
    assert incident.layers == ("fc3.weight",)


@pytest.mark.parametrize("size", [1e3, 1.0, math.nan])
def test_unfreezing_is_no_explosion(size):
    """Layers that join with far larger gradients, and layers that leave, move the usual norm with them."""
    more = (*mlp(2, prefix="new"), *LAYERS)
    joined = [make(40 + t, np.array([size] * 4 + [1.0] * 16), more) for t in range(40)]
    assert watch(calm(40) + joined + calm(40, 1, 80)) == []
    (incident,) = watch(calm(40) + joined + calm(40, 1, 80) + [make(120 + t, 50.0) for t in range(5)])
    assert incident.step == 122


def test_numbers_beyond_float_are_no_error():
    """Norms near the ends of float64 raise neither an error nor a warning."""
    for size in (1e300, 1e-300):
        watch(calm(20) + [make(20 + t, size, total_norm=size) for t in range(5)])
        watch(make(t, 10 ** np.linspace(300, -300, 16) if size > 1 else fading(1e-40)) for t in range(20))
        watch(make(t, size, total_norm=1.7e308) for t in range(40))


def test_optimizers_are_judged_apart():
    """What is usual for one optimizer is an explosion for another."""
    rng = np.random.default_rng(0)
    records = [make(t, noise(rng, 0.2) * (1e5 if t % 2 else 1.0), optimizer=t % 2) for t in range(80)]
    assert watch(records) == []
    (incident,) = watch(records + [make(80 + t, 1e5, optimizer=0) for t in range(5)])
    assert (incident.kind, incident.optimizer) == ("exploding", 0)


def test_depth_profile_is_computed_once():
    """Detectors that share the profiles share the work."""
    depth, record = DepthProfiles(), make(0)
    assert depth.of(record) is depth.of(record)
    assert depth.of(record).modules == tuple(f"fc{i}" for i in range(8))


def test_depth_profile_follows_gradients_that_come_and_go():
    """Whatever was absent at the step before, a step's profile is that of its own gradients."""
    depth, rng = DepthProfiles(), np.random.default_rng(0)
    patterns = [np.arange(16) < 4, np.arange(16) % 2 == 0, np.arange(16) < 0, np.arange(16) >= 0]
    for t in range(40):
        record = make(t, np.where(patterns[t // 2 % 4], math.nan, np.where(rng.random(16) < 0.1, 0.0, noise(rng))))
        kept, fresh = depth.of(record), DepthProfiles().of(record)
        assert kept.modules == fresh.modules
        assert (kept.fade, kept.level.tolist()) == (fresh.fade, fresh.level.tolist())
    assert depth.of(make(40, np.where(patterns[0], math.nan, 1.0))).modules == tuple(f"fc{i}" for i in range(2, 8))


def test_embeddings_and_norms_are_no_part_of_the_depth_profile():
    """Only modules with a weight matrix of their own tell of the way between layers."""
    layers = (
        Layer("emb.weight", "emb", "Embedding", (100, 16)),
        *mlp(2),
        Layer("norm.weight", "norm", "LayerNorm", (16,)),
    )
    assert DepthProfiles().of(make(0, 1.0, layers)).modules == ("fc0", "fc1")
