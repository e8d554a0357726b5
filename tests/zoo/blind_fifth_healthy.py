"""The fifth blind corpus, healthy part: ordinary recipes that look odd here and there, and learn.

Written without a look at any detector; that each of them learns is measured by ``verify_blind``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import data
from zoo.blind_fifth_nets import (
    AutoEncoder,
    ConvNet,
    DeepSet,
    Factors,
    Forecaster,
    Gcn,
    MiniGpt,
    ResNet,
    Tagger,
    Vae,
    Vit,
    bags,
    blobs,
    first_word,
    flat,
    friedman,
    hours,
    itself,
    ratings,
    rows,
    shapes,
    whole_network,
)
from zoo.blind_fourth_nets import plain, squares, taught, teach
from zoo.core import Batch, Registry, Run, Turn

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.healthy
VOCAB = data.text()[1]


def characters(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy at every place of a text."""
    return functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def paced(run: Run, kind: Callable[..., Any], *args: Any, **options: Any) -> Run:
    """The run under one of torch's schedules, asked after each step."""
    schedule = kind(run.optimizer, *args, **options)
    run.optimizer.register_step_post_hook(lambda *_: schedule.step())
    return run


def warm_up(run: Run, steps: int) -> Run:
    """The run with a linear warm-up."""
    return paced(run, optim.lr_scheduler.LambdaLR, lambda step: min(1.0, (step + 1) / steps))


# ------------------------------------------------------------------------------------------- schedules and optimizers


def one_cycle(seed: int) -> Run:
    """A ResNet under one cycle up to a rate of 0.2 and down to nothing."""
    run = teach(ResNet(2), shapes(32, seed), optim.SGD, 0.01, momentum=0.9)
    return paced(run, optim.lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=111)


def milestones(seed: int) -> Run:
    """The rate is divided by ten twice; the end of the run is very slow."""
    run = teach(plain(64, 64, 10), flat(32, seed), optim.SGD, 0.05, momentum=0.9, nesterov=True)
    return paced(run, optim.lr_scheduler.MultiStepLR, [70, 130])


def restarts(seed: int) -> Run:
    """A cosine that starts again every 40 steps."""
    run = teach(ConvNet(), shapes(32, seed), optim.AdamW, 5e-3)
    return paced(run, optim.lr_scheduler.CosineAnnealingWarmRestarts, 40, eta_min=1e-6)


def adadelta(seed: int) -> Run:
    """Adadelta at its default rate of one on a tanh net."""
    return teach(plain(20, 64, 64, 5, act=nn.Tanh), blobs(32, seed), optim.Adadelta, 1.0)


def rprop(seed: int) -> Run:
    """Rprop on the whole table of wines: steps that grow while signs agree."""
    x, y = data.table("wine")
    return teach(plain(13, 24, 3, act=nn.Tanh), data.batches(x, y, len(x), seed), optim.Rprop, 1e-3)


def eight_parts(seed: int) -> Run:
    """Eight micro-batches of four to each step."""
    return teach(plain(10, 48, 48, 1), friedman(4, seed), optim.Adam, 5e-3, squares, accum=8)


add("ok_one_cycle_to_0.2", "a rate that rises by 500 and falls by 1e5", one_cycle, 110)
add("ok_milestones_70_130", "next to no progress in the last third", milestones, 200)
add("ok_cosine_restarts_of_40", "the rate jumps up from a millionth three times", restarts, 150)
add("ok_adadelta_1", "a nominal rate of one, tiny steps at first", adadelta, 200)
add("ok_rprop_wine", "no noise at all, steps that know no size of a gradient", rprop, 100)
add("ok_eight_micro_batches_of_4", "a noisy loss, eight backward passes to a step", eight_parts, 60)

# ------------------------------------------------------------------------------------------------------ convolutions


def resnet(seed: int) -> Run:
    """A ResNet whose last BatchNorm of each block begins at zero, under SGD of 0.1."""
    model = ResNet(3)
    for block in model.blocks:
        nn.init.zeros_(block.bn2.weight)
    return teach(model, shapes(32, seed), optim.SGD, 0.1, momentum=0.9, weight_decay=5e-4)


