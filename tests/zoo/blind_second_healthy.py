"""The second blind corpus, healthy part: ordinary trainings with ordinary oddities; and the nets of both parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_value_, rnn

from zoo import blind_nets as nets
from zoo import data, models, models_seq
from zoo.blind_nets import before_stepping, fit, following
from zoo.core import Batch, LossFn, Registry, Run, Turn
from zoo.recipes import VOCAB, cross_entropy, pretrained, scheduled, squared_error

optim = torch.optim
schedulers = torch.optim.lr_scheduler
SCENARIOS = Registry()
add = SCENARIOS.healthy


# ------------------------------------------------------------------------------------------------------------- nets


class PlainNet(nn.Module):
    """Convolutions with functional ReLU, pooled, and a linear head."""

    def __init__(self, depth: int = 3, width: int = 12) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(1 if i == 0 else width, width, 3, padding=1) for i in range(depth))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.view(-1, 1, 8, 8)
        for conv in self.convs:
            x = functional.relu(conv(x))
        return self.head(functional.max_pool2d(x, 4).flatten(1))


class Block(nn.Module):
    """Two convolutions around a shortcut, as in the first residual nets."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = norm(width), norm(width)

    def forward(self, x: Tensor) -> Tensor:
        """The next image."""
        h = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(x + self.norm2(self.conv2(h)))


class ResNet(nn.Module):
    """A small residual net."""

    def __init__(
        self, blocks: int = 3, width: int = 8, *, kind: Callable[[int], nn.Module] = nn.BatchNorm2d, twice: bool = False
    ) -> None:
        super().__init__()
        self.twice = twice
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, stride=2), kind(width)
        self.blocks = nn.ModuleList(Block(width, kind) for _ in range(blocks))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.norm(self.stem(x.view(-1, 1, 8, 8))))
        for block in self.blocks:
            x = x + block(x) if self.twice else block(x)
        return self.head(x.mean((2, 3)))


class Encoder(nn.Module):
    """A pre-norm layer of attention and a feed-forward part; shortcuts may be missing, branches may start small."""

    def __init__(self, width: int, *, skips: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.MultiheadAttention(width, 2, batch_first=True)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.skip = float(skips)
        self.scale = nn.Parameter(torch.full((2, width), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        h = self.norm1(x)
        x = self.skip * x + self.scale[0] * self.attend(h, h, h, need_weights=False)[0]
        return self.skip * x + self.scale[1] * self.narrow(functional.gelu(self.wide(self.norm2(x))))


class Vision(nn.Module):
    """A vision transformer over the 16 patches of a digit."""

    def __init__(
        self,
        layers: int = 2,
        width: int = 24,
        *,
        skips: bool = True,
        scale: float = 1.0,
        token: bool = False,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.patch, self.head, self.final = nn.Linear(4, width), nn.Linear(width, 10), nn.LayerNorm(width)
        self.place = nn.Parameter(0.02 * torch.randn(16 + token, width))
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if token else None
        self.blocks = nn.ModuleList(Encoder(width, skips=skips, scale=scale) for _ in range(layers))
        for module in self.modules():
            if std is not None and isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                nn.init.zeros_(module.bias)

    def parts(self) -> list[nn.Module]:
        """From the input to the output."""
        return [self.patch, *self.blocks, self.final, self.head]

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = x.view(-1, 4, 2, 4, 2).transpose(2, 3).reshape(-1, 16, 4)
        x = self.patch(x)
        if self.token is not None:
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = x + self.place
        for block in self.blocks:
            x = block(x)
        x = self.final(x)
        return self.head(x.mean(1) if self.token is None else x[:, 0])


class Shots:
    """Digits in other shapes."""

    @staticmethod
    def rows(size: int, seed: int) -> Iterator[Batch]:
        """Rows of an image as frames."""
        for x, y in data.batches(*data.digits(), size, seed):
            yield x.view(-1, 8, 8), y

    @staticmethod
    def table(name: str, size: int, seed: int) -> Iterator[Batch]:
        """A standardised table."""
        return data.batches(*data.table(name), size, seed)


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU, norm: bool = False, drop: float = 0.0) -> nn.Sequential:
    """A plain net."""
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes[:-1]):
        layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if norm else []), act()]
        layers += [nn.Dropout(drop)] if drop else []
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def rebuilt(model: nn.Module, batch: Batch) -> Tensor:
    """For autoencoders."""
    return functional.mse_loss(model(batch[0]), batch[0])


