"""The blind corpus, healthy part: unusual nets, losses, optimizers and loops that look ill and are not."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.checkpoint import checkpoint

from zoo import blind_nets as nets
from zoo import data, models, models_seq
from zoo.blind_nets import before_stepping, fit, following
from zoo.core import Batch, LossFn, Registry, Run, Turn
from zoo.recipes import VOCAB, cross_entropy, pretrained

optim = torch.optim
schedulers = torch.optim.lr_scheduler
SCENARIOS = Registry()
add = SCENARIOS.healthy

# ------------------------------------------------------------------------------------------------------------- nets


def maxout(seed: int) -> Run:
    """Maxout units: of three pieces one has a gradient."""

    class Maxout(nn.Module):
        def __init__(self, d_in: int, d_out: int) -> None:
            super().__init__()
            self.pieces = nn.Linear(d_in, 3 * d_out)

        def forward(self, x: Tensor) -> Tensor:
            return self.pieces(x).unflatten(1, (-1, 3)).amax(2)

    model = nn.Sequential(Maxout(64, 32), Maxout(32, 32), nn.Linear(32, 10))
    return fit(seed, model, optim.Adamax, 5e-3)


def selu(seed: int, depth: int) -> Run:
    """A self-normalising net with alpha dropout."""
    layers: list[nn.Module] = []
    for i in range(depth):
        linear = nn.Linear(64 if i == 0 else 40, 40)
        nn.init.kaiming_normal_(linear.weight, nonlinearity="linear")
        layers += [linear, nn.SELU(), nn.AlphaDropout(0.05)]
    return fit(seed, nn.Sequential(*layers, nn.Linear(40, 10)), optim.SGD, 0.02, momentum=0.9, nesterov=True)


def relu6_inplace(seed: int) -> Run:
    """In-place activations."""
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU6(inplace=True), nn.Linear(64, 64), nn.Hardswish(inplace=True), nn.Linear(64, 10)
    )
    return fit(seed, model, optim.RAdam, 5e-3)


class Induced(nn.Module):
    """A set transformer's induced attention and pooling by attention to one seed."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.inlet = nn.Linear(2, width)
        self.points = nn.Parameter(0.5 * torch.randn(1, 6, width))
        self.seed = nn.Parameter(0.5 * torch.randn(1, 1, width))
        self.inward, self.outward, self.pool = (nn.MultiheadAttention(width, 2, batch_first=True) for _ in range(3))
        self.wide, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.gelu(self.inlet(x))
        points = self.points.expand(len(x), -1, -1)
        h = self.inward(points, x, x, need_weights=False)[0]
        x = x + self.outward(x, h, h, need_weights=False)[0]
        x = x + functional.gelu(self.wide(x))
        return self.head(self.pool(self.seed.expand(len(x), -1, -1), x, x, need_weights=False)[0][:, 0])


class Balanced(nn.Module):
    """A deep equilibrium model, unrolled: one layer is iterated on a state that the input feeds."""

    def __init__(self, turns: int = 20, width: int = 32) -> None:
        super().__init__()
        self.feed, self.again, self.head = (
            nn.Linear(64, width),
            nn.Linear(width, width, bias=False),
            nn.Linear(width, 10),
        )
        nn.init.orthogonal_(self.again.weight, 0.7)
        self.turns = turns

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = fed = self.feed(x)
        for _ in range(self.turns):
            h = torch.tanh(self.again(h) + fed)
        return self.head(h)


class Checkpointed(nn.Module):
    """Blocks whose activations are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inlet, self.head = nn.Linear(64, 32), nn.Linear(32, 10)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 32), nn.SiLU()) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = self.inlet(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.head(x)


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(64, 20), nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        return functional.linear(functional.elu(self.encoder(x)), self.encoder.weight.T, self.bias)


def rebuilt(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error to the input."""
    return functional.mse_loss(model(batch[0]), batch[0])