def bytes_and_norm(seed: int) -> Run:
    """Images of 0 to 255 behind which BatchNorm comes first of all."""
    stream = ((255 * x, y) for x, y in shapes(32, seed))
    return teach(ConvNet(), stream, optim.Adam, 3e-3)


def mixed_up(seed: int) -> Run:
    """Mixup and label smoothing: a loss that stays high."""
    generator = data.rng(seed, 520)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        share = float(torch.rand((), generator=generator)) / 2
        logits = model((1 - share) * batch[0] + share * batch[0].flip(0))
        ends = [functional.cross_entropy(logits, y, label_smoothing=0.1) for y in (batch[1], batch[1].flip(0))]
        return (1 - share) * ends[0] + share * ends[1]

    return teach(ConvNet(12), shapes(32, seed), optim.Adam, 5e-3, loss)


def coarse_convs(seed: int) -> Run:
    """Convolutions under autocast to bfloat16."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0])
        return functional.cross_entropy(logits.float(), batch[1])

    return teach(ConvNet(), shapes(32, seed), optim.SGD, 0.03, loss, momentum=0.9)


def frozen_body(seed: int) -> Run:
    """A trained body is frozen; a new head learns to tell bars from frames and crosses."""
    model = taught(ConvNet(norm=False), shapes(32, seed + 50), 150)
    for p in model.parameters():
        p.requires_grad_(requires_grad=False)
    model.fc2 = nn.Linear(32, 2)
    stream = ((x, (y > 1).long()) for x, y in shapes(32, seed))
    return teach(model, stream, optim.Adam, 0.01)


def tuned(seed: int) -> Run:
    """All of a trained net is tuned: the body at a hundredth of the rate of the new head."""
    model = taught(ConvNet(), shapes(32, seed + 50), 100)
    model.fc2 = nn.Linear(32, 2)
    stream = ((x, (y % 2).long()) for x, y in shapes(32, seed))
    groups = [
        {"params": [p for name, p in model.named_parameters() if not name.startswith("fc2")], "lr": 1e-5},
        {"params": model.fc2.parameters()},
    ]
    return teach(model, stream, optim.AdamW, 1e-3, weights=groups)


add("ok_resnet_last_norm_zero", "blocks whose convolutions have no gradient at step one", resnet, 100)
add("ok_bytes_into_batchnorm", "inputs of 255, absorbed by BatchNorm", bytes_and_norm, 120)
add("ok_mixup_and_smoothing", "a loss that stays high and noisy", mixed_up, 140)
add("ok_bfloat16_convs", "coarse activations and gradients", coarse_convs, 120)
add("ok_new_head_on_frozen_convs", "most layers have no gradient, on purpose", frozen_body, 120)
add("ok_tuned_at_a_hundredth", "a body that hardly moves", tuned, 120)

# --------------------------------------------------------------------------------------------- sequences and attention


def stacked_lstm(seed: int) -> Run:
    """Two LSTM layers with dropout on the manual, clipped at 0.5."""
    model = Tagger("lstm", VOCAB, VOCAB, 40, layers=2, every=True, drop=0.3)
    return teach(model, data.windows(12, 20, seed), optim.Adam, 0.01, characters, clip=0.5)


def long_memory(seed: int) -> Run:
    """A GRU finds the first of ten symbols after a plateau."""
    return teach(Tagger("gru", 12, 4), first_word(32, 10, seed), optim.RMSprop, 3e-3, clip=1.0)


def row_by_row(seed: int) -> Run:
    """An LSTM reads digits row by row under SGD with momentum."""
    return teach(Forecaster("lstm", 8, 32, 10), rows(32, seed), optim.SGD, 0.3, momentum=0.9, clip=2.0)


def forecast(seed: int) -> Run:
    """A GRU soon forecasts as well as the noise allows; the quantile of 0.9 under Adam."""

    def pinball(model: nn.Module, batch: Batch) -> Tensor:
        miss = batch[1] - model(batch[0])[:, 0]
        return torch.maximum(0.9 * miss, -0.1 * miss).mean()

    return teach(Forecaster("gru"), hours(32, seed), optim.Adam, 5e-3, pinball)


def decoder(seed: int) -> Run:
    """A decoder clipped at 0.1, as it is done with language models now and then."""
    run = teach(MiniGpt(VOCAB), data.windows(12, 24, seed), optim.AdamW, 3e-3, characters, clip=0.1, weight_decay=0.1)
    return warm_up(run, 20)


def post_norm(seed: int) -> Run:
    """The norms behind the sums, as in the first transformers, with dropout and a warm-up."""
    model = MiniGpt(VOCAB, layers=2, pre=False, drop=0.1)
    run = teach(model, data.windows(12, 24, seed), optim.Adam, 2e-3, characters, betas=(0.9, 0.98))
    return warm_up(run, 40)


def vision(seed: int) -> Run:
    """A vision transformer with a warm-up and a strong decay."""
    run = teach(Vit(), shapes(32, seed), optim.AdamW, 2e-3, clip=1.0, weight_decay=0.3)
    return warm_up(run, 30)


add("ok_lstm_two_layers_dropout", "clipping in every step, dropout between layers", stacked_lstm, 100)
add("ok_gru_first_of_ten", "a plateau before the loss falls", long_memory, 200)
add("ok_lstm_row_by_row", "a slow start, then a fast fall", row_by_row, 200)
add("ok_pinball_gru", "a loss that is soon at its floor", forecast, 120)
add("ok_decoder_clip_0.1", "every step is clipped by ten and more", decoder, 90)
add("ok_post_norm_decoder", "small gradients low down, a warm-up", post_norm, 90)
add("ok_vit_strong_decay", "weights that shrink, a warm-up", vision, 100)

# -------------------------------------------------------------------------------- autoencoders, graphs, sets, tables


def vae(seed: int) -> Run:
    """A variational autoencoder whose loss is a sum over pixels and grows a second part."""
    done = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits, mean, spread = model(batch[0])
        done[0] += 1
        apart = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(1).mean()
        bits = functional.binary_cross_entropy_with_logits(logits, batch[1], reduction="none").sum(1).mean()
        return bits + min(1.0, done[0] / 100) * apart

    return teach(Vae(), itself(48, seed), optim.Adam, 3e-3, loss)


def denoiser(seed: int) -> Run:
    """An autoencoder gets digits with half of their pixels gone; the loss is squares of a sigmoid."""
    generator = data.rng(seed, 521)
    stream = ((x * (torch.rand(x.shape, generator=generator) > 0.5), y) for x, y in itself(48, seed))
    return teach(AutoEncoder(64, 16, nn.LeakyReLU), stream, optim.Adam, 5e-3, squares)


def graph(seed: int) -> Run:
    """A graph net with dropout of a half and decay on the whole network, the same batch over and over."""
    return teach(Gcn(2, drop=0.5), whole_network(), optim.Adam, 0.01, weight_decay=5e-4)


def sums(seed: int) -> Run:
    """A sum over ten items; a loss of fours at first."""
    return teach(DeepSet("sum"), bags(48, seed), optim.Adam, 3e-3, squares)


def films(seed: int) -> Run:
    """Matrix factorisation with sparse rows: most of them rest in each step; ratings begin three off."""
    return teach(Factors(), ratings(64, seed), optim.Adagrad, 0.2, squares)


def memorised(seed: int) -> Run:
    """Forty rows of wine are learnt by heart: loss and gradients go to nothing."""
    x, y = data.table("wine")
    few = torch.randperm(len(x), generator=data.rng(seed, 522))[:40]
    return teach(plain(13, 64, 64, 3), data.batches(x[few], y[few], 20, seed), optim.Adam, 0.01)


def rare(seed: int) -> Run:
    """Two classes of 1 to 15; the rare one counts fifteen times."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])[:, 0]
        weight = logits.new_tensor(15.0)
        return functional.binary_cross_entropy_with_logits(logits, batch[1], pos_weight=weight)

    def stream() -> Iterator[Batch]:
        generator = data.rng(seed, 523)
        for x, y in blobs(96, seed):
            keep = (y > 0) | (torch.rand(len(y), generator=generator) < 0.25)
            yield x[keep], (y[keep] == 0).float()

    return teach(plain(20, 48, 1), stream(), optim.Adam, 5e-3, loss)