# ----------------------------------------------------------------------------------------------------------- images


def resnet(seed: int, kind: Callable[[int], nn.Module] = nn.BatchNorm2d, gamma: float = 1.0, blocks: int = 3) -> Run:
    """A residual net by the book."""
    model = ResNet(blocks, 8, kind=kind)
    for block in model.blocks:
        nn.init.constant_(block.norm2.weight, gamma)
    run = fit(seed, model, optim.SGD, 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True, size=32)
    return following(run, schedulers.MultiStepLR(run.optimizer, [60, 90], 0.1))


def separable(seed: int) -> Run:
    """Depthwise convolutions, ReLU6."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU6()]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
        layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return fit(seed, model, optim.RMSprop, 2e-3, momentum=0.9, size=32)


def normed(seed: int, norm: Callable[[int], nn.Module]) -> Run:
    """Convolutions with a norm."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for i in range(3):
        layers += [nn.Conv2d(16 if i else 1, 16, 3, padding=1), norm(16), nn.SiLU()]
    model = nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 10))
    return fit(seed, model, optim.AdamW, 3e-3, size=32)


def lenet(seed: int) -> Run:
    """Sigmoid-like convolutions of old, with average pooling."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 6, 3, padding=1),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(64, 32),
        nn.Tanh(),
        nn.Linear(32, 10),
    )
    return fit(seed, model, optim.SGD, 0.1, momentum=0.9, size=32)


def vit(seed: int, lr: float = 2e-3, **options: Any) -> Run:
    """A vision transformer."""
    return fit(seed, Vision(2, 24, **options), optim.AdamW, lr, size=32)


def batchnorm_frozen(seed: int) -> Run:
    """Tuning with BatchNorm in evaluation mode."""
    model = pretrained(ResNet(2, 8), seed, 40)
    x, y = data.digits()
    run = fit(seed, model, optim.SGD, 0.01, momentum=0.9, stream=data.batches(x * 0.5 + 0.25, y, 32, seed))

    def freeze(step: int) -> None:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    run.before_step = freeze
    return run


def masked_images(seed: int) -> Run:
    """A masked autoencoder: most inputs are zero, the loss looks at what was hidden."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        hidden = torch.rand(len(batch[0]), 64) < 0.6
        image = model(torch.where(hidden, 0.0, batch[0]))
        return (image - batch[0])[hidden].square().mean()

    return fit(seed, mlp(64, 64, 64, 64, act=nn.GELU), optim.Adam, 2e-3, loss=loss)


def bernoulli(seed: int) -> Run:
    """A convolutional autoencoder with a sigmoid at the end and binary cross-entropy."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy(model(batch[0]).sigmoid(), batch[0])

    return fit(seed, models.Hourglass(8, skips=False), optim.Adam, 5e-3, loss=loss, size=32)


def warmed_vae(seed: int) -> Run:
    """The KL term fades in: the loss rises as its meaning changes."""
    steps = count()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        image, mean, log_var = model(batch[0])
        kl = -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(1).mean()
        return (image - batch[0]).square().sum(1).mean() + min(1.0, next(steps) / 100) * kl

    return fit(seed, models.Variational(6), optim.Adam, 3e-3, loss=loss)


class Pair(nn.Module):
    """A generator and a critic."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.generator = mlp(8, 48, 48, 64, norm=norm)
        self.critic = mlp(64, 48, 48, 1, act=lambda: nn.LeakyReLU(0.2))


def gan(seed: int, *, penalty: float = 0.0, norm: bool = False) -> Run:
    """A GAN; a Wasserstein one with a gradient penalty."""
    model = Pair(norm=norm)

    def forged(n: int) -> Tensor:
        return model.generator(torch.randn(n, 8)).sigmoid()

    def judge(model: nn.Module, batch: Batch) -> Tensor:
        real, fake = batch[0], forged(len(batch[0])).detach()
        if not penalty:
            return functional.softplus(-model.critic(real)).mean() + functional.softplus(model.critic(fake)).mean()
        between = (real + torch.rand(len(real), 1) * (fake - real)).requires_grad_()
        slope = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)[0]
        gap = model.critic(fake).mean() - model.critic(real).mean()
        return gap + penalty * (slope.norm(dim=1) - 1).square().mean()

    def forge(model: nn.Module, batch: Batch) -> Tensor:
        verdict = model.critic(forged(len(batch[0])))
        return -verdict.mean() if penalty else functional.softplus(-verdict).mean()

    critic = optim.Adam(model.critic.parameters(), 1e-3, betas=(0.5, 0.9))
    generator = optim.Adam(model.generator.parameters(), 1e-3, betas=(0.5, 0.9))
    turns = (Turn(critic, judge), Turn(generator, forge))
    return Run(model, critic, data.batches(*data.digits(), 64, seed), judge, turns=turns)


