"""Gates and attention that no module stands for, against the same by hand; and what looking at them must not do."""

from __future__ import annotations

import contextlib
import gc
import math
import warnings
import weakref
from itertools import pairwise

import pytest
import torch
from faults import kinds, reads_well, train
from helpers import copies, quiet_watch
from test_probe import row_of, run, seen
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gradwatch._probes import hidden_activations
from gradwatch._probes.forward import _MAX_CALLS_OF_ONE, ForwardProbe
from gradwatch._probes.hidden_activations import HiddenActivations, gates_of
from gradwatch._probes.schedule import Probes

ALWAYS = Probes(every=1)


def behind(tensor):
    """All that lies on the way back from it."""
    return [*HiddenActivations().behind(tensor)]


# ------------------------------------------------------------------------------------------------------ gates by hand


class Gated(nn.Module):
    """A gate, a content and a choice by hand: no module is given what any of them gives."""

    def __init__(self, size: int = 64, classes: int = 10, *, gate: float = 0.0) -> None:
        super().__init__()
        self.gate, self.content, self.choice = (nn.Linear(size, 16) for _ in range(3))
        self.head = nn.Linear(16, classes)
        self.gate.bias.data += gate

    def parts(self, x):
        """What each of the three gives."""
        return torch.sigmoid(self.gate(x)), torch.tanh(self.content(x)), torch.softmax(self.choice(x), -1)

    def forward(self, x):
        gate, content, choice = self.parts(x)
        return self.head(gate * content + choice)


def test_gates_by_hand_are_what_they_are():
    """Each is one row, and the share of it at the flat ends is that of the same values computed by hand."""
    model, x = Gated(7), torch.randn(12, 7)
    for layer, times in ((model.gate, 12), (model.content, 6), (model.choice, 30)):
        layer.weight.data *= times
    found = seen(model, lambda: run(model, x))
    assert sorted(kind for kind in found.kinds if kind != "Linear") == ["Sigmoid", "Softmax", "Tanh"]
    gate, content, choice = (part.detach() for part in model.parts(x))
    shares = {
        "Sigmoid": gate * (1 - gate) < 0.025 / 4,
        "Tanh": 1 - content**2 < 0.025,
        "Softmax": choice.amax(-1) > 0.99,
    }
    for kind, flat in shares.items():
        row = row_of(found, "choice", kind)
        assert 0 < float(flat.float().mean()) < 1, "otherwise it compares nothing"
        assert row["saturated_share"] == pytest.approx(float(flat.float().mean()), abs=1e-6)
    assert row_of(found, "choice", "Sigmoid")["out_mean"] == pytest.approx(float(gate.mean()), rel=1e-5)


class Late(nn.Module):
    """A gate behind the last layer: only what the model itself gives leads back to it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        return torch.sigmoid(self.a(x)) * self.b(x)


def test_a_gate_behind_the_last_layer():
    """It is seen too, as one that no layer follows."""
    model = Late()
    found = seen(model, lambda: run(model, torch.randn(5, 4)))
    assert found.kinds == ("Linear", "Linear", "Sigmoid")


def test_what_a_module_is_given_is_one_row_and_not_two():
    """An activation that is seen otherwise is not found once more on the way back."""
    model = nn.Sequential(
        nn.Linear(4, 6),
        nn.Sigmoid(),
        nn.Unflatten(1, (2, 3)),
        nn.Flatten(),
        nn.Linear(6, 3),
        nn.Tanh(),
        nn.Linear(3, 2),
    )
    found = seen(model, lambda: run(model, torch.randn(6, 4)))
    assert found.kinds == ("Linear", "Sigmoid", "Linear", "Tanh", "Linear")


@pytest.mark.parametrize("dim", range(-3, 3))
def test_the_choices_of_a_softmax_lie_along_its_own_dimension(dim):
    """Counted from either end, they are moved to the last one, and sum up to 1 there."""
    scores = torch.randn(2, 3, 4, requires_grad=True)
    ((kind, chances),) = behind(torch.softmax(scores * 3, dim) * 2)
    assert kind == "Softmax"
    assert torch.equal(chances, torch.softmax(scores * 3, dim).detach().movedim(dim, -1))


def test_a_shut_gate_by_hand_is_told():
    """A gate that lets next to nothing pass, and a model that learns nothing by it; with open gates all is well."""
    watch = train(Shut(-9.0), 100)
    assert kinds(watch) == ["saturation"]
    (incident,) = watch.incidents
    assert incident.evidence["activation_kind"] == "Sigmoid"
    reads_well(incident)
    assert kinds(train(Shut(0.0), 100)) == []


class Shut(nn.Module):
    """Nothing comes past its gate."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.content, self.gate, self.head = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 10)
        self.gate.bias.data += bias

    def forward(self, x):
        return self.head(self.content(x).relu() * torch.sigmoid(self.gate(x)))


