"""The fourth blind corpus, healthy part: runs that look odd and learn well.

Written without a look at any detector; that each of them learns is measured by ``verify_blind``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fourth_nets import (
    Again,
    CodeConv,
    Coder,
    Decaying,
    Experts,
    Gated,
    Lowrank,
    Memory,
    Rezero,
    Spotter,
    Squeezer,
    Tower,
    code_chars,
    code_lines,
    he,
    iris,
    latch,
    marked,
    patches,
    phases,
    photos,
    pictures,
    plain,
    refill,
    repaired,
    roll,
    series,
    shells,
    source_lines,
    squares,
    taught,
    teach,
)
from zoo.core import Batch, Registry, Run, Turn

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.healthy


def timed(run: Run, factor: Callable[[int], float]) -> Run:
    """The run under a schedule: its rates times ``factor(step)``."""
    schedule = torch.optim.lr_scheduler.LambdaLR(run.optimizer, factor)
    run.optimizer.register_step_post_hook(lambda *_: schedule.step())
    return run


# ------------------------------------------------------------------------------------------- schedules and optimizers


def long_warm_up(seed: int) -> Run:
    """A linear warm-up over half of the run, from a ten-thousandth."""
    run = teach(Gated(10, 2), shells(64, seed), optim.RAdam, 0.01)
    return timed(run, lambda step: max(1e-4, min(1.0, step / 90)))


def saw(seed: int) -> Run:
    """NAdam at a rate that jumps up every 30 steps and falls by a factor of 30 in between."""
    return timed(teach(CodeConv(), code_lines(32, seed), optim.NAdam, 0.01), lambda step: 30 ** -((step % 30) / 30))


def batch_grows(seed: int) -> Run:
    """In place of a falling rate the batches grow from 4 to 256."""

    def growing() -> Iterator[Batch]:
        streams = {size: pictures(size, seed) for size in (4, 16, 64, 256)}
        for step in range(10**9):
            yield next(streams[(4, 16, 64, 256)[min(3, step // 50)]])

    return teach(plain(64, 48, 48, 10, act=nn.Mish), growing(), optim.SGD, 0.02, momentum=0.9)


def signs_only(seed: int) -> Run:
    """Each gradient is replaced by its sign before the step, and the rate falls to zero."""
    run = teach(plain(64, 48, 10), pictures(32, seed), optim.SGD, 2e-3)

    def sign(*_: Any) -> None:
        for p in run.model.parameters():
            p.grad.sign_()

    run.optimizer.register_step_pre_hook(sign)
    return timed(run, lambda step: max(0.0, 1 - step / 190))


def orthogonal_steps(seed: int) -> Run:
    """Gradients of matrices are made orthogonal before the step: all their singular values become one."""
    run = teach(plain(64, 48, 48, 10, act=nn.GELU), pictures(64, seed), optim.SGD, 0.01, momentum=0.9)

    def straighten(*_: Any) -> None:
        for p in run.model.parameters():
            if p.ndim == 2:
                u, _, v = torch.linalg.svd(p.grad + 1e-9 * torch.randn_like(p), full_matrices=False)
                p.grad.copy_(u @ v)

    run.optimizer.register_step_pre_hook(straighten)
    return run


def coupled_decay(seed: int) -> Run:
    """Adamax with a decay that is part of the gradient, from weights that begin twice too large."""
    model = refill(plain(10, 48, 48, 2, act=nn.SiLU), lambda w: nn.init.xavier_normal_(w, 2.0))
    return teach(model, shells(64, seed), optim.Adamax, 5e-3, weight_decay=0.01)


def swapped_averages(seed: int) -> Run:
    """Every 40 steps the weights become the mean of the last 20 states: they jump, the loss does not mind."""
    run = teach(Tower(3, 12, 1, 10), pictures(32, seed), optim.SGD, 0.05, momentum=0.9)
    states: list[list[Tensor]] = []

    def swap(step: int) -> None:
        states.append([p.detach().clone() for p in run.model.parameters()])
        del states[:-20]
        if step and step % 40 == 0:
            with torch.no_grad():
                for p, *old in zip(run.model.parameters(), *states, strict=True):
                    p.copy_(torch.stack(old).mean(0))

    run.before_step = swap
    return run


def whole_tables(seed: int) -> Run:
    """The same 150 flowers at each step, at a momentum of 0.98."""
    return teach(plain(4, 16, 3, act=nn.Tanh), iris(150, seed), optim.SGD, 0.02, momentum=0.98, nesterov=True)


add("ok_warm_up_for_half_the_run", "half of the run at a tiny rate", long_warm_up, 180)
add("ok_saw_teeth_of_30", "the rate jumps up by 30 every 30 steps", saw, 180)
add("ok_batches_grow_4_to_256", "gradient noise falls by eight in three jumps", batch_grows, 200)
add("ok_signs_as_gradients", "steps that do not know the size of a gradient, a rate that ends at zero", signs_only, 200)
add("ok_orthogonal_gradients", "every gradient has the same norm", orthogonal_steps, 120)
add("ok_coupled_decay_adamax", "weights that shrink from a large start", coupled_decay, 200)
add("ok_averages_swapped_in", "all weights jump every 40 steps", swapped_averages, 200)
add("ok_momentum_0.98_whole_table", "long swings, the same batch over and over", whole_tables, 200)

# ------------------------------------------------------------------------------------------- large and small gradients


def summed_pixels(seed: int) -> Run:
    """A sum over all pixels and samples: a loss of thousands."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0]), batch[1], reduction="sum")

    return teach(Squeezer(code=16), repaired(32, seed), optim.Adam, 3e-3, loss)