for name, trap, make, options in (
    ("ok_resnet_by_the_book", "decay, Nesterov, a rate cut twice by ten", resnet, {}),
    ("ok_resnet_gamma_zero", "each block's last BatchNorm starts at a gain of zero", resnet, {"gamma": 0.0}),
    ("ok_resnet_of_4", "eight convolutions", resnet, {"blocks": 4}),
    ("ok_resnet_groupnorm", "groups in place of batches", resnet, {"kind": lambda n: nn.GroupNorm(2, n)}),
    ("ok_separable_relu6", "ReLU6 has two flat ends; RMSprop with momentum", separable, {}),
    ("ok_instance_norm", "biases before a norm", normed, {"norm": nn.InstanceNorm2d}),
    ("ok_lenet_tanh", "tanh all the way", lenet, {}),
    ("ok_vit", "mean over tokens", vit, {}),
    ("ok_vit_class_token", "all but one token have no gradient in the end", vit, {"token": True}),
    ("ok_vit_layer_scale_1e-3", "branches start at a thousandth", vit, {"scale": 1e-3}),
    ("ok_vit_init_0.02", "weights of deviation 0.02, which pre-norm forgives", vit, {"std": 0.02, "lr": 3e-3}),
    ("ok_batchnorm_in_eval", "tuning with frozen statistics", batchnorm_frozen, {}),
    ("ok_masked_images", "most inputs are zero", masked_images, {}),
    ("ok_bernoulli_images", "a sigmoid at the end that is sure of blank pixels", bernoulli, {}),
):
    add(name, trap, make, 110, **options)
add("ok_vae_kl_fades_in", "the loss grows as its second term fades in", warmed_vae, 200)
add("ok_gan_batchnorm", "two nets in turns, losses rise and fall", gan, 200, "bounded", norm=True)
add("ok_gan_leaky", "two nets in turns, losses rise and fall", gan, 200, "bounded")
add("ok_wgan_penalty", "second derivatives, a loss below zero", gan, 160, "bounded", penalty=10.0)

# -------------------------------------------------------------------------------------------------------- sequences


def reader(seed: int, kind: str, layers: int = 1, drop: float = 0.0) -> Run:
    """A recurrent net reads rows of an image."""
    model = models_seq.Fused(kind, 8, 32, 10, layers=layers)
    model.rnn.dropout = drop
    return fit(seed, model, optim.Adam, 5e-3, stream=Shots.rows(32, seed))