# ---------------------------------------------------------------------------------------------------------- attention


def by_hand(query, key, *, causal=False, scale=None):
    """What each query gives to every key, by the book."""
    scores = query @ key.transpose(-1, -2) * (scale or 1 / math.sqrt(query.shape[-1]))
    if causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:]).tril().bool(), -torch.inf)
    return scores.softmax(-1).detach()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scale", [None, 0.2])
@pytest.mark.parametrize(("queries", "keys"), [(6, 6), (6, 4), (3, 6)])
def test_the_chances_of_fused_attention(causal, scale, queries, keys):
    """Those of the last query of each head, to 1e-5 of a softmax by hand; of the keys that it sees."""
    query, key = 3 * torch.randn(2, 3, queries, 4), torch.randn(2, 3, keys, 4)
    out = functional.scaled_dot_product_attention(
        query.requires_grad_(), key, torch.randn(2, 3, keys, 5)[..., :4], is_causal=causal, scale=scale
    )
    ((kind, chances),) = behind(out)
    expected = by_hand(query, key, causal=causal, scale=scale)[..., -1, :].flatten(0, 1)
    assert kind == "Softmax"
    torch.testing.assert_close(chances, expected[:, : chances.shape[1]], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(chances.sum(1), torch.ones(6))


def test_masked_attention_is_not_looked_at():
    """What the mask hides would count; nor are heads looked at that share their keys."""
    query, key = torch.randn(2, 4, 5, 4, requires_grad=True), torch.randn(2, 4, 5, 4)
    attend = functional.scaled_dot_product_attention
    assert len(behind(attend(query, key, key))) == 1
    for mask in (torch.zeros(5, 5), torch.ones(5, 5).tril().bool()):
        assert behind(attend(query, key, key, attn_mask=mask)) == []
    assert behind(attend(query, key[:, :2], key[:, :2], enable_gqa=True)) == []


class Attentive(nn.Module):
    """Attention over the lines of a digit by torch's own module."""

    def __init__(self, *, need_weights: bool, sure: float = 1.0) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16 * 8, 10)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.attention.in_proj_weight.data[:32] *= sure
        self.need_weights = need_weights

    def forward(self, x):
        h = self.embed(x.reshape(-1, 8, 8))
        return self.head(self.attention(h, h, h, need_weights=self.need_weights)[0].flatten(1))


@pytest.mark.parametrize("need_weights", [True, False])
def test_torchs_own_attention_is_seen(need_weights):
    """One softmax behind the module; as many of its rows are sure as of the weights that the module gives."""
    model, x = Attentive(need_weights=need_weights, sure=5.0), torch.randn(16, 64)
    found = seen(model, lambda: run(model, x))
    assert found.kinds == ("Linear", "MultiheadAttention", "Softmax", "Linear")
    h = model.embed(x.reshape(-1, 8, 8))
    weights = model.attention(h, h, h, average_attn_weights=False)[1]
    weights = weights if need_weights else weights[:, :, -1]  # the fused kernel is asked for its last query
    sure = float((weights.amax(-1) > 0.99).float().mean())
    assert 0 < sure < 1, "otherwise it compares nothing"
    assert row_of(found, "attention", "Softmax")["saturated_share"] == pytest.approx(sure, abs=0.02)


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_that_is_sure_from_the_start_is_told(need_weights):
    """Scores far too large, and a run that hardly learns by them; as initialised it is left alone."""
    sick = Attentive(need_weights=need_weights, sure=30.0)
    sick.head.weight.data *= 0.02
    sick.requires_grad_(requires_grad=False)
    sick.attention.requires_grad_()
    watch = train(sick, 120)
    assert kinds(watch)[:1] == ["saturation"]
    incident = watch.incidents[0]
    assert (incident.layers[0], incident.causes[0].name) == ("attention", "unscaled_logits")
    reads_well(incident)
    assert "saturation" not in kinds(train(Attentive(need_weights=need_weights), 120))


# ---------------------------------------------------------------------------------------------------- recurrent layers

SAMPLES, STEPS, GIVEN, HIDDEN = 3, 7, 5, 4