add("ok_maxout", "of three pieces one has a gradient", maxout, 120)
add("ok_selu_12_alpha_dropout", "12 layers without normalisation that normalise themselves", selu, 150, depth=12)
add(
    "ok_inplace_activations",
    "activations that overwrite their inputs; ReLU6 and Hardswish have flat ends",
    relu6_inplace,
)
add(
    "ok_highway_carries",
    "transform gates start nearly shut, at bias -3: sigmoids near zero",
    lambda seed: fit(seed, nets.Highway(8, -3.0), optim.NAdam, 3e-3),
    100,
)
add(
    "ok_ode_small_steps",
    "one field used 20 times: tied depth",
    lambda seed: fit(seed, nets.Field(20, 0.05), optim.RAdam, 5e-3),
    100,
)
add(
    "ok_deep_equilibrium",
    "a tied layer iterated 20 times towards a fixed point",
    lambda seed: fit(seed, Balanced(), optim.SGD, 0.05, momentum=0.9),
    120,
)
add(
    "ok_siren",
    "sine activations over several periods",
    lambda seed: fit(
        seed, nets.Sine(30.0, 4, 40, 1), optim.Adam, 1e-3, loss=nets.value_error, stream=nets.picture(seed)
    ),
    150,
)
add(
    "ok_layer_scale_1e-6",
    "branches multiplied by 1e-6: their gradients are a million times smaller",
    lambda seed: fit(seed, nets.ConvNext(3, 16, 1e-6), optim.AdamW, 1e-2, size=32),
    100,
)
add(
    "ok_mixer_radam",
    "token mixing and RAdam's slow start",
    lambda seed: fit(seed, nets.Mixer(3, 24), optim.RAdam, 5e-3, size=32),
    120,
)
add(
    "ok_squeeze_excite_hardsigmoid",
    "hard gates with flat ends",
    lambda seed: fit(seed, nets.Excited(3, 12, gate="hardsigmoid"), optim.Adam, 5e-3, size=32),
    120,
)
add(
    "ok_dense_concat",
    "concatenations: late layers get little of the gradient",
    lambda seed: fit(seed, nets.Dense(10, 12), optim.SGD, 0.03, momentum=0.9),
)
add(
    "ok_hypernet",
    "weights are outputs; codes are parameters of the top module",
    lambda seed: fit(seed, nets.Hyper(0.25), optim.Adam, 2e-3),
)
add(
    "ok_graph_whole_batch",
    "the same batch at every step, NAdam",
    lambda seed: fit(seed, nets.Graph("mean", 2), optim.NAdam, 1e-2, stream=nets.whole_graph()),
)
add(
    "ok_point_clouds_max",
    "a maximum over points: most of them have no gradient",
    lambda seed: fit(seed, nets.Points(), optim.Adam, 5e-3, stream=nets.clouds(32, seed)),
)
add(
    "ok_set_transformer",
    "learned seeds and induced points as bare parameters",
    lambda seed: fit(seed, Induced(), optim.Adam, 5e-3, stream=nets.clouds(32, seed)),
)
add(
    "ok_tcn_weight_norm",
    "directions' gradients are orthogonal to the weights",
    lambda seed: fit(seed, nets.Causal(5, 16), optim.Adam, 3e-3, loss=nets.next_value, stream=nets.series(32, seed)),
    120,
)
add(
    "ok_conv_lstm",
    "hand-written gates over films",
    lambda seed: fit(seed, nets.Film(), optim.Adam, 1e-2, stream=nets.dots(24, seed)),
)
add(
    "ok_tagging_bigru",
    "the loss falls below 1e-3 and everything with it",
    lambda seed: fit(seed, nets.Listener(3, 3), optim.NAdam, 1e-2, stream=nets.tagged(32, seed)),
)
add(
    "ok_translation",
    "attention that becomes sharp; teacher forcing",
    lambda seed: fit(seed, nets.Translator(), optim.Adam, 8e-3, loss=nets.translate, stream=nets.reversal(48, seed)),
    200,
)
add(
    "ok_made_masks",
    "more than half of all weights never have a gradient, by masks; Adadelta at 1",
    lambda seed: fit(seed, nets.autoregressive(), optim.Adadelta, 1.0, loss=nets.next_pixels),
)
add("ok_checkpointing", "the forward pass runs twice", lambda seed: fit(seed, Checkpointed(), optim.AdamW, 3e-3))
add(
    "ok_tied_autoencoder",
    "one weight used in both directions",
    lambda seed: fit(seed, Tied(), optim.SGD, 0.3, momentum=0.9, loss=rebuilt),
)
add(
    "ok_vector_quantised",
    "straight-through; codes that nobody chose have zero gradients",
    lambda seed: fit(seed, nets.Coded(through=True), optim.Adam, 3e-3, loss=nets.coded_loss),
)
add(
    "ok_switch_of_12",
    "12 experts for batches of 16: some rarely chosen",
    lambda seed: fit(seed, nets.Switch(weighted=True, experts=12), optim.AdamW, 3e-3, size=16),
    200,
)

# ----------------------------------------------------------------------------------------------------------- losses


def binned(seed: int) -> Run:
    """Ordinal regression: cumulative logits over four ordered bins."""
    x, y = data.table("diabetes")
    bins = torch.bucketize(y, torch.tensor([-0.7, 0.0, 0.8]))
    model = nn.Sequential(nn.Linear(10, 24), nn.Softplus(), nn.Linear(24, 1, bias=False))
    model.cuts = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        beyond = (batch[1][:, None] > torch.arange(3)).float()
        return functional.binary_cross_entropy_with_logits(model(batch[0]) - model.cuts, beyond)

    return fit(seed, model, optim.RMSprop, 3e-3, loss=loss, stream=data.batches(x, bins, 32, seed))