def loud_head(seed: int) -> Run:
    """The head begins 20 times too large: a loss of dozens that falls quickly."""
    model = plain(64, 48, 10)
    with torch.no_grad():
        model[-1].weight.mul_(20)
    return teach(model, pictures(32, seed), optim.AdamW, 3e-3, weight_decay=0.05)


def rare_giants(seed: int) -> Run:
    """Targets of a log-normal law, squared errors and clipping: single samples make most of a gradient."""

    def giants() -> Iterator[Batch]:
        generator = data.rng(seed, 421)
        for x, y in phases(32, seed):
            yield x, (1.5 * y + 0.5 * torch.randn(len(y), generator=generator)).exp()

    return teach(plain(4, 32, 32, 1, act=nn.GELU), giants(), optim.Adam, 5e-3, squares, clip=5.0)


def micro_units(seed: int) -> Run:
    """Everything in a unit that makes the loss 1e-8, under an optimizer that does not care."""
    stream = ((x, 1e-4 * y) for x, y in roll(64, seed))
    model = plain(3, 32, 32, 1, act=nn.Tanh)
    with torch.no_grad():
        model[-1].weight.mul_(1e-4)
        model[-1].bias.mul_(1e-4)
    groups = [{"params": model[:-1].parameters()}, {"params": model[-1].parameters(), "lr": 1e-6}]
    return teach(model, stream, optim.Adam, 5e-3, squares, weights=groups, eps=1e-16)


def tiny_batchnorm(seed: int) -> Run:
    """BatchNorm over batches of six."""
    model = nn.Sequential()
    for a, b in ((64, 48), (48, 48)):
        model.extend([nn.Linear(a, b, bias=False), nn.BatchNorm1d(b), nn.ReLU()])
    model.append(nn.Linear(48, 10))
    return teach(model, pictures(6, seed), optim.SGD, 0.02, momentum=0.9)


def pair_of_units(seed: int) -> Run:
    """Two tasks in turns, of losses 400 times apart, each under its own head."""
    model = nn.ModuleDict({"body": plain(4, 32, 32, act=nn.SiLU), "kind": nn.Linear(32, 2), "value": nn.Linear(32, 1)})
    turns = cycle((1, 0))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        h = functional.silu(model["body"](batch[0]))
        if next(turns):
            return functional.mse_loss(20 * model["value"](h)[:, 0], 20 * batch[1])
        return functional.cross_entropy(model["kind"](h), (batch[1] > 0).long())

    return teach(model, phases(48, seed), optim.Adam, 3e-3, loss)


add("ok_sum_over_pixels", "a loss of thousands, gradients of hundreds", summed_pixels, 150)
add("ok_head_begins_x20", "a loss of dozens at first", loud_head, 150)
add("ok_lognormal_targets_clipped", "gradients over three orders of magnitude", rare_giants, 200, "bounded")
add("ok_loss_of_1e-8", "tiny losses, gradients and steps of the head", micro_units, 200)
add("ok_batchnorm_of_six", "very noisy statistics", tiny_batchnorm, 200)
add("ok_two_tasks_400_apart", "a loss that jumps between two sizes, heads that rest", pair_of_units, 200)

# --------------------------------------------------------------------------------------------------- sparse gradients


def trigrams(seed: int) -> Run:
    """Hashed triples of characters, a sparse table of 4096 rows, plain SGD at a rate of 2."""
    model = nn.Sequential(nn.EmbeddingBag(4096, 16, mode="mean", sparse=True), nn.Linear(16, 4))
    x, y = source_lines()
    codes = (x[:, :-2] * 31 * 31 + x[:, 1:-1] * 31 + x[:, 2:]) % 4096
    groups = [{"params": model[0].parameters(), "lr": 30.0}, {"params": model[1].parameters()}]
    return teach(model, data.batches(codes, y, 64, seed), optim.SGD, 0.5, weights=groups)


class Grid(nn.Module):
    """A place in a picture, by a hashed grid of three scales and a small net."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(512, 4) for _ in range(3))
        for table in self.tables:
            nn.init.uniform_(table.weight, -1e-2, 1e-2)
        self.net = plain(12, 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Colours."""
        cells = [(x * scale).long() for scale in (8, 20, 60)]
        rows = [(c[:, 0] * 2654435 ^ c[:, 1] * 805459) % 512 for c in cells]
        return self.net(torch.cat([table(row) for table, row in zip(self.tables, rows, strict=True)], 1))