def gates_by_hand(module, x):
    """The gates of every step but the first, by the book: ``[(steps - 1) * samples, ...]`` each; time comes first."""
    h = c = torch.zeros(x.shape[1], HIDDEN)
    found = []
    for given in x:
        a, b = given @ module.weight_ih_l0.T, h @ module.weight_hh_l0.T
        if module.bias:
            a, b = a + module.bias_ih_l0, b + module.bias_hh_l0
        if module.mode == "GRU":
            (ar, az, an), (br, bz, bn) = a.chunk(3, -1), b.chunk(3, -1)
            r, z = (ar + br).sigmoid(), (az + bz).sigmoid()
            n = (an + r * bn).tanh()
            found.append([("Sigmoid", torch.cat((r, z), -1)), ("Tanh", n), ("Gate", 1 - z)])
            h = (1 - z) * n + z * h
        else:
            i, f, g, o = (a + b).chunk(4, -1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            found.append([("Sigmoid", torch.cat((i, f, o), -1)), ("Tanh", g), ("Gate", i), ("Gate", o)])
            c = f * c + i * g
            h = o * c.tanh()
    return [(parts[0][0], torch.cat([values for _, values in parts])) for parts in zip(*found[1:], strict=True)]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_the_gates_of_fused_recurrent_layers(kind, bias, batch_first):
    """All of them, at every step but the first, to 1e-5 of a recurrence that is unrolled by hand."""
    module = kind(GIVEN, HIDDEN, bias=bias, batch_first=batch_first)
    x = torch.randn(STEPS, SAMPLES, GIVEN)
    given = x.transpose(0, 1) if batch_first else x
    found, expected = gates_of(module, given, module(given)[0]), gates_by_hand(module, x)
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        assert not ours.requires_grad


def test_long_sequences_are_thinned():
    """Some times of some samples: as many whatever the size, each of them one that there is."""
    module, x = nn.LSTM(GIVEN, HIDDEN), torch.randn(100, 30, GIVEN)
    found, expected = gates_of(module, x, module(x)[0]), gates_by_hand(module, x)
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        assert len(ours) <= 2 * hidden_activations._MAX_SAMPLES * hidden_activations._MAX_TIMES
        assert (ours[:, None] - theirs).abs().amax(2).amin(1).max() < 1e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_where_the_states_in_between_are_not_known(kind):
    """Several layers or directions, projections, one step, packed sequences: nothing is worked out, nothing fails."""
    x = torch.randn(STEPS, SAMPLES, GIVEN)
    for options in ({"num_layers": 2}, {"bidirectional": True}):
        module = kind(GIVEN, HIDDEN, **options)
        assert gates_of(module, x, module(x)[0]) == []
    module = kind(GIVEN, HIDDEN)
    assert gates_of(module, x[:1], module(x[:1])[0]) == []
    assert gates_of(module, x[:, 0], module(x[:, 0])[0]) == []
    assert gates_of(module, None, module(x)[0]) == []
    packed = nn.utils.rnn.pack_padded_sequence(x, [STEPS] * SAMPLES)
    model = nn.ModuleList([nn.Linear(2, 2), module, nn.Linear(HIDDEN, 2)])
    found = seen(model, lambda: run(model[2], module(packed)[0].data))
    assert "2" in found.modules
    assert "Gate" not in found.kinds
    projecting = nn.LSTM(GIVEN, HIDDEN, proj_size=2)
    assert gates_of(projecting, x, projecting(x)[0]) == []


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gates_show_once(kind):
    """What was worked out is not found once more in the graph, where torch works without a fused kernel."""
    model = Lines(kind)
    found = seen(model, lambda: run(model, torch.randn(4, 64)))
    gates = ("Gate",) if kind is nn.GRU else ("Gate", "Gate")
    assert found.kinds == (kind.__name__, "Sigmoid", "Tanh", *gates, "Linear")
    assert set(found.modules[1:-1]) == {"rnn"}


class Lines(nn.Module):
    """Reads a digit line by line; the gate at this place of torch's order is shut by its bias."""

    def __init__(self, kind: type[nn.RNNBase], place: int = 0, shut: float = 0.0, *, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 32, batch_first=batch_first), nn.Linear(32, 10)
        self.rnn.bias_ih_l0.data[32 * place : 32 * (place + 1)] += shut

    def forward(self, x):
        x = x.reshape(-1, 8, 8)
        return self.head(self.rnn(x)[0][:, -1] if self.rnn.batch_first else self.rnn(x.transpose(0, 1))[0][-1])


SHUT = {"input gate": (nn.LSTM, 0, -25.0), "output gate": (nn.LSTM, 3, -25.0), "update gate": (nn.GRU, 1, 12.0)}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("gate", SHUT)
def test_a_shut_gate_of_a_fused_layer_is_told(gate, batch_first):
    """Nothing new comes in or out: found with the layer's name, with a remedy for gates; the twin learns in peace."""
    kind, place, shut = SHUT[gate]
    watch = train(Lines(kind, place, shut, batch_first=batch_first), 80)
    assert kinds(watch) == ["saturation"]
    (incident,) = watch.incidents
    assert incident.layers[0] == "rnn"
    assert incident.evidence["activation_kind"] == "Gate"
    assert "is shut" in incident.message
    assert "gates" in incident.causes[0].remedies[0].reason
    reads_well(incident)
    healthy = Lines(kind, batch_first=batch_first)
    assert kinds(train(healthy, 160, optimizer=torch.optim.Adam(healthy.parameters(), 3e-3))) == []


def test_gates_that_are_open_are_no_fault():
    """A forget gate that begins wide open, as Jozefowicz et al. (2015) advise, and more; the run stays silent."""
    model = Lines(nn.LSTM, 1, 25.0)
    assert kinds(train(model, 160, optimizer=torch.optim.Adam(model.parameters(), 3e-3))) == []


# --------------------------------------------------------------------------------------------------------- as a guest


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_gates_are_not_computed_again(reentrant):
    """What was not kept would have to be computed by the user's own code: it runs as often as without a probe."""
    model, counts = Gated(7), []

    def part(x):
        counts.append(1)
        gate, content, choice = model.parts(x)
        return gate * content + choice

    def step():
        x = torch.randn(5, 7, requires_grad=True)
        model.head(checkpoint(part, x, use_reentrant=reentrant)).sum().backward()

    step()
    plain = len(counts)
    found = seen(model, step)
    assert len(counts) == 2 * plain
    assert plain == 2
    assert set(found.kinds) == {"Linear"}


def test_nothing_is_read_through_hooks_of_the_users():
    """Neither gates nor attention: nothing is unpacked before the backward pass does it, on_cpu or by a hook."""
    model, unpacked = Gated(7), []
    query = torch.randn(2, 2, 5, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(1) or t):
        out, attended = model(torch.randn(3, 7)), functional.scaled_dot_product_attention(query, query, query)
    assert behind(out) == behind(attended) == []
    assert unpacked == []
    out.sum().backward()
    assert unpacked
    with torch.autograd.graph.save_on_cpu():
        found = seen(model, lambda: run(model, torch.randn(3, 7)))
    assert set(found.kinds) == {"Linear"}


def test_a_gate_that_was_changed_in_place():
    """It is passed over: whether that is a mistake, the user's backward pass says; the probe does not fail over it."""
    model = Gated(7)

    class Careless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x):
            gate, content, choice = model.parts(x)
            kept = gate + 1
            gate.zero_()
            return model.head(kept * content + choice)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probe = ForwardProbe(careless := Careless())
        probe.arm()
        out = careless(torch.randn(3, 7))
        found = probe.take()
    assert sorted(kind for _, kind, *_ in found.calls if kind != "Linear") == ["Softmax", "Tanh"]
    with pytest.raises(RuntimeError, match="inplace"):
        out.sum().backward()