def on_diabetes(seed: int, kind: str) -> Run:
    """Quantiles, or a Gamma likelihood of the positive raw target, both of diabetes."""
    x, y = data.table("diabetes")
    model = models.Stack([10, 32, 3 if kind == "quantile" else 2], "silu")
    levels = torch.tensor([0.05, 0.5, 0.95])

    def quantile(model: nn.Module, batch: Batch) -> Tensor:
        gap = batch[1][:, None] - model(batch[0])
        return torch.maximum(levels * gap, (levels - 1) * gap).mean()

    def gamma(model: nn.Module, batch: Batch) -> Tensor:
        shape, rate = (functional.softplus(model(batch[0])) + 1e-3).unbind(1)
        return -torch.distributions.Gamma(shape, rate).log_prob(batch[1]).mean()

    stream = data.batches(x, y if kind == "quantile" else (77 * y + 152) / 50, 32, seed)
    return fit(seed, model, optim.Adam, 5e-3, loss=quantile if kind == "quantile" else gamma, stream=stream)


def focal(model: nn.Module, batch: Batch) -> Tensor:
    """Focal loss, gamma 3: easy samples have no gradient."""
    log = model(batch[0]).log_softmax(1)[torch.arange(len(batch[1])), batch[1]]
    return -((1 - log.exp()).pow(3) * log).mean()


def hinge(model: nn.Module, batch: Batch) -> Tensor:
    """Multi-class squared hinge: exactly zero for samples beyond the margin."""
    return functional.multi_margin_loss(model(batch[0]), batch[1], p=2)


def many_labels(seed: int) -> Run:
    """25 yes-or-no labels, many of them rare: the loss is small from early on."""
    x, y = data.digits()
    model = nn.Sequential(nn.Linear(64, 64), nn.Mish(), nn.Linear(64, 25))
    nn.init.constant_(model[2].bias, -3.0)
    facts = functional.one_hot(y, 10).float()
    facts = torch.cat([facts, (facts[:, :5] + facts[:, 5:]), facts * (x.sum(1, keepdim=True) > 20)], 1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy_with_logits(model(batch[0]), batch[1])

    return fit(seed, model, optim.NAdam, 3e-3, loss=loss, stream=data.batches(x, facts, 32, seed))


def triplets(seed: int) -> Run:
    """Triplets with a margin of 0.3: soon most of them are satisfied and give nothing."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        z = functional.normalize(model(batch[0]))
        gaps = (z[:, None] - z[None]).square().sum(2)
        same = batch[1][:, None] == batch[1][None]
        return functional.relu(gaps[:, :, None] - gaps[:, None] + 0.3)[same[:, :, None] & ~same[:, None]].mean()

    return fit(seed, models.Stack([64, 48, 16], "gelu"), optim.Adam, 3e-3, loss=loss, size=40)


def prototypes(seed: int) -> Run:
    """Few-shot episodes: classes by their distance to the means of three examples each; a new task at every step."""
    x, y = data.digits()
    generator = data.rng(seed, 41)
    members = [(y == c).nonzero()[:, 0] for c in range(10)]

    def episodes() -> Iterator[Batch]:
        while True:
            ways = torch.randperm(10, generator=generator)[:4]
            rows = [members[int(c)][torch.randint(0, len(members[int(c)]), (8,), generator=generator)] for c in ways]
            yield x[torch.stack(rows)], ways

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        z = model(batch[0].flatten(0, 1)).view(4, 8, -1)
        far = torch.cdist(z[:, 3:].flatten(0, 1), z[:, :3].mean(1)).square()
        return functional.cross_entropy(-far, torch.arange(4).repeat_interleave(5))

    return fit(seed, models.Stack([64, 48, 12]), optim.Adam, 2e-3, loss=loss, stream=episodes())


add(
    "ok_ctc",
    "a loss of 15 that falls to a long plateau of blanks first",
    lambda seed: fit(
        seed, nets.Listener(8, 11), optim.Adam, 1e-2, loss=nets.ctc(forgiving=False), stream=nets.spoken(16, seed)
    ),
)
add("ok_ordinal", "thresholds as bare parameters", binned)
add("ok_quantiles", "gradients of constant size: signs only", on_diabetes, 200, kind="quantile")
add("ok_gamma_likelihood", "lgamma and positive parameters", on_diabetes, 150, kind="gamma")
add(
    "ok_focal_3",
    "easy samples have no gradient",
    lambda seed: fit(seed, models.Stack([64, 64, 10], "elu"), optim.Adam, 3e-3, loss=focal),
)
add(
    "ok_squared_hinge",
    "exactly zero gradients for most samples in the end",
    lambda seed: fit(seed, models.Stack([64, 96, 10]), optim.Adam, 5e-3, loss=hinge, size=16),
    300,
)
add("ok_many_rare_labels", "a loss that is small at once, a prior bias of -3 at the output", many_labels, 200)
add("ok_triplets_satisfied", "most triplets give no gradient in the end", triplets, 150)
add("ok_prototypes", "a new task at every step", prototypes, 200)
add(
    "ok_dice",
    "an overlap loss on noisy images",
    lambda seed: fit(seed, nets.Segmenter(8), optim.SGD, 0.3, momentum=0.9, loss=nets.dice, size=32),
    100,
)

# --------------------------------------------------------------------------------- generative, self-supervised, games


def energy(seed: int) -> Run:
    """An energy model by short Langevin chains: the loss hovers about zero and is no measure of progress."""
    model = nn.Sequential(nn.Linear(2, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        fake = batch[0] + 0.8 * torch.randn_like(batch[0])
        for _ in range(5):
            fake = fake.detach().requires_grad_()
            (slope,) = torch.autograd.grad(model(fake).sum(), fake)
            fake = fake - 0.05 * slope + 0.05 * torch.randn_like(fake)
        real, made = model(batch[0]), model(fake.detach())
        return real.mean() - made.mean() + 0.1 * (real.square() + made.square()).mean() + 1.0

    return fit(seed, model, optim.Adam, 2e-3, loss=loss, stream=nets.moons(64, seed))


class Own(nn.Module):
    """A net, a predictor and a slow copy, as in BYOL."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 16))
        self.predict = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)