def pixels(size: int, seed: int) -> Iterator[Batch]:
    """Places in a picture of a flower, and their colours."""
    from sklearn.datasets import load_sample_image

    picture = torch.tensor(load_sample_image("flower.jpg")[::6, ::6]).float() / 127.5 - 1
    high, wide, _ = picture.shape
    generator = data.rng(seed, 422)
    while True:
        i = torch.randint(0, high, (size,), generator=generator)
        j = torch.randint(0, wide, (size,), generator=generator)
        yield torch.stack([(i + 0.5) / high, (j + 0.5) / wide], 1), picture[i, j]


def hashed(seed: int) -> Run:
    """A hashed grid learns a picture."""
    return teach(Grid(), pixels(128, seed), optim.Adam, 0.01, squares)


class Topmost(nn.Module):
    """An autoencoder of 256 units of which the 12 largest answer."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(192, 256), nn.Linear(256, 192)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction."""
        h = self.encoder(x.flatten(1))
        top = h.topk(12, 1)
        return self.decoder(torch.zeros_like(h).scatter(1, top.indices, top.values.relu())).view_as(x)


def topmost(seed: int) -> Run:
    """A sparse autoencoder on photographs."""
    return teach(Topmost(), ((x, x) for x, _ in patches(64, seed)), optim.Adam, 3e-3, squares)


def adaptive(seed: int) -> Run:
    """An adaptive softmax over pairs of characters: its tails hold the rare ones and are seldom asked."""
    text = source_lines()[0]
    pairs, codes = torch.unique(text[:, ::2] * 128 + text[:, 1::2], return_inverse=True)
    order = torch.bincount(codes.flatten()).argsort(descending=True).argsort()
    codes = order[codes]
    model = nn.ModuleDict(
        {
            "embed": nn.Embedding(len(pairs), 24),
            "body": nn.LSTM(24, 32, batch_first=True),
            "softmax": nn.AdaptiveLogSoftmaxWithLoss(32, len(pairs), [60, 400]),
        }
    )

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        h = model["body"](model["embed"](batch[0]))[0]
        return model["softmax"](h.flatten(0, 1), batch[1].flatten()).loss

    return teach(model, data.batches(codes[:, :-1], codes[:, 1:], 12, seed), optim.Adam, 5e-3, loss)