def rough_targets(seed: int) -> Run:
    """One target in thirty is off by dozens; Huber's loss does not mind."""
    generator = data.rng(seed, 524)

    def stream() -> Iterator[Batch]:
        for x, y in friedman(64, seed):
            off = (torch.rand(len(y), generator=generator) < 0.03) * torch.randn(len(y), generator=generator)
            yield x, y + 30 * off

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.huber_loss(model(batch[0])[:, 0], batch[1])

    return teach(plain(10, 48, 48, 1), stream(), optim.Adam, 5e-3, loss)


def counts(seed: int) -> Run:
    """Counts up to a hundred by Poisson's likelihood and an exponential link."""
    generator = data.rng(seed, 525)
    stream = ((x, torch.poisson((1 + y).exp(), generator)) for x, y in friedman(64, seed))

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.poisson_nll_loss(model(batch[0])[:, 0], batch[1])

    return teach(plain(10, 48, 1), stream, optim.Adam, 5e-3, loss)


def one_hot(seed: int) -> Run:
    """Windows of text as one-hot rows, mostly zeros; the next character."""
    stream = ((functional.one_hot(x, VOCAB).float().flatten(1), y[:, -1]) for x, y in data.windows(64, 4, seed))
    return teach(plain(4 * VOCAB, 64, VOCAB), stream, optim.SGD, 0.5, momentum=0.9)