def own_latent(seed: int) -> Run:
    """BYOL on noisy digits."""
    model = Own()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        a, b = (batch[0] + 0.2 * torch.randn_like(batch[0]) for _ in range(2))
        with torch.no_grad():
            goal = model.target(b)
        return 2 - 2 * functional.cosine_similarity(model.predict(model.online(a)), goal).mean()

    run = fit(seed, model, optim.Adam, 3e-3, loss=loss)

    def follow(step: int) -> None:
        with torch.no_grad():
            for slow, fast in zip(model.target.parameters(), model.online.parameters(), strict=True):
                slow.lerp_(fast, 0.02)

    run.before_step = follow
    return run


def least_squares_gan(seed: int) -> Run:
    """A least-squares GAN on moons with a spectrally normalised critic; two moves of the critic for one."""
    model = nn.Module()
    model.maker = nn.Sequential(nn.Linear(4, 48), nn.SiLU(), nn.Linear(48, 2))
    model.critic = nn.Sequential(spectral_norm(nn.Linear(2, 48)), nn.LeakyReLU(0.2), spectral_norm(nn.Linear(48, 1)))
    one, two = (optim.NAdam(part.parameters(), 2e-3) for part in (model.critic, model.maker))

    def judge(model: nn.Module, batch: Batch) -> Tensor:
        fake = model.maker(torch.randn(len(batch[0]), 4)).detach()
        return (model.critic(batch[0]) - 1).square().mean() + model.critic(fake).square().mean()

    def make(model: nn.Module, batch: Batch) -> Tensor:
        return (model.critic(model.maker(torch.randn(len(batch[0]), 4))) - 1).square().mean()

    turns = (Turn(one, judge), Turn(one, judge), Turn(two, make))
    return Run(model, one, nets.moons(64, seed), judge, turns=turns)


def taught(seed: int) -> Run:
    """A small student of a trained teacher's logits at temperature 4."""
    model = nn.Module()
    model.teacher = pretrained(models.Stack([64, 96, 10]), seed, 100).requires_grad_(requires_grad=False)
    model.student = models.Stack([64, 16, 10])

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            goal = (model.teacher(batch[0]) / 4).log_softmax(1)
        own = (model.student(batch[0]) / 4).log_softmax(1)
        return 16 * functional.kl_div(own, goal, reduction="batchmean", log_target=True)

    return fit(seed, model, optim.Adam, 5e-3, loss=loss)


def proximal(seed: int) -> Run:
    """PPO on a bandit of digits, the critic starts optimistic; the old policy is renewed every four steps."""
    model, kept = nets.Player(), {}
    nn.init.constant_(model.critic.bias, 1.0)
    generator = data.rng(seed, 42)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        if kept.get("left", 0) == 0:
            with torch.no_grad():
                logits, value = model(batch[0])
            action = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            reward = (action == batch[1]).float()
            old = logits.log_softmax(1)[torch.arange(len(action)), action]
            kept.update(x=batch[0], action=action, reward=reward, old=old, gain=reward - value, left=4)
        kept["left"] -= 1
        logits, value = model(kept["x"])
        log = logits.log_softmax(1)
        ratio = (log[torch.arange(len(log)), kept["action"]] - kept["old"]).exp()
        clipped = torch.minimum(ratio * kept["gain"], ratio.clamp(0.8, 1.2) * kept["gain"])
        entropy = -(log.exp() * log).sum(1).mean()
        return 0.5 * (value - kept["reward"]).square().mean() - clipped.mean() - 0.01 * entropy

    return fit(seed, model, optim.Adam, 3e-3, loss=loss, size=128)