class Bumps(nn.Module):
    """Radial units, of which few answer to any one input."""

    def __init__(self, units: int = 120) -> None:
        super().__init__()
        self.centres = nn.Parameter(2 * torch.rand(units, 3) * 1.8 - 1.8)
        self.head = nn.Linear(units, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        return self.head((-4 * torch.cdist(x, self.centres).square()).exp())


def bumps(seed: int) -> Run:
    """Radial units on a Swiss roll."""
    return teach(Bumps(), roll(64, seed), optim.Adam, 0.05, squares)


add("ok_hashed_trigrams", "sparse gradients, a rate of 30 for the table", trigrams, 200)
add("ok_hashed_grid", "most rows have no gradient, tables begin at a hundredth", hashed, 200)
add("ok_twelve_of_256_units", "95 % of the units are zero", topmost, 200)
add("ok_adaptive_softmax", "tails that get a gradient now and then", adaptive, 120)
add("ok_radial_units", "most units are shut for most inputs", bumps, 200)

# -------------------------------------------------------------------------------------- frozen, adapted, distilled


def adapted(seed: int) -> Run:
    """Low-rank adapters in a trained net of gated blocks; the features are shuffled since."""
    body = taught(Gated(10, 2), shells(64, seed + 50), 250, 5e-3)
    body.requires_grad_(requires_grad=False)
    for i, up in enumerate(body.ups):
        body.ups[i] = Lowrank(up)
    body.inlet = Lowrank(body.inlet)
    twist = torch.linalg.qr(torch.randn(10, 10, generator=data.rng(seed, 423))).Q
    scale = torch.linspace(0.2, 1.8, 10)
    stream = (((x @ twist) * scale, y) for x, y in shells(64, seed))
    return teach(body, stream, optim.AdamW, 0.01)


class Scaled(nn.Module):
    """A frozen tower of convolutions; vectors that begin at one scale their channels, and a new head."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower.requires_grad_(requires_grad=False)
        self.scales = nn.ParameterList(torch.ones(conv.out_channels, 1, 1) for conv in tower.convs)
        self.head = nn.Linear(tower.head.in_features, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        for conv, act, scale in zip(self.tower.convs, self.tower.acts, self.scales, strict=True):
            x = scale * act(conv(x))
        return self.head(x.flatten(1))


def rescaled(seed: int) -> Run:
    """Which of two photographs, learnt; then: are red and blue exchanged?"""
    tower = taught(refill(Tower(3), he), patches(64, seed + 50), 80)
    turned = ((torch.cat([x, x.flip(1)]), torch.arange(2).repeat_interleave(len(x))) for x, _ in patches(32, seed))
    return teach(Scaled(tower), turned, optim.Adam, 0.01)


def thawing(seed: int) -> Run:
    """One more layer is thawed every 30 steps, from the head down; deeper ones have smaller rates."""
    model = taught(plain(64, 48, 48, 32, 10), pictures(64, seed + 50), 60)
    nn.init.xavier_uniform_(model[-1].weight)
    layers = [m for m in model if isinstance(m, nn.Linear)]
    groups = [{"params": layer.parameters(), "lr": 3e-3 / 3**k} for k, layer in enumerate(reversed(layers))]
    stream = ((x, (3 * y + 4) % 10) for x, y in pictures(32, seed))
    run = teach(model, stream, optim.Adam, 3e-3, weights=groups)

    def thaw(step: int) -> None:
        for k, layer in enumerate(reversed(layers)):
            layer.requires_grad_(requires_grad=step >= 30 * k)

    run.before_step = thaw
    return run


def hints(seed: int) -> Run:
    """A student is told its teacher's hidden values and its answers."""
    teacher = taught(plain(10, 64, 64, 2, act=nn.SiLU), shells(64, seed + 50), 200, 5e-3)
    teacher.requires_grad_(requires_grad=False)
    model = nn.ModuleDict({"teacher": teacher, "student": plain(10, 32, 2, act=nn.SiLU), "bridge": nn.Linear(32, 64)})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        h, told = model["student"][:2](batch[0]), model["teacher"][:4](batch[0])
        answer = functional.log_softmax(model["student"][2](h) / 3, 1)
        wanted = functional.softmax(model["teacher"][4](told) / 3, 1)
        return functional.mse_loss(model["bridge"](h), told) + 9 * functional.kl_div(
            answer, wanted, reduction="batchmean"
        )

    return teach(model, shells(64, seed), optim.Adam, 5e-3, loss)


def pseudo_labels(seed: int) -> Run:
    """Of unlabelled images only those count of which the net is sure: none at first, most in the end."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])
        known, other = logits.tensor_split([8])
        sure, guess = other.detach().softmax(1).max(1)
        second = functional.cross_entropy(other, guess, reduction="none") * (sure > 0.95)
        return functional.cross_entropy(known, batch[1][:8]) + second.mean()

    return teach(plain(64, 64, 10, act=nn.GELU), pictures(48, seed), optim.Adam, 3e-3, loss)


def two_ages(seed: int) -> Run:
    """A second task from step 90 on; a penalty that begins at zero keeps what the first one needs."""
    model = nn.ModuleDict({"body": plain(64, 48, 48), "heads": nn.ModuleList([nn.Linear(48, 5), nn.Linear(48, 5)])})
    kept: list[Tensor] = []
    step = iter(range(10**9))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        second = next(step) >= 90
        if second and not kept:
            kept.extend(p.detach().clone() for p in model["body"].parameters())
        rows = (batch[1] >= 5) == second
        logits = model["heads"][int(second)](functional.relu(model["body"](batch[0][rows])))
        drift = sum((p - k).square().sum() for p, k in zip(model["body"].parameters(), kept, strict=False))
        return functional.cross_entropy(logits, batch[1][rows] % 5) + 0.05 * drift

    return teach(model, pictures(64, seed), optim.Adam, 2e-3, loss)


def frozen_statistics(seed: int) -> Run:
    """A trained net is tuned to negatives with all its BatchNorms in eval mode and their gains frozen."""
    model = nn.Sequential(nn.Unflatten(1, (1, 8, 8)))
    for a, b in ((1, 12), (12, 12)):
        model.extend([nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()])
    model.extend([nn.AvgPool2d(2), nn.Flatten(), nn.Linear(192, 10)])
    taught(model, pictures(64, seed + 50), 60)
    norms = [m for m in model if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.requires_grad_(requires_grad=False)
    run = teach(model, ((-x, y) for x, y in pictures(32, seed)), optim.SGD, 0.01, momentum=0.9)

    def rest(_: int) -> None:
        for norm in norms:
            norm.eval()

    run.before_step = rest
    return run


def reservoir(seed: int) -> Run:
    """A random recurrence that is never trained; only its read-out is."""
    model = Memory("rnn", 1, 80, 1)
    nn.init.orthogonal_(model.body.weight_hh_l0, 0.95)
    model.body.requires_grad_(requires_grad=False)
    return teach(model, series(32, seed, length=24), optim.Adam, 0.01, squares)


def side_net(seed: int) -> Run:
    """A trained, frozen tower under no_grad; a small net beside it adds to its logits."""

    class Beside(nn.Module):
        def __init__(self, tower: nn.Module) -> None:
            super().__init__()
            self.tower, self.side = tower.requires_grad_(requires_grad=False), plain(64, 24, 10, act=nn.SiLU)
            self.gate = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                base = self.tower(x)
            return base + self.gate * self.side(x)

    tower = taught(plain(64, 16, 10), pictures(64, seed + 50), 40)
    stream = ((1.5 - x, y) for x, y in pictures(32, seed))
    return teach(Beside(tower), stream, optim.AdamW, 5e-3)


add("ok_lora_in_gated_blocks", "thin factors at zero, all else frozen", adapted, 200)
add("ok_scales_of_frozen_convs", "vectors at one are all that learns below the head", rescaled, 200)
add("ok_thawed_from_the_top", "layers wake up every 30 steps, the deepest at a 27th of the rate", thawing, 150)
add("ok_hidden_hints", "a frozen teacher inside the model", hints, 200)
add("ok_pseudo_labels", "a second loss that is zero at first", pseudo_labels, 150)
add("ok_second_task_with_penalty", "the loss jumps at step 90, one head rests, then the other", two_ages, 180)
add("ok_tuned_in_eval_mode", "frozen statistics and frozen gains", frozen_statistics, 120)
add("ok_reservoir", "a frozen random recurrence", reservoir, 200)
add("ok_side_net_behind_a_gate", "a gate at zero: the side net has no gradient at step one", side_net, 150)

# ------------------------------------------------------------------------------------------------------ blocks, inits


def rezero(seed: int) -> Run:
    """Sixteen residual blocks of weight zero."""
    return teach(Rezero(10, 2), shells(64, seed), optim.Adam, 5e-3)


def sines(seed: int) -> Run:
    """Sines of frequency 20 and their own init learn a picture."""

    class Sine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (20 * x).sin()

    model = plain(2, 48, 48, 3, act=Sine)
    refill(
        model, lambda w: nn.init.uniform_(w, -((6 / w.shape[1]) ** 0.5) / 20, (6 / w.shape[1]) ** 0.5 / 20), head=False
    )
    nn.init.uniform_(model[0].weight, -0.5, 0.5)
    return teach(model, ((2 * x - 1, y) for x, y in pixels(128, seed)), optim.Adam, 2e-3, squares)


class Fixed(nn.Module):
    """The fixed point of a layer, found without gradients; the gradient comes from three further steps."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.inlet, self.again, self.head = nn.Linear(10, width), nn.Linear(width, width), nn.Linear(width, 2)
        nn.init.orthogonal_(self.again.weight, 0.7)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        u = self.inlet(x)
        with torch.no_grad():
            h = torch.zeros_like(u)
            for _ in range(12):
                h = (self.again(h) + u).tanh()
        for _ in range(3):
            h = (self.again(h) + u).tanh()
        return self.head(h)


def fixed_point(seed: int) -> Run:
    """An equilibrium net on shells."""
    return teach(Fixed(), shells(64, seed), optim.Adam, 5e-3)


def experts(seed: int) -> Run:
    """Two of eight experts answer each question; a balance is part of the loss."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return squares(model, batch) + 0.01 * model.balance

    return teach(Experts(4, 1), phases(64, seed), optim.Adam, 5e-3, loss)


def random_features(seed: int) -> Run:
    """Cosines of random directions, as buffers, and a linear layer."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("ways", 0.35 * torch.randn(10, 400))
            self.register_buffer("shift", 6.28 * torch.rand(400))
            self.head = nn.Linear(400, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((x @ self.ways + self.shift).cos())

    return teach(Cosines(), shells(64, seed), optim.SGD, 0.2, momentum=0.9)


def decaying(seed: int) -> Run:
    """Linear recurrences of 40 frames."""
    return teach(Decaying(2, 24, 3), latch(32, 40, seed), optim.AdamW, 5e-3)


def drop_connect(seed: int) -> Run:
    """Half of the weights of a layer are dropped at each step."""

    class Dropped(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, functional.dropout(self.weight, 0.5, self.training), self.bias)

    model = nn.Sequential(Dropped(64, 96), nn.ReLU(), Dropped(96, 96), nn.ReLU(), nn.Linear(96, 10))
    return teach(model, pictures(32, seed), optim.Adamax, 5e-3)


def weight_normed(seed: int) -> Run:
    """Directions and lengths of weights apart, tanh, plain SGD."""
    model = plain(64, 48, 48, 10, act=nn.Tanh)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.utils.parametrizations.weight_norm(layer)
    return teach(model, pictures(32, seed), optim.SGD, 0.2)


class Maker(nn.Module):
    """A small net that makes the weights of another from the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = nn.Linear(4, 4 * 24 + 24)
        with torch.no_grad():
            self.maker.weight.mul_(0.1)
            self.maker.bias.copy_(0.5 * torch.randn(120))
        self.head = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        """One number."""
        made = self.maker(x.mean(0))
        return self.head((x @ made[:96].view(4, 24) + made[96:]).tanh())


def maker(seed: int) -> Run:
    """A made net on phases."""
    return teach(Maker(), phases(64, seed), optim.Adam, 0.01, squares)


def plain_deep_elu(seed: int) -> Run:
    """Twelve convolutions and nothing else, by an orthogonal init of gain 1.2."""
    model = refill(Tower(12, 12, act=nn.ELU), lambda w: nn.init.orthogonal_(w, 1.2))
    return teach(model, patches(32, seed), optim.Adam, 1e-3)


add("ok_rezero_16", "all blocks but for their weights have no gradient at step one", rezero, 140)
add("ok_sines_20", "sines of a high frequency", sines, 200)
add("ok_equilibrium", "twelve steps out of fifteen without gradients", fixed_point, 200)
add("ok_two_of_eight_experts", "experts with few or no samples", experts, 130)
add("ok_random_cosines", "one layer learns, the rest are buffers", random_features, 200)
add("ok_linear_recurrence_40", "forty frames, fast and slow ones", decaying, 200)
add("ok_half_of_the_weights", "noise on weights", drop_connect, 200)
add("ok_weight_norm_tanh", "parametrized weights", weight_normed, 150)
add("ok_made_weights", "weights that are outputs", maker, 200)
add("ok_twelve_plain_elu_convs", "twelve convolutions without norm or shortcut", plain_deep_elu, 100)

# ----------------------------------------------------------------------------------------------- texts and sequences


def tied_coder(seed: int) -> Run:
    """A GRU on source code with one table at both ends."""
    return teach(Coder(), code_chars(16, 20, seed), optim.AdamW, 5e-3, clip=1.0)


def shared_blocks(seed: int) -> Run:
    """One transformer block five times, warm-up of 30 steps."""
    run = teach(Again(), code_chars(12, 20, seed), optim.AdamW, 4e-3)
    return timed(run, lambda step: min(1.0, (step + 1) / 30))


def longer_and_longer(seed: int) -> Run:
    """The LSTM has to remember for longer every 40 steps."""

    def growing() -> Iterator[Batch]:
        streams = [latch(32, length, seed) for length in (4, 8, 12, 16, 20)]
        for step in range(10**9):
            yield next(streams[min(4, step // 40)])

    return teach(Memory("lstm", 2, 24, 3), growing(), optim.Adam, 0.01, clip=1.0)


def lone_question(seed: int) -> Run:
    """Attention finds a mark and becomes one-hot."""
    return teach(Spotter(2.0), marked(48, seed), optim.NAdam, 5e-3)


def chain_of_states(seed: int) -> Run:
    """A conditional random field over hidden states of noisy symbols: logarithms of sums of exponentials."""

    def tagged() -> Iterator[Batch]:
        generator = data.rng(seed, 425)
        while True:
            stay = torch.rand(32, 12, generator=generator) < 0.85
            fresh = torch.randint(0, 4, (32, 12), generator=generator)
            y = fresh[:, :1]
            for t in range(1, 12):
                y = torch.cat([y, torch.where(stay[:, t], y[:, -1], fresh[:, t])[:, None]], 1)
            lie = torch.rand(32, 12, generator=generator) < 0.4
            yield torch.where(lie, torch.randint(0, 4, y.shape, generator=generator), y), y

    model = nn.ModuleDict({"emit": nn.Embedding(4, 4), "move": nn.Linear(4, 4, bias=False)})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, y = batch
        emit, move = model["emit"](x), model["move"].weight
        gold = emit.gather(2, y[..., None])[..., 0].sum(1) + move[y[:, :-1], y[:, 1:]].sum(1)
        alpha = emit[:, 0]
        for t in range(1, 12):
            alpha = (alpha[:, :, None] + move).logsumexp(1) + emit[:, t]
        return (alpha.logsumexp(1) - gold).mean()

    return teach(model, tagged(), optim.Adagrad, 0.2, loss)


def own_words(seed: int) -> Run:
    """A forecaster is fed its own forecasts more and more often."""
    model = nn.ModuleDict({"cell": nn.GRUCell(1, 24), "head": nn.Linear(24, 1)})
    step = iter(range(10**9))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share = min(0.7, next(step) / 200)
        x = batch[0]
        h, last, total = x.new_zeros(len(x), 24), x[:, 0], x.new_zeros(())
        for t in range(1, x.shape[1]):
            h = model["cell"](last, h)
            guess = model["head"](h)
            total = total + functional.mse_loss(guess, x[:, t])
            last = guess if torch.rand(()) < share else x[:, t]
        return total / (x.shape[1] - 1)

    return teach(model, series(32, seed, length=14), optim.Adam, 0.01, loss, clip=1.0)


def ragged(seed: int) -> Run:
    """Four micro-batches of lengths 4 to 36 to a step."""

    def lengths() -> Iterator[Batch]:
        streams = [code_chars(6, length, seed + length) for length in (4, 12, 20, 36)]
        for stream in cycle(streams):
            yield next(stream)

    return teach(Coder(tied=False), lengths(), optim.Adam, 5e-3, accum=4)


def bf16_memory(seed: int) -> Run:
    """A GRU under autocast to bfloat16."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(batch[0])
        return functional.mse_loss(out.float()[:, 0], batch[1])

    return teach(Memory("gru", 1, 24, 1), series(32, seed), optim.AdamW, 5e-3, loss)


def scaled_halves(seed: int) -> Run:
    """Convolutions in half precision under a loss scale that begins far too high and finds its size."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.float16):
            out = model(batch[0])
        return functional.cross_entropy(out.float(), batch[1])

    run = teach(refill(Tower(3), he), patches(32, seed), optim.SGD, 0.02, loss, momentum=0.9)
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=40)
    return run


add("ok_tied_gru_on_code", "one table at both ends", tied_coder, 100)
add("ok_one_block_five_times", "five gradients add up in each weight; a warm-up", shared_blocks, 110)
add("ok_memory_grows_longer", "the loss jumps back every 40 steps", longer_and_longer, 220, "bounded")
add("ok_lone_question", "attention becomes one-hot and is right", lone_question, 200)
add("ok_random_field", "sums of exponentials along a chain", chain_of_states, 150)
add("ok_fed_with_own_forecasts", "the task gets harder all the time", own_words, 150, "bounded")
add("ok_ragged_micro_batches", "four backward passes of other lengths", ragged, 50)
add("ok_bfloat16_gru", "coarse gradients", bf16_memory, 150)
add("ok_half_scale_found", "the first steps overflow and are skipped, as they should be", scaled_halves, 90)

# --------------------------------------------------------------------------------------------- games, noise, contrasts


def roll_gan(seed: int) -> Run:
    """A hinge game over points of a roll; the judge has spectral norms and four times the rate."""
    generator, judge = plain(4, 32, 32, 3, act=nn.SiLU), plain(3, 48, 48, 1, act=nn.LeakyReLU)
    for layer in judge:
        if isinstance(layer, nn.Linear):
            nn.utils.parametrizations.spectral_norm(layer)
    model = nn.ModuleDict({"generator": generator, "judge": judge})

    def judging(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            fake = model["generator"](torch.randn(len(batch[0]), 4))
        return (1 - model["judge"](batch[0])).relu().mean() + (1 + model["judge"](fake)).relu().mean()

    def making(model: nn.Module, batch: Batch) -> Tensor:
        return -model["judge"](model["generator"](torch.randn(len(batch[0]), 4))).mean()

    first = optim.Adam(judge.parameters(), lr=4e-3, betas=(0.0, 0.9))
    second = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    return Run(model, first, roll(64, seed), judging, turns=(Turn(first, judging), Turn(second, making)))


def gambling(seed: int) -> Run:
    """Actions are drawn, rewarded if right, and a learnt baseline is taken off: a loss of any sign."""
    model = nn.ModuleDict({"policy": plain(4, 32, 3, act=nn.Tanh), "value": plain(4, 16, 1, act=nn.Tanh)})

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        chosen = torch.distributions.Categorical(logits=model["policy"](batch[0]))
        action = chosen.sample()
        gain = (action == batch[1]).float()
        value = model["value"](batch[0])[:, 0]
        plea = -(chosen.log_prob(action) * (gain - value.detach())).mean()
        return plea + 0.5 * functional.mse_loss(value, gain) - 0.01 * chosen.entropy().mean()

    return teach(model, iris(64, seed), optim.Adam, 0.01, loss)


def pendulum(seed: int) -> Run:
    """A controller learns through 20 steps of a simulated spring: the loss is the cost of the whole path."""

    def starts() -> Iterator[Batch]:
        generator = data.rng(seed, 426)
        while True:
            yield (torch.randn(32, 2, generator=generator),)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, cost = batch[0], batch[0].new_zeros(())
        for _ in range(20):
            push = model(x)[:, 0]
            speed = x[:, 1] + 0.2 * (-x[:, 0] + 0.3 * x[:, 1] + push)
            x = torch.stack([x[:, 0] + 0.2 * speed, speed], 1)
            cost = cost + (x.square().sum(1) + 0.05 * push.square()).mean() / 20
        return cost

    return teach(plain(2, 24, 1, act=nn.Tanh), starts(), optim.RMSprop, 3e-3, loss, clip=1.0)


def worst_group(seed: int) -> Run:
    """Each class has a weight that grows while its loss is large: the loss is that of the worst."""
    weights = torch.full((10,), 0.1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        each = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        count = torch.bincount(batch[1], minlength=10)
        mean = torch.zeros(10).index_add(0, batch[1], each) / count.clamp(min=1)
        weights.mul_((0.3 * mean.detach()).exp()).div_(weights.sum())
        return (weights * mean).sum()

    return teach(plain(64, 48, 10, act=nn.SiLU), pictures(64, seed), optim.AdamW, 3e-3, loss)


def queue_of_negatives(seed: int) -> Run:
    """Two noisy views of an image, a slow copy for the second, a queue of 128 negatives, a temperature of 0.1."""
    quick = plain(64, 48, 16, act=nn.GELU)
    slow = copy.deepcopy(quick).requires_grad_(requires_grad=False)
    model = nn.ModuleDict({"quick": quick, "slow": slow})
    with torch.no_grad():
        queue = functional.normalize(slow(next(pictures(128, seed + 50))[0]), dim=1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x = batch[0]
        a = functional.normalize(model["quick"](x + 0.5 * torch.randn_like(x)), dim=1)
        with torch.no_grad():
            b = functional.normalize(model["slow"](x + 0.5 * torch.randn_like(x)), dim=1)
        logits = torch.cat([(a * b).sum(1, keepdim=True), a @ queue.clone().T], 1) / 0.1
        queue.copy_(torch.cat([queue[len(x) :], b]))
        return functional.cross_entropy(logits, torch.zeros(len(x), dtype=torch.long))

    run = teach(model, pictures(32, seed), optim.Adam, 2e-3, loss)

    def follow(_: int) -> None:
        with torch.no_grad():
            for p, q in zip(slow.parameters(), quick.parameters(), strict=True):
                p.lerp_(q, 0.05)

    run.before_step = follow
    return run


def hardest_quarter(seed: int) -> Run:
    """Only the quarter of a batch with the largest losses counts."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        each = functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        return each.topk(len(each) // 4).values.mean()

    return teach(plain(64, 64, 10), pictures(64, seed), optim.SGD, 0.03, loss, momentum=0.9)


def blurred(seed: int) -> Run:
    """A denoiser is told the amount of noise, which is anything from none to much."""

    def noisy() -> Iterator[Batch]:
        generator = data.rng(seed, 427)
        for x, _ in pictures(64, seed):
            level = torch.rand(len(x), 1, generator=generator)
            noise = torch.randn(x.shape, generator=generator)
            yield torch.cat([(1 - level).sqrt() * x + level.sqrt() * noise, level], 1), noise

    return teach(plain(65, 96, 96, 64, act=nn.SiLU), noisy(), optim.Adam, 3e-3, squares)


def mostly_absent(seed: int) -> Run:
    """One patch of 40 comes from the photograph that is looked for."""
    x, y = photos()

    def rare() -> Iterator[Batch]:
        generator = data.rng(seed, 428)
        there, away = (y == 1).nonzero()[:, 0], (y == 0).nonzero()[:, 0]
        while True:
            a = there[torch.randint(0, len(there), (3,), generator=generator)]
            b = away[torch.randint(0, len(away), (117,), generator=generator)]
            rows = torch.cat([a, b])
            yield 2 * x[rows] - 1, y[rows].float()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy_with_logits(model(batch[0])[:, 0], batch[1])

    model = refill(Tower(2, classes=1), he)
    nn.init.constant_(model.head.bias, -3.7)
    return teach(model, rare(), optim.Adam, 2e-3, loss)


def half_wrong(seed: int) -> Run:
    """Half of the labels are wrong, and the loss is bounded: it stays near where it began."""
    generator = data.rng(seed, 429)

    def lies() -> Iterator[Batch]:
        for x, y in pictures(64, seed):
            wrong = torch.rand(len(y), generator=generator) < 0.5
            yield x, torch.where(wrong, torch.randint(0, 10, y.shape, generator=generator), y)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share = model(batch[0]).softmax(1).gather(1, batch[1][:, None])[:, 0]
        return ((1 - share**0.7) / 0.7).mean()

    return teach(plain(64, 48, 10), lies(), optim.Adam, 5e-3, loss)


def resumed(seed: int) -> Run:
    """A trained net goes on where it was, with a fresh optimizer at a third of the rate."""
    model = taught(plain(64, 64, 10, act=nn.GELU), pictures(64, seed + 50), 250, 5e-3)
    return teach(model, pictures(64, seed), optim.Adam, 1e-3)


add("ok_hinge_game_on_a_roll", "two nets in turns, losses of any sign", roll_gan, 200, "bounded")
add("ok_gambler_on_iris", "a loss that means little and changes its sign", gambling, 200, "bounded")
add("ok_controller_through_a_spring", "a gradient through twenty steps, clipped", pendulum, 120)
add("ok_worst_class_counts", "weights of the loss that move", worst_group, 150)
add("ok_queue_of_negatives", "a slow copy without gradients, large logits", queue_of_negatives, 150)
add("ok_hardest_quarter", "a loss of the worst samples only", hardest_quarter, 150)
add("ok_noise_of_any_amount", "a loss of random difficulty", blurred, 150)
add("ok_one_patch_of_40", "a low loss at once, a prior of -3.7 at the output", mostly_absent, 200)
add("ok_half_of_labels_wrong", "a bounded loss that hardly falls", half_wrong, 150)
add("ok_resumed_with_fresh_adam", "a loss at its floor, tiny gradients", resumed, 120, "floor")