def sigmoid_net(seed: int) -> Run:
    """Two sigmoid layers, which are few enough, at a rate of one."""
    return teach(plain(64, 40, 40, 10, act=nn.Sigmoid), flat(32, seed), optim.SGD, 0.5, momentum=0.9)


add("ok_vae_with_annealing", "a loss of dozens whose meaning shifts", vae, 180)
add("ok_half_of_the_pixels", "a sigmoid whose outputs are mostly at zero, rightly", denoiser, 180)
add("ok_graph_whole_batch", "the same batch over and over, half of the units dropped", graph, 150)
add("ok_sum_over_items", "gradients that are sums of ten", sums, 150)
add("ok_factors_adagrad", "rows that rest, a loss of ten at first", films, 200)
add("ok_forty_rows_by_heart", "loss and gradients vanish because all is learnt", memorised, 150)
add("ok_one_in_sixteen_counts_15", "a noisy loss with large weights", rare, 180)
add("ok_huber_on_rough_targets", "targets off by dozens in most batches", rough_targets, 180)
add("ok_poisson_counts", "an exponential, targets up to a hundred, a negative loss", counts, 150)
add("ok_one_hot_windows", "inputs that are nearly all zero, a rate of 0.5", one_hot, 150)
add("ok_two_sigmoid_layers", "sigmoids and a plateau at first", sigmoid_net, 200)

# --------------------------------------------------------------------------------------------------- several at a time


def triplets(seed: int) -> Run:
    """Triplets of blobs by a margin: more and more of them have no gradient at all."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        h = functional.normalize(model(batch[0]), dim=1)
        apart = torch.cdist(h, h)
        same = batch[1][:, None] == batch[1]
        near, far = (apart * same).amax(1), apart.masked_fill(same, math.inf).amin(1)
        return (near - far + 0.3).relu().mean()

    return teach(plain(64, 64, 8), flat(32, seed), optim.Adam, 2e-3, loss)


def pupil(seed: int) -> Run:
    """A small net learns a large one's answers at a temperature of four."""
    teacher = taught(plain(64, 96, 96, 10), flat(48, seed + 50), 200).requires_grad_(requires_grad=False)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        soft = (teacher(batch[0]) / 4).softmax(1)
        apart = functional.kl_div((model(batch[0]) / 4).log_softmax(1), soft, reduction="batchmean")
        return 16 * apart

    return teach(plain(64, 24, 10), flat(32, seed), optim.Adam, 5e-3, loss)