def lukewarm(seed: int) -> Run:
    """Gumbel-softmax codes whose temperature falls from 2 to 0.2: they end up one-hot."""
    model = nn.Module()
    model.encoder, model.decoder = models.Stack([64, 48, 40], "silu"), models.Stack([40, 48, 64], "silu")
    heat = [2.0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        code = functional.gumbel_softmax(model.encoder(batch[0]).view(-1, 5, 8), heat[0], dim=-1)
        return functional.mse_loss(model.decoder(code.flatten(1)), batch[0])

    run = fit(seed, model, optim.Adam, 4e-3, loss=loss)

    def cool(step: int) -> None:
        heat[0] = max(0.2, 2.0 * 0.985**step)

    run.before_step = cool
    return run


class Words(nn.Module):
    """Two tables of character vectors with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.centre, self.around = nn.Embedding(VOCAB, 12, sparse=True), nn.Embedding(VOCAB, 12, sparse=True)
        nn.init.normal_(self.centre.weight, std=0.3)
        nn.init.normal_(self.around.weight, std=0.3)


def skip_gram(seed: int) -> Run:
    """Skip-gram with negative sampling over characters, SparseAdam."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        centre = model.centre(batch[0].flatten())
        near = (centre * model.around(batch[1].flatten())).sum(1)
        far = (centre * model.around(torch.randint(0, VOCAB, (len(centre),)))).sum(1)
        return functional.softplus(-near).mean() + functional.softplus(far).mean()

    return fit(seed, Words(), optim.SparseAdam, 1e-2, loss=loss, stream=data.windows(16, 16, seed))


add(
    "ok_flow_identity_start",
    "last layers start at zero; the loss turns negative for tight data",
    lambda seed: fit(
        seed, nets.Flow(), optim.Adam, 5e-3, loss=nets.flow_loss, stream=((0.3 * x, y) for x, y in nets.moons(96, seed))
    ),
    150,
)
add("ok_energy_model", "a loss that hovers and means little; inner gradients by autograd.grad", energy, 200, "bounded")
add("ok_byol", "a copy without gradients, a loss without negatives", own_latent, 150)
add("ok_least_squares_gan", "two moves of the critic for one of the generator", least_squares_gan, 300, "bounded")
add("ok_distillation", "a frozen teacher inside the model, losses times 16", taught, 150)
add("ok_proximal_policy", "clipped ratios give no gradient; the loss changes its sign", proximal, 240, "bounded")
add("ok_gumbel_cooling", "codes become one-hot as the temperature falls", lukewarm, 200)
add("ok_skip_gram_sparse", "sparse gradients of two tables, SparseAdam", skip_gram, 150)
add(
    "ok_poisson_equation",
    "second derivatives: the graph is differentiated twice",
    lambda seed: fit(
        seed, nets.Harmonic(radial=False), optim.Adam, 5e-3, loss=nets.poisson_equation, stream=nets.disc(48, seed)
    ),
)
add(
    "ok_maml",
    "gradients through gradients, functional calls",
    lambda seed: fit(seed, nets.Learner(0.05), optim.Adam, 5e-3, loss=nets.maml, stream=nets.sines(4, seed)),
    90,
)

# --------------------------------------------------------------------------------------------- optimizers and loops


def sharpness_aware(seed: int) -> Run:
    """SAM by hand: the gradient is taken at weights that were moved uphill."""
    model = models.Stack([64, 64, 10], "gelu")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        weights = dict(model.named_parameters())
        slopes = torch.autograd.grad(cross_entropy(model, batch), list(weights.values()))
        norm = torch.stack([g.norm() for g in slopes]).norm() + 1e-12
        moved = {k: w + 0.05 * g / norm for (k, w), g in zip(weights.items(), slopes, strict=True)}
        return functional.cross_entropy(torch.func.functional_call(model, moved, (batch[0],)), batch[1])

    return fit(seed, model, optim.SGD, 0.05, momentum=0.9, loss=loss)


def grads_changed(seed: int, how: str) -> Run:
    """Gradient noise that fades, centralised gradients, or values clipped at 1e-3, right before the step."""
    model = models.Stack([64, 64, 48, 10], "silu")
    run = fit(seed, model, optim.SGD, 0.05 if how != "clip" else 0.5, momentum=0.9)
    step = [0]

    def change() -> None:
        step[0] += 1
        for p in model.parameters():
            if how == "noise":
                p.grad.add_(torch.randn_like(p), alpha=0.05 / (1 + step[0]) ** 0.55)
            elif how == "centre" and p.dim() > 1:
                p.grad.sub_(p.grad.mean(1, keepdim=True))
            elif how == "clip":
                p.grad.clamp_(-1e-3, 1e-3)

    return before_stepping(run, change)


def weight_averaging(seed: int) -> Run:
    """SWA: from step 100 on the rate rises again, to five times what it was by then, and an average is kept aside."""
    model = nets.Excited(2, 10)
    run = fit(seed, model, optim.SGD, 0.05, momentum=0.9, size=32)
    averaged = torch.optim.swa_utils.AveragedModel(model)

    def act(step: int) -> None:
        rate = 0.05 * (1 - 0.9 * step / 100) if step < 100 else 0.025
        run.optimizer.param_groups[0]["lr"] = rate
        if step >= 100:
            averaged.update_parameters(model)

    run.before_step = act
    return run


def looking_ahead(seed: int) -> Run:
    """Lookahead by hand: every six steps the weights jump back half of the way."""
    model = models.Stack([64, 64, 10], "elu")
    run = fit(seed, model, optim.RMSprop, 3e-3)
    slow = [p.detach().clone() for p in model.parameters()]

    def look(step: int) -> None:
        if step and step % 6 == 0:
            with torch.no_grad():
                for p, s in zip(model.parameters(), slow, strict=True):
                    p.copy_(s.lerp_(p, 0.5))

    run.before_step = look
    return run


def scaled_by_hand(seed: int) -> Run:
    """The loss is multiplied by 65536 and the gradients are divided by as much before the step."""
    model = nets.Mixer(2, 20)
    run = fit(seed, model, optim.AdamW, 3e-3, size=32, loss=lambda model, batch: 65536.0 * cross_entropy(model, batch))

    def unscale() -> None:
        for p in model.parameters():
            p.grad.div_(65536.0)

    return before_stepping(run, unscale)


def resilient(seed: int) -> Run:
    """Rprop on all data at once: only signs of gradients count."""
    x, y = data.table("wine")
    return fit(seed, models.Stack([13, 24, 3], "softsign"), optim.Rprop, 1e-2, stream=data.batches(x, y, len(x), seed))


def scheduled(seed: int, how: str) -> Run:
    """A stack under one of torch's schedules."""
    run = fit(
        seed,
        nn.Sequential(nn.Linear(64, 64), nn.PReLU(), nn.Linear(64, 48), nn.PReLU(), nn.Linear(48, 10)),
        optim.SGD,
        0.05,
        momentum=0.9,
    )
    kinds: dict[str, Any] = {
        "one_cycle": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=181),
        "restarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 30, 2),
        "polynomial": lambda o: schedulers.PolynomialLR(o, 150, 2.0),
        "exponential": lambda o: schedulers.ExponentialLR(o, 0.985),
    }
    return following(run, kinds[how](run.optimizer))