NETS = {
    "gates by hand": Gated,
    "attention with weights": lambda: Attentive(need_weights=True),
    "fused attention": lambda: Attentive(need_weights=False),
    "lstm": lambda: Lines(nn.LSTM),
    "gru": lambda: Lines(nn.GRU),
}


@pytest.mark.parametrize("net", NETS)
def test_training_is_bit_equal(net):
    """Weights and random numbers after 30 steps that are all looked at."""
    results = []
    for opened in (lambda _: contextlib.nullcontext(), lambda model: quiet_watch(model, probes=ALWAYS)):
        torch.manual_seed(0)
        model = NETS[net]()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3)
        with opened(model) as watch:
            for _ in range(30):
                optimizer.zero_grad()
                functional.cross_entropy(model(torch.randn(8, 64)), torch.randint(10, (8,))).backward()
                optimizer.step()
        results.append([*copies(model.state_dict().values()), torch.get_rng_state()])
    hidden = {"Sigmoid", "Tanh", "Softmax", "Gate"}
    assert all(hidden & set(record.activations.kinds) for record in list(watch.history)[1:])
    for plain, watched in zip(*results, strict=True):
        assert torch.equal(plain, watched)


@pytest.mark.parametrize("net", [net for net in NETS if net != "fused attention"])  # torch takes it apart there
def test_nothing_waits_for_the_device(net):
    """On the meta device every look at a value would raise: gates are worked out and measured there."""
    model = NETS[net]().to("meta")
    probe = ForwardProbe(model)
    probe.arm()
    model(torch.randn(4, 64, device="meta")).sum().backward()
    found = probe.take()
    assert found.values.device.type == "meta"
    assert "saturated_share" in {column for cells in found.places for _, column in cells}