class Packed(nn.Module):
    """A bidirectional LSTM over packed texts of several lengths; the padding's row never learns."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab + 1, 12, padding_idx=0)
        self.rnn = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        packed = rnn.pack_padded_sequence(self.embed(x), (x > 0).sum(1), batch_first=True, enforce_sorted=False)
        return self.head(torch.cat(tuple(self.rnn(packed)[1][0]), 1))


def padded(seed: int) -> Run:
    """Which of two symbols is the more frequent, in texts of 4 to 12 symbols out of 400."""

    def texts() -> Iterator[Batch]:
        generator = data.rng(seed, 43)
        while True:
            y = torch.randint(0, 2, (32,), generator=generator)
            x = torch.randint(3, 21, (32, 12), generator=generator)
            x[torch.arange(32), torch.randint(0, 4, (32,), generator=generator)] = y + 1
            length = torch.randint(4, 13, (32, 1), generator=generator)
            yield torch.where(torch.arange(12) < length, x, 0), y

    return fit(seed, Packed(400), optim.AdamW, 1e-2, stream=texts())


def forecaster(seed: int, kind: str, loss: Callable[..., Tensor], unit: float = 1.0, lr: float = 5e-3) -> Run:
    """A recurrent net forecasts a series."""
    model = models_seq.Fused(kind, 1, 24, 1)
    stream = ((x.transpose(1, 2), y * unit) for x, y in nets.series(32, seed, 16))
    return fit(seed, model, optim.Adam, lr, loss=lambda m, b: loss(m(b[0])[:, 0], b[1]), stream=stream)


class Gated(nn.Module):
    """A causal layer in the newer style: RMSNorm and a gated feed-forward part, no biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.gate, self.down = (
            nn.Linear(a, b, bias=False) for a, b in ((width, 64), (width, 64), (64, width))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        n, t, d = x.shape
        q, k, v = (part.view(n, t, 2, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        h = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(h.transpose(1, 2).reshape(n, t, d))
        h = self.norm2(x)
        return x + self.down(functional.silu(self.gate(h)) * self.up(h))


class Language(nn.Module):
    """A small language model."""

    def __init__(self, vocab: int = VOCAB, layers: int = 2, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, width), nn.Embedding(64, width)
        self.layers = nn.ModuleList(Gated(width) for _ in range(layers))
        self.final, self.head = nn.RMSNorm(width), nn.Linear(width, vocab, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every position."""
        h = self.embed(x) + self.place(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = layer(h)
        return self.head(self.final(h))


def language(seed: int, vocab: int = VOCAB, *, growing: bool = False, most_ignored: bool = False) -> Run:
    """A language model; the texts may grow, and most targets may be ignored."""
    run = fit(seed, Language(vocab), optim.AdamW, 3e-3, betas=(0.9, 0.95), stream=data.windows(16, 24, seed))
    if growing:
        run.batches = ((x[:, : 4 + i // 8], y[:, : 4 + i // 8]) for i, (x, y) in enumerate(run.batches))
    if most_ignored:
        generator = data.rng(seed, 44)
        run.batches = (
            (x, torch.where(torch.rand(y.shape, generator=generator) < 0.85, -100, y)) for x, y in run.batches
        )
    return run


def bag_of_words(seed: int) -> Run:
    """Counts of 600 words of which most never occur: most columns of the first layer have no gradient."""

    def counts() -> Iterator[Batch]:
        generator = data.rng(seed, 45)
        while True:
            y = torch.randint(0, 2, (32,), generator=generator)
            words = torch.randint(0, 40, (32, 10), generator=generator) + 20 * y[:, None]
            yield torch.zeros(32, 600).scatter_add_(1, words, torch.ones(32, 10)), y

    return fit(seed, mlp(600, 32, 2), optim.Adagrad, 0.05, stream=counts())


def text_of_relu(seed: int) -> Run:
    """torch's own layers with ReLU and dropout, warmed up."""
    model = models_seq.TorchTransformer(VOCAB, drop=0.1)
    run = fit(seed, model, optim.Adam, 3e-3, stream=data.windows(16, 24, seed))
    return scheduled(run, lambda step: min(1.0, (step + 1) / 40))


add("ok_gru_reads_rows", "eight frames", reader, 150, kind="gru")
add("ok_lstm_of_2_dropout", "two layers with dropout in between", reader, 150, kind="lstm", layers=2, drop=0.3)
add("ok_rnn_reads_rows", "a plain recurrence that needs few frames", reader, 150, kind="tanh")
add("ok_packed_texts", "padding without gradient, rows that never occur", padded, 150)
add("ok_forecast_huber", "a smooth loss", forecaster, 150, kind="gru", loss=functional.huber_loss)
add("ok_forecast_l1", "gradients of constant size", forecaster, 150, kind="lstm", loss=functional.l1_loss)
add("ok_forecast_in_millionths", "a loss of 1e-12 under Adam", forecaster, 200, kind="gru", loss=functional.mse_loss,
    unit=1e-3, lr=2e-3)  # fmt: skip
add("ok_language_swiglu", "no biases anywhere", language, 110)
add("ok_language_of_600", "most rows of the embedding and of the head are never right", language, 110, vocab=600)
add("ok_language_texts_grow", "texts of 4 to 20 characters", language, 110, growing=True)
add("ok_language_ignored_targets", "six of seven targets are ignored", language, 110, most_ignored=True)
add("ok_bag_of_words", "most inputs are always zero", bag_of_words, 120)
add("ok_torch_transformer_relu", "dropout and a slow start", text_of_relu, 90)

# ----------------------------------------------------------------------------------------------------------- tables


def likely(seed: int) -> Run:
    """Mean and variance by a normal likelihood: the loss may fall below zero, gradients grow as the variance falls."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        mean, spread = model(batch[0]).chunk(2, 1)
        return functional.gaussian_nll_loss(mean[:, 0], 0.1 * batch[1], functional.softplus(spread[:, 0]) + 1e-4)

    return fit(seed, mlp(10, 32, 2, act=nn.SiLU), optim.Adam, 3e-3, loss=loss, stream=Shots.table("diabetes", 32, seed))


def skewed(seed: int) -> Run:
    """Log-normal features, standardised: a few are 20 deviations out in every batch."""
    x, y = data.table("breast_cancer")
    x = (1.5 * x).exp()
    x = (x - x.mean(0)) / x.std(0)
    return fit(seed, mlp(30, 32, 32, 2), optim.Adam, 2e-3, stream=data.batches(x, y, 32, seed))


def weighted(seed: int) -> Run:
    """One class of ten weighs 50 times as much."""
    weight = torch.ones(10)
    weight[3] = 50.0

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], weight)

    return fit(seed, mlp(64, 48, 10), optim.Adam, 2e-3, loss=loss, size=16)


def lasso(seed: int) -> Run:
    """A penalty on absolute weights."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(model, batch) + 1e-3 * sum(p.abs().sum() for p in model.parameters())

    return fit(seed, mlp(64, 64, 10), optim.SGD, 0.1, momentum=0.9, loss=loss)


def logistic(seed: int) -> Run:
    """Logistic regression by plain gradient descent."""
    return fit(seed, nn.Linear(64, 10), optim.SGD, 0.5)


def one_hot(model: nn.Module, batch: Batch) -> Tensor:
    """Squared error to one-hot targets: the loss begins at 0.1."""
    return functional.mse_loss(model(batch[0]), functional.one_hot(batch[1], 10).float())


def summed(model: nn.Module, batch: Batch) -> Tensor:
    """A sum over the batch."""
    return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


def margins(model: nn.Module, batch: Batch) -> Tensor:
    """A margin: samples far enough give no gradient."""
    return functional.multi_margin_loss(model(batch[0]), batch[1])


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    """Two noisy views of each image must find each other, temperature 0.1."""
    a, b = (functional.normalize(model(batch[0] + 0.1 * torch.randn_like(batch[0]))) for _ in range(2))
    return functional.cross_entropy(a @ b.T / 0.1, torch.arange(len(a)))


def uncertain(seed: int) -> Run:
    """Two tasks of very different units, weighted by learnt uncertainties."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.first, self.second = mlp(10, 32, 32, act=nn.ELU), nn.Linear(32, 1), nn.Linear(32, 1)
            self.spread = nn.Parameter(torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            h = functional.elu(self.body(x))
            return torch.cat([self.first(h), self.second(h)], 1)

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        target = torch.stack([batch[1], 5 + 3 * batch[0][:, 0]], 1)
        errors = (model(batch[0]) - target).square().mean(0)
        return ((-model.spread).exp() * errors + model.spread).sum()

    return fit(seed, Both(), optim.Adam, 5e-3, loss=loss, stream=Shots.table("diabetes", 32, seed))


def two_optimizers(seed: int) -> Run:
    """The body under Adam and the head under SGD, in turns."""
    model = nn.Sequential(mlp(64, 48, 48, act=nn.GELU), nn.Linear(48, 10))
    body, head = optim.Adam(model[0].parameters(), 2e-3), optim.SGD(model[1].parameters(), 0.1)
    stream = data.batches(*data.digits(), 64, seed)
    return Run(model, body, stream, cross_entropy, turns=(Turn(body, cross_entropy), Turn(head, cross_entropy)))


def clipped(seed: int, value: float) -> Run:
    """Gradients clipped by value, as some do by habit."""
    model = mlp(64, 48, 48, 10)
    run = fit(seed, model, optim.SGD, 0.1, momentum=0.9)
    return before_stepping(run, lambda: clip_grad_value_(model.parameters(), value))


def swinging(seed: int) -> Run:
    """A cosine whose T_max of 10 was meant in epochs: the rate swings to zero and back every 20 steps, harmlessly."""
    run = fit(seed, mlp(64, 64, 64, 10, act=nn.Tanh), optim.AdamW, 3e-3)
    return following(run, schedulers.CosineAnnealingLR(run.optimizer, 10))


def range_test(seed: int) -> Run:
    """A search for a rate: from 1e-5 up to 3e-2, which is still fine."""
    run = fit(seed, mlp(64, 64, 10, norm=True), optim.Adam, 1e-5)
    return scheduled(run, lambda step: 3000 ** min(1.0, step / 140))


def by_class(seed: int) -> Run:
    """Badly shuffled data: 10 batches of digits 0 to 4, then 10 of 5 to 9, and again; the loss jumps at each change."""
    x, y = data.digits()
    low = data.batches(x[y < 5], y[y < 5], 32, seed)
    high = data.batches(x[y > 4], y[y > 4], 32, seed)
    stream = (next(low if i // 10 % 2 == 0 else high) for i in count())
    return fit(seed, mlp(64, 48, 10), optim.SGD, 0.02, momentum=0.9, stream=stream)


def ragged(seed: int) -> Run:
    """Batches of 2 to 64 samples."""
    sizes = data.rng(seed, 46)
    stream = data.batches(*data.digits(), 64, seed)
    cut = (int(torch.randint(2, 65, (), generator=sizes)) for _ in count())
    return fit(seed, PlainNet(3, 12), optim.Adam, 2e-3, stream=((x[:n], y[:n]) for (x, y), n in zip(stream, cut)))  # noqa: B905


def digits_by(seed: int, kind: type[optim.Optimizer], lr: float, loss: LossFn = cross_entropy, **rest: Any) -> Run:
    """A net on digits under an optimizer and a loss; ``wide`` and the like shape the net."""
    sizes = rest.pop("sizes", (64, 48, 10))
    model = mlp(*sizes, act=rest.pop("act", nn.ReLU), norm=rest.pop("norm", False), drop=rest.pop("drop", 0.0))
    return fit(seed, model, kind, lr, loss=loss, **rest)


def accumulated(seed: int) -> Run:
    """Six batches of two a step."""
    run = fit(seed, PlainNet(2, 12), optim.SGD, 0.1, momentum=0.9, size=2)
    run.accum = 6
    return run


def shared_layer(seed: int) -> Run:
    """One layer is applied five times."""

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inlet, self.shared, self.head = nn.Linear(64, 32), nn.Linear(32, 32), nn.Linear(32, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inlet(x).tanh()
            for _ in range(5):
                x = x + self.shared(x).tanh()
            return self.head(x)

    return fit(seed, Again(), optim.Adam, 2e-3)


def collaborative(seed: int) -> Run:
    """Matrix factorisation: most users and items are not in a batch."""

    class Factors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(300, 6), nn.Embedding(200, 6)
            self.mean = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return (self.users(x[:, 0]) * self.items(x[:, 1])).sum(1) + self.mean

    def ratings() -> Iterator[Batch]:
        generator = data.rng(seed, 47)
        user, item = torch.randn(300, generator=generator), torch.randn(200, generator=generator)
        while True:
            pairs = torch.randint(0, 200, (64, 2), generator=generator)
            yield pairs, 3.5 + user[pairs[:, 0]] * item[pairs[:, 1]]

    return fit(seed, Factors(), optim.Adam, 2e-2, loss=nets.next_value, stream=ratings())


def scaled_cosines(seed: int) -> Run:
    """Normalised features and classes, a scale of 16 and a margin."""

    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.classes = mlp(64, 64, 16), nn.Linear(16, 10, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return functional.normalize(self.body(x)) @ functional.normalize(self.classes.weight).T

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        cosine = model(batch[0]) - 0.2 * functional.one_hot(batch[1], 10)
        return functional.cross_entropy(16 * cosine, batch[1])

    return fit(seed, Cosine(), optim.SGD, 0.05, momentum=0.9, loss=loss)


def poisson(seed: int) -> Run:
    """Counts by their logarithm."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.poisson_nll_loss(model(batch[0])[:, 0], (batch[1].exp() * 3).round())

    stream = Shots.table("diabetes", 32, seed)
    return fit(seed, mlp(10, 32, 1, act=nn.Tanh), optim.Adamax, 5e-3, loss=loss, stream=stream)


def linear_regression(seed: int) -> Run:
    """Three weights; the residual noise stays."""
    x, y = data.table("diabetes")
    return fit(seed, nn.Linear(10, 1), optim.SGD, 0.02, loss=squared_error, stream=data.batches(x, y + 1, 32, seed))


D = digits_by
for name, trap, make, options in (
    ("ok_normal_likelihood", "a loss that falls below zero", likely, {}),
    ("ok_skewed_features", "inputs 20 deviations out in every other batch", skewed, {}),
    ("ok_class_weight_50", "one class of ten makes most of the gradient", weighted, {}),
    ("ok_lasso", "a penalty that starts above the loss and drives weights to zero", lasso, {}),
    ("ok_logistic_regression", "a single layer", logistic, {}),
    ("ok_one_hot_squares", "a loss that starts at 0.1", D, {"kind": optim.Adam, "lr": 2e-3, "loss": one_hot}),
    ("ok_summed_loss", "a sum, and a rate to match", D, {"kind": optim.SGD, "lr": 2e-3, "loss": summed}),
    ("ok_multi_margin", "samples far enough give no gradient", D, {"kind": optim.NAdam, "lr": 2e-3, "loss": margins}),
    ("ok_contrast", "large logits by a temperature", D, {"kind": optim.Adam, "lr": 2e-3, "loss": contrast}),
    ("ok_two_uncertain_tasks", "losses of two units", uncertain, {}),
    ("ok_body_and_head_in_turns", "half of the weights rest at each step", two_optimizers, {}),
    ("ok_clip_value_0.01", "most gradients are at the limit of the clipping at first", clipped, {"value": 0.01}),
    ("ok_cosine_swings", "the rate returns to zero every 20 steps", swinging, {}),
    ("ok_range_test", "the rate grows from next to nothing by 3000", range_test, {}),
    ("ok_batches_by_class", "the loss jumps at each change of classes", by_class, {}),
    ("ok_ragged_batches", "batches of 2 to 64 samples", ragged, {}),
    ("ok_accumulation_6_of_2", "six backward passes of two samples", accumulated, {}),
    ("ok_shared_layer", "one layer is applied five times", shared_layer, {}),
    ("ok_collaborative", "most rows have no gradient, many are never used", collaborative, {}),
    ("ok_scaled_cosines", "a margin and a scale of 16", scaled_cosines, {}),
    ("ok_poisson_counts", "an exponential in the loss", poisson, {}),
    ("ok_linear_regression", "a noise floor soon", linear_regression, {}),
    ("ok_amsgrad", "a maximum of second moments", D, {"kind": optim.Adam, "lr": 3e-3, "amsgrad": True}),
    ("ok_rmsprop_centred", "centred second moments", D, {"kind": optim.RMSprop, "lr": 2e-3, "centered": True}),
    ("ok_sgd_dampened", "a dampened momentum", D, {"kind": optim.SGD, "lr": 0.5, "momentum": 0.8, "dampening": 0.8}),
    ("ok_adadelta_1", "steps that begin tiny", D, {"kind": optim.Adadelta, "lr": 1.0}),
    ("ok_wide_768", "a wide layer, small gradients each", D,
     {"kind": optim.SGD, "lr": 0.1, "sizes": (64, 768, 10)}),
    ("ok_bottleneck_of_2", "two units in the middle", D,
     {"kind": optim.Adam, "lr": 1e-2, "sizes": (64, 48, 2, 48, 10), "act": nn.Tanh}),
    ("ok_batchnorm_dropout", "noise in front of everything", D,
     {"kind": optim.SGD, "lr": 0.1, "sizes": (64, 64, 64, 64, 10), "norm": True, "drop": 0.5, "momentum": 0.9}),
    ("ok_prelu_5_layers", "learnt slopes", D,
     {"kind": optim.Adam, "lr": 2e-3, "sizes": (64, 32, 32, 32, 32, 32, 10), "act": nn.PReLU}),
    ("ok_hardswish", "flat below -3", D, {"kind": optim.AdamW, "lr": 3e-3, "act": nn.Hardswish}),
    ("ok_batch_of_512", "little noise, few epochs", D, {"kind": optim.SGD, "lr": 0.3, "momentum": 0.9, "size": 512}),
):  # fmt: skip
    add(name, trap, make, 150, **options)