def plateaus(seed: int) -> Run:
    """The rate is cut by ten when the loss stays, which it does once it is near zero."""
    x, y = data.table("breast_cancer")
    seen: list[float] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out = cross_entropy(model, batch)
        seen.append(float(out.detach()))
        return out

    run = fit(seed, models.Stack([30, 32, 2], "silu"), optim.Adam, 1e-2, loss=loss, stream=data.batches(x, y, 64, seed))
    scheduler = schedulers.ReduceLROnPlateau(run.optimizer, patience=25)
    run.before_step = lambda step: scheduler.step(seen[-1]) if step else None
    return run


def groups(seed: int) -> Run:
    """Rates of 1e-5, 1e-3 and 1e-2 for the parts of a net whose first part was trained before."""
    model = pretrained(models.Stack([64, 64, 48, 10]), seed, 80)
    model.linears[2].reset_parameters()
    run = fit(seed, model, optim.AdamW, 1e-3)
    rates = (1e-5, 1e-3, 1e-2)
    parts = [{"params": linear.parameters(), "lr": lr} for linear, lr in zip(model.linears, rates, strict=True)]
    run.optimizer = optim.AdamW(parts, weight_decay=0.05)
    return run


def pruned(seed: int) -> Run:
    """At step 80 seven tenths of the weights are set to zero and kept there."""
    model = models.Stack([64, 96, 64, 10])
    run = fit(seed, model, optim.SGD, 0.1, momentum=0.9)
    masks: list[tuple[Tensor, Tensor]] = []

    def prune(step: int) -> None:
        if step == 80:
            for linear in model.linears:
                size = linear.weight.detach().abs()
                masks.append((linear.weight, size > size.flatten().kthvalue(int(0.7 * size.numel())).values))
        with torch.no_grad():
            for weight, mask in masks:
                weight.mul_(mask)

    run.before_step = prune
    return run