@pytest.mark.parametrize("net", NETS)
def test_half_precision(net):
    """Under autocast, and with bfloat16 weights, nothing fails, and the shares are those of float32 or nearly so."""
    model, x, shares = NETS[net](), torch.randn(8, 64), []
    for dtype in (None, torch.bfloat16):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
            found = seen(model, lambda: run(model, x))
        shares.append([share for share in found.saturated_share.tolist() if not math.isnan(share)])
    assert shares[0]
    assert shares[1] == pytest.approx(shares[0], abs=0.1)
    half = NETS[net]().bfloat16()
    assert any(not math.isnan(share) for share in seen(half, lambda: run(half, x.bfloat16())).saturated_share)


class Marked(torch.autograd.Function):
    """An operation whose node in the graph can be held weakly."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_no_node_of_the_graph_is_kept():
    """When the user lets go of an output its graph is freed, while the walk and the probe go on."""
    hidden, x = HiddenActivations(), torch.randn(4, 3, requires_grad=True)
    out = torch.sigmoid(Marked.apply(x)) * 2
    node = weakref.ref(out.grad_fn.next_functions[0][0].next_functions[0][0])
    assert [kind for kind, _ in hidden.behind(out)] == ["Sigmoid"]
    gc.collect()
    assert node() is not None
    del out
    gc.collect()
    assert node() is None

    model = Gated(7)
    probe = ForwardProbe(model)
    probe.arm()
    out = model(Marked.apply(torch.randn(4, 7, requires_grad=True)))
    walked, nodes = [out.grad_fn], []
    while walked:
        step = walked.pop()
        if step is not None:
            nodes += [weakref.ref(step)] if "Marked" in step.name() else []
            walked += [before for before, _ in step.next_functions]
    del step, out
    gc.collect()
    assert nodes
    assert all(node() is None for node in nodes)
    assert {"Sigmoid", "Tanh", "Softmax"} <= {kind for _, kind, *_ in probe.take().calls}


def long_chain(num):
    """A sigmoid behind so many other operations."""
    out = torch.sigmoid(torch.randn(3, requires_grad=True))
    for _ in range(num):
        out = out + 1
    return out


def test_the_walk_is_bounded(monkeypatch):
    """A graph of any size costs no more than so many nodes; what lies further back is not found."""
    monkeypatch.setattr(hidden_activations, "_MAX_NODES", 100)
    assert len(behind(long_chain(50))) == 1
    hidden = HiddenActivations()
    assert [*hidden.behind(long_chain(500))] == []
    assert len(hidden._passed) == 100
    assert [*hidden.behind(torch.sigmoid(torch.randn(3, requires_grad=True)))] == []


def test_no_operation_is_walked_twice():
    """Each walk ends where an earlier one came by: all walks of a step together see each node once."""
    hidden, parts = HiddenActivations(), [torch.randn(3, requires_grad=True)]
    for _ in range(40):
        parts.append(torch.tanh(parts[-1] + 1))
    sizes, found = [0], 0
    for part in parts:
        found += len([*hidden.behind(part)])
        sizes.append(len(hidden._passed))
    assert found == 40
    assert [after - before for before, after in pairwise(sizes)] == [0] + [2] * 40
    assert [*hidden.behind(parts[-1])] == []


class Loop(nn.Module):
    """A gated cell by hand, over as many steps as are asked for."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.gate, self.content, self.head, self.steps = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), steps

    def forward(self, x):
        h = torch.zeros_like(x)
        for _ in range(self.steps):
            z = torch.sigmoid(self.gate(x + h))
            h = z * h + (1 - z) * torch.tanh(self.content(x + h))
        return self.head(h)


def test_a_cell_by_hand_has_few_rows():
    """However many steps it takes."""
    for steps in (20, 200):
        found = seen(model := Loop(steps), lambda model=model: run(model, torch.randn(3, 4)))
        for kind in ("Sigmoid", "Tanh"):
            assert 1 <= found.kinds.count(kind) <= 2 * _MAX_CALLS_OF_ONE
        assert len(found.kinds) <= 30