class TwoTasks(nn.Module):
    """One body, a class and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(20, 48), nn.ReLU())
        self.which, self.size = nn.Linear(48, 5), nn.Linear(48, 1)

    def forward(self, x: Tensor, task: int) -> Tensor:
        """Outputs of one task; the other head rests."""
        return self.size(self.body(x)) if task else self.which(self.body(x))


def in_turns(seed: int) -> Run:
    """Two tasks in turns: in each step one head has no gradient."""
    done = [0]

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        done[0] += 1
        if done[0] % 2:
            return functional.cross_entropy(model(batch[0], 0), batch[1])
        return functional.mse_loss(model(batch[0], 1)[:, 0], batch[0].square().mean(1) - 1.8)

    return teach(TwoTasks(), blobs(32, seed), optim.Adam, 5e-3, loss)


class Chain(nn.Module):
    """Values of the actions in a chain of ten places, and a slow copy."""

    def __init__(self) -> None:
        super().__init__()
        self.online = plain(10, 32, 2)
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Values."""
        return self.online(x)


def values(seed: int) -> Run:
    """Learning of values with a copy that is renewed every 25 steps: the loss rises each time."""

    def stream() -> Iterator[Batch]:
        generator = data.rng(seed, 526)
        while True:
            place, action = (torch.randint(0, n, (64,), generator=generator) for n in (10, 2))
            after = (place + 2 * action - 1).clamp(0, 9)
            yield functional.one_hot(place, 10).float(), action, functional.one_hot(after, 10).float()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        x, action, after = batch
        gain = after[:, 9] + 0.9 * model.target(after).amax(1) * (1 - after[:, 9])
        return functional.smooth_l1_loss(model(x).gather(1, action[:, None])[:, 0], gain)

    model = Chain()

    def renew(step: int) -> None:
        if step % 25 == 0:
            model.target.load_state_dict(model.online.state_dict())

    run = teach(model, stream(), optim.Adam, 3e-3, loss)
    run.before_step = renew
    return run


def bandit(seed: int) -> Run:
    """A policy learns which of five arms a context wants, by rewards only: a loss of any sign."""
    generator = data.rng(seed, 527)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        logits = model(batch[0])
        arm = torch.multinomial(logits.detach().softmax(1), 1, generator=generator)[:, 0]
        reward = (arm == batch[1]).float()
        return (-(reward - reward.mean()) * logits.log_softmax(1).gather(1, arm[:, None])[:, 0]).mean()

    return teach(plain(20, 48, 5, act=nn.Tanh), blobs(64, seed), optim.Adam, 5e-3, loss)


class Gan(nn.Module):
    """A generator of pairs and its critic."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.critic = plain(4, 32, 2), plain(2, 32, 1, act=nn.LeakyReLU)

    def forward(self, z: Tensor) -> Tensor:
        """Pairs."""
        return self.generator(z)


def gan(seed: int) -> Run:
    """Generator and critic of points on a ring, in turns, Adam with a first beta of a half."""
    source = data.rng(seed, 528)

    def stream() -> Iterator[Batch]:
        while True:
            angle = math.tau * torch.rand(64, generator=source)
            ring = torch.stack([angle.cos(), angle.sin()], 1)
            yield ring + 0.05 * torch.randn(64, 2, generator=source), torch.randn(64, 4, generator=source)

    def criticise(model: nn.Module, batch: Batch) -> Tensor:
        good, bad = model.critic(batch[0]), model.critic(model(batch[1]).detach())
        return functional.softplus(-good).mean() + functional.softplus(bad).mean()

    def generate(model: nn.Module, batch: Batch) -> Tensor:
        return functional.softplus(-model.critic(model(batch[1]))).mean()

    model = Gan()
    first = optim.Adam(model.critic.parameters(), 2e-3, betas=(0.5, 0.999))
    second = optim.Adam(model.generator.parameters(), 2e-3, betas=(0.5, 0.999))
    return Run(model, first, stream(), criticise, turns=(Turn(first, criticise), Turn(second, generate)))


add("ok_hardest_triplets", "more and more samples without a gradient", triplets, 150)
add("ok_pupil_at_temperature_4", "a loss times sixteen, a teacher that rests", pupil, 150)
add("ok_two_heads_in_turns", "each head rests in every other step", in_turns, 200)
add("ok_values_with_slow_copy", "the loss rises every 25 steps", values, 200, "bounded")
add("ok_bandit_by_rewards", "a loss around zero that means little", bandit, 200, "bounded")
add("ok_gan_on_a_ring", "two nets in turns, losses that do not fall", gan, 200, "bounded")