def one_batch(seed: int) -> Run:
    """The usual sanity check: one batch is learnt by heart, until nothing is left."""
    batch = next(data.batches(*data.digits(), 32, seed))

    def same() -> Iterator[Batch]:
        while True:
            yield batch

    return fit(seed, models.Stack([64, 96, 10], "tanh"), optim.Adam, 1e-2, stream=same())


def carried(seed: int) -> Run:
    """Truncated backpropagation: a GRU's state is carried from chunk to chunk, detached."""
    model = models_seq.Fused("gru", 16, 40, VOCAB, vocab=VOCAB, every=True)
    letters, _ = data.text()
    rows = letters[: 16 * 6000].view(16, 6000)
    state: list[Tensor | None] = [None]

    def chunks() -> Iterator[Batch]:
        at = 10 * seed
        while True:
            yield rows[:, at : at + 16], rows[:, at + 1 : at + 17]
            at = (at + 16) % 5900

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        h, last = model.rnn(model.embed(batch[0]), state[0])
        state[0] = last.detach()
        return functional.cross_entropy(model.out(h).flatten(0, 1), batch[1].flatten())

    return fit(seed, model, optim.Adamax, 8e-3, loss=loss, stream=chunks())


def biases_only(seed: int) -> Run:
    """BitFit: a trained net whose weights are frozen adapts to turned images by its biases and its norms."""
    model = models.Stack([64, 96, 64, 10], "gelu", norm="layer")
    pretrained(model, seed, 80)
    for name, p in model.named_parameters():
        p.requires_grad_(name.startswith("norms") or name.endswith("bias"))
    stream = ((0.3 + 0.7 * x.flip(1), y) for x, y in data.batches(*data.digits(), 64, seed))
    return fit(seed, model, optim.Adam, 2e-2, stream=stream)


class Prompted(nn.Module):
    """A frozen trained net with a trainable prompt added to its input."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base, self.prompt = base.requires_grad_(requires_grad=False), nn.Parameter(torch.zeros(64))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.base(x + self.prompt)


def prompted(seed: int) -> Run:
    """Images come with a stripe that the prompt can take away."""
    model = Prompted(pretrained(models.Stack([64, 64, 10]), seed, 120))
    stream = ((x + 2.0 * (torch.arange(64) % 8 == 3), y) for x, y in data.batches(*data.digits(), 64, seed))
    return fit(seed, model, optim.Adam, 3e-2, stream=stream)


def renewed(seed: int) -> Run:
    """The head is drawn anew at step 80, in place, against loss of plasticity: the loss jumps back."""
    model = models.Stack([64, 64, 10], "silu")
    run = fit(seed, model, optim.Adam, 4e-3)

    def renew(step: int) -> None:
        if step == 80:
            model.linears[1].reset_parameters()

    run.before_step = renew
    return run


def twice(seed: int) -> Run:
    """R-drop: each batch passes twice under dropout; outputs must agree."""
    model = models.Stack([64, 96, 10], drop=0.4)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        a, b = model(batch[0]), model(batch[0])
        gap = functional.mse_loss(a.softmax(1), b.softmax(1))
        return 0.5 * (functional.cross_entropy(a, batch[1]) + functional.cross_entropy(b, batch[1])) + 4 * gap

    return fit(seed, model, optim.AdamW, 4e-3, loss=loss)


def mixed_up(seed: int) -> Run:
    """Mixup: the loss has a high and noisy floor."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share = float(torch.rand(()))
        logits = model(share * batch[0] + (1 - share) * batch[0].flip(0))
        return share * functional.cross_entropy(logits, batch[1]) + (1 - share) * functional.cross_entropy(
            logits, batch[1].flip(0)
        )

    return fit(seed, nets.Excited(2, 12), optim.Adam, 5e-3, loss=loss, size=32)


def lognormal(seed: int) -> Run:
    """Features over six decades of which the net itself takes the logarithm."""

    class Logarithmic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = models.Stack([13, 24, 3], "gelu")

        def forward(self, x: Tensor) -> Tensor:
            return self.body(torch.log1p(x) / 4)

    x, y = data.table("wine")
    return fit(seed, Logarithmic(), optim.Adam, 5e-3, stream=data.batches((3 * x + 5).exp(), y, 32, seed))


class Quantised(nn.Module):
    """Training for eight levels: weights are rounded in the forward pass, straight through in the backward one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10)

    @staticmethod
    def coarse(weight: Tensor) -> Tensor:
        """Rounded to multiples of a quarter of the largest."""
        unit = weight.detach().abs().max() / 4
        return weight + ((weight / unit).round() * unit - weight).detach()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        h = functional.relu(functional.linear(x, self.coarse(self.first.weight), self.first.bias))
        return functional.linear(h, self.coarse(self.second.weight), self.second.bias)


def deeply_supervised(seed: int) -> Run:
    """Heads after every block with losses of falling weight; a seldom-used exit in the end."""
    model = nn.Module()
    model.blocks = nn.ModuleList(nn.Sequential(nn.Linear(64 if i == 0 else 40, 40), nn.Mish()) for i in range(4))
    model.heads = nn.ModuleList(nn.Linear(40, 10) for _ in range(4))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, total = batch[0], torch.zeros(())
        for i, (block, head) in enumerate(zip(model.blocks, model.heads, strict=True)):
            x = block(x)
            total = total + 10.0 ** (i - 3) * functional.cross_entropy(head(x), batch[1])
        return total

    return fit(seed, model, optim.Adam, 2e-3, loss=loss)


LINEAR: LossFn = lambda model, batch: functional.mse_loss(model(batch[0])[:, 0], batch[1])  # noqa: E731


def averaged_sgd(seed: int) -> Run:
    """ASGD on a linear model that is at its noise floor after some dozen steps."""
    stream = data.batches(*data.table("diabetes"), 16, seed)
    return fit(seed, nn.Linear(10, 1), optim.ASGD, 0.05, loss=LINEAR, stream=stream)


add("ok_sharpness_aware", "the loss is taken at other weights than the optimizer's", sharpness_aware)
add("ok_gradient_noise", "gradients with noise added before the step", grads_changed, 150, how="noise")
add("ok_gradient_centralised", "gradients whose rows are centred before the step", grads_changed, 150, how="centre")
add("ok_clip_value_1e-3", "every gradient is at its limit for long, and the rate fits", grads_changed, 200, how="clip")
add("ok_weight_averaging", "the rate rises fivefold at step 100", weight_averaging, 150)
add("ok_lookahead", "weights jump back every six steps", looking_ahead, 150)
add("ok_scaled_by_hand", "gradients are 65536 times too large until right before the step", scaled_by_hand, 100)
add("ok_rprop_whole_batch", "steps that do not depend on the size of gradients", resilient, 200)
add("ok_torch_one_cycle", "one cycle with momentum going the other way, PReLU", scheduled, 180, how="one_cycle")
add("ok_torch_restarts", "the rate jumps from zero to its maximum", scheduled, 150, how="restarts")
add("ok_torch_polynomial", "the rate reaches zero at the last step", scheduled, 150, how="polynomial")
add("ok_torch_exponential", "the rate falls by 1.5 % a step, to a tenth", scheduled, 150, how="exponential")
add("ok_plateau_cuts", "the rate is cut by ten, more than once, near a loss of zero", plateaus, 300)
add("ok_three_rates", "a part that was trained before has a rate of 1e-5 on purpose", groups, 120)
add("ok_pruned_at_80", "seven tenths of the weights are zero from step 80 on", pruned, 160)
add("ok_one_batch_by_heart", "the loss falls to 1e-4 on the same 32 samples", one_batch, 250)
add("ok_state_carried", "a state that is detached at each chunk, on purpose", carried, 150)
add("ok_biases_only", "all weight matrices are frozen, biases and norms learn", biases_only, 120)
add("ok_prompt_tuning", "one vector learns in a frozen net", prompted, 150)
add("ok_head_renewed", "the loss jumps back when the head is drawn anew", renewed, 160)
add("ok_two_passes", "every module runs twice a step", twice, 150)
add("ok_mixup", "a high and noisy floor", mixed_up, 150)
add("ok_lognormal_inputs", "inputs up to 1e9 that the net takes the logarithm of", lognormal, 150)
add(
    "ok_quantised_weights",
    "weights are rounded to nine levels in the forward pass",
    lambda seed: fit(seed, Quantised(), optim.Adam, 3e-3),
)
add("ok_deep_supervision", "losses weighted from 0.001 to 1", deeply_supervised, 150)
add("ok_asgd_floor", "at the noise floor after some dozen steps", averaged_sgd, 250)
add(
    "ok_loss_of_1e-9",
    "a loss multiplied by 1e-8, Adam with an eps to match",
    lambda seed: fit(
        seed,
        nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 1)),
        optim.Adam,
        1e-3,
        eps=1e-16,
        loss=lambda m, b: 1e-8 * LINEAR(m, b),
        stream=data.batches(*data.table("diabetes"), 32, seed),
    ),
    200,
)
add(
    "ok_translation_rate_0.03",
    "a rate near the limit: the loss spikes on its way down",
    lambda seed: fit(seed, nets.Translator(), optim.Adam, 0.03, loss=nets.translate, stream=nets.reversal(32, seed)),
    150,
)
