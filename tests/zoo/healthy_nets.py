"""Healthy runs of nets whose activations, depth, sparsity or tasks look like faults."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from zoo import data, models, models_seq
from zoo.core import Batch, Registry, Run
from zoo.faulty_data import rebuilding, sounds, zero_gains
from zoo.faulty_signal import autoencoder, cell_loop, lstm_forgets
from zoo.faulty_units import Squashed
from zoo.recipes import (
    VOCAB,
    cross_entropy,
    echoing,
    images,
    on_digits,
    optimizer,
    stack,
    tabular,
    transformer,
    writing,
)

SCENARIOS = Registry()


def sparse_units(seed: int, bias: float) -> Run:
    """A wide ReLU layer of which few units are open at a time."""
    model = models.reset(models.Stack([64, 512, 10]), "he")
    nn.init.constant_(model.linears[0].bias, bias)
    return on_digits(seed, model, "adam", 2e-3)


def sure_sigmoid(seed: int, *, functional_act: bool = True) -> Run:
    """Binary cross-entropy of a sigmoid's output, which ends up at 0 and 1."""
    model = (
        Squashed(30, "sigmoid", "relu") if functional_act else nn.Sequential(models.Stack([30, 24, 1]), nn.Sigmoid())
    )
    x, y = data.table("breast_cancer")

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.binary_cross_entropy(model(batch[0])[:, 0], batch[1].float())

    return Run(model, optimizer(model.parameters(), "adam", 2e-2), data.batches(x, y, 64, seed), loss)


def copying(seed: int, layers: int, lr: float, **options: bool) -> Run:
    """Copying by attention, which becomes sharp when it is learnt."""
    model = models_seq.OwnTransformer(7, 32, layers, 2, 12, **options)
    return Run(model, optimizer(model.parameters(), "adam", lr), data.copying(32, seed), cross_entropy)


def signs(seed: int, of: int, kind: str, lr: float, width: int = 96) -> Run:
    """Parity: a plateau, then a drop."""
    model = models.Stack([8, width, 2])
    return Run(model, optimizer(model.parameters(), kind, lr), data.parity(64, seed, 8, of), cross_entropy)


class Normalised(nn.Module):
    """BatchNorm on raw features, then a stack."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.norm, self.body = nn.BatchNorm1d(d_in), models.Stack([d_in, 32, d_out])

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.body(self.norm(x))


def raw_normalised(seed: int, name: str) -> Run:
    """Raw features that the net itself normalises."""
    x, y = data.table(name, standardise=False)
    model = Normalised(x.shape[1], int(y.max()) + 1)
    return Run(model, optimizer(model.parameters(), "momentum", 0.02), data.batches(x, y, 32, seed), cross_entropy)


def variational(seed: int) -> Run:
    """A variational autoencoder."""
    model = models.Variational()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        out, mean, log_var = model(batch[0])
        divergence = 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()
        return functional.mse_loss(out, batch[0], reduction="none").sum(1).mean() + 0.2 * divergence

    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 64, seed), loss)


def contrast(seed: int) -> Run:
    """A siamese net: same class near, others beyond a margin; most pairs give no gradient in the end."""
    model = models.Twins()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        a, b = model(batch[0][:48], batch[0][48:])
        distance = (a - b).square().sum(1)
        same = (batch[1][:48] == batch[1][48:]).float()
        return (same * distance + (1 - same) * functional.relu(2 - (distance + 1e-6).sqrt()).square()).mean()

    return Run(model, optimizer(model.parameters(), "adam", 2e-3), data.batches(*data.digits(), 96, seed), loss)


class Bags(nn.Module):
    """Sparse embedding bags of hashed character pairs."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(4000, 16, mode="mean", sparse=sparse)
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.bag((x[:, :-1] * 97 + x[:, 1:]) % 4000))


def spaces(stream_seed: int, size: int = 32, length: int = 20) -> tuple[Tensor, Tensor]:
    """Texts, and whether they have at least as many spaces as the middle one."""
    letters, _ = data.text()
    starts = torch.randint(0, len(letters) - length, (1600,), generator=data.rng(stream_seed, 13))
    rows = letters[starts[:, None] + torch.arange(length)]
    counts = (rows == letters.mode().values).sum(1)
    return rows, (counts >= counts.median()).long()


def bags(seed: int, *, sparse: bool) -> Run:
    """Bags of character pairs; with sparse gradients under plain SGD."""
    model = Bags(sparse=sparse)
    chosen = optimizer(model.parameters(), "sgd", 3.0) if sparse else optimizer(model.parameters(), "adam", 2e-2)
    return Run(model, chosen, data.batches(*spaces(seed), 64, seed), cross_entropy)


def text_conv(seed: int) -> Run:
    """Convolutions over characters."""
    model = models_seq.TextConv(VOCAB)
    return Run(model, optimizer(model.parameters(), "adam", 5e-3), data.batches(*spaces(seed), 32, seed), cross_entropy)


def rare_class(seed: int) -> Run:
    """One class in forty: the loss is low at once and improves slowly."""
    x, y = data.digits()
    keep = (y != 1) | (torch.arange(len(y)) % 4 == 0)
    model = models.Stack([64, 48, 2], "tanh")
    return Run(
        model,
        optimizer(model.parameters(), "momentum", 0.02),
        data.batches(x[keep], (y[keep] == 1).long(), 32, seed),
        cross_entropy,
    )


def bounded_norms(seed: int) -> Run:
    """Spectral normalisation: weights are computed from others."""
    model = nn.Sequential(
        spectral_norm(nn.Linear(64, 64)), nn.ReLU(), spectral_norm(nn.Linear(64, 64)), nn.ReLU(), nn.Linear(64, 10)
    )
    return on_digits(seed, model, "adam", 3e-3)


def shut_gains(seed: int) -> Run:
    """Residual convolutions whose gains start at zero; GELU passes a gradient at zero, ReLU would not."""
    return zero_gains(seed, "gelu", 0.0)


def denoising(seed: int) -> Run:
    """An hourglass removes noise: the loss falls and then is noise."""
    model = models.Hourglass()

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return functional.mse_loss(model(batch[0] + 0.3 * torch.randn_like(batch[0])), batch[0])

    return Run(model, optimizer(model.parameters(), "adam", 3e-3), data.batches(*data.digits(), 32, seed), loss)


add = SCENARIOS.healthy
add("ok_dropout_70", "70 % zero activations and a noisy loss", stack, 250, depth=2, width=192, drop=0.7, kind="adam",
    lr=3e-3)  # fmt: skip
add("ok_sparse_relu", "most units of a wide layer are shut most of the time", sparse_units, 150, bias=-1.5)
add("ok_sigmoid_output_sure", "the output saturates because training succeeds", sure_sigmoid, 300)
add("ok_sigmoid_module_sure", "the output saturates because training succeeds, as a module", sure_sigmoid, 300,
    functional_act=False)  # fmt: skip
add("ok_wine_to_zero", "the loss falls to 1e-4 and the gradients with it", tabular, 300, name="wine", act="tanh",
    kind="adam", lr=1e-2)  # fmt: skip
add("ok_sharp_attention_learnt", "attention becomes one-hot because it is right", copying, 250, layers=1, lr=8e-3)
add("ok_tied_transformer", "embedding and head share a weight", transformer, 150, tied=True, lr=2e-3)
add("ok_key_bias", "the key's bias has no gradient by construction", transformer, 150, layers=1, heads=4)
add("ok_torch_transformer_dropout", "fused attention and dropout",
    lambda seed: writing(seed, models_seq.TorchTransformer(VOCAB, drop=0.1), "adamw", 3e-3), 120)  # fmt: skip
add("ok_post_norm_transformer", "post-norm without warm-up at a small rate",
    lambda seed: writing(seed, models_seq.TorchTransformer(VOCAB, first=False), "adam", 1e-3), 150)  # fmt: skip
add("ok_bias_before_batchnorm", "biases before BatchNorm have no gradient by construction", stack, 150, depth=5,
    norm="batch", kind="momentum", lr=0.05)  # fmt: skip
add("ok_conv_bias_before_batchnorm", "the same for convolutions", images, 120, depth=6, norm=True)
add("ok_residual_20", "20 residual blocks", lambda seed: on_digits(seed, models.Residual(20, 32), "adamw", 2e-3), 120)
add("ok_residual_rms", "RMSNorm and shortcuts",
    lambda seed: on_digits(seed, models.Residual(6, 32, norm="rms"), "adam", 2e-3), 120)  # fmt: skip
add("ok_he_convs_10", "10 un-normalised convolutions, initialised well", images, 120, depth=10, init="he", lr=0.01,
    width=8)  # fmt: skip
add("ok_he_functional_16", "16 functional-ReLU layers, initialised well", stack, 150, depth=16, init="he",
    functional=True, kind="adam", lr=5e-4)  # fmt: skip
add("ok_tanh_10_xavier", "10 tanh layers, initialised well", stack, 150, depth=10, act="tanh", init="xavier",
    kind="momentum", lr=0.02)  # fmt: skip
add("ok_sigmoid_2", "two sigmoid layers are few enough", stack, 250, depth=2, width=64, act="sigmoid", init="xavier",
    kind="adam", lr=5e-3)  # fmt: skip
add("ok_linear_30_orthogonal", "30 linear layers, orthogonal", tabular, 150, name="wine", depth=30, width=16,
    act="none", init="orthogonal", kind="sgd", lr=0.01)  # fmt: skip
add("ok_short_memory_rnn", "a fading recurrence where only the last four frames matter",
    lambda seed: echoing(seed, models_seq.Fused("tanh", 4, 32, 4, radius=0.6), 30, 3e-3, lag=3), 200)  # fmt: skip
add("ok_lstm_last_frame", "an LSTM of default init where the last frame matters",
    lambda seed: echoing(seed, models_seq.Fused("lstm", 4, 32, 4), 25, 5e-3, lag=0), 200)  # fmt: skip
add("ok_rnncell_radius_1.3", "a radius above one that tanh holds", cell_loop, 200, radius=1.3, length=15)
add("ok_lstm_remembers", "a forget bias of 3", lstm_forgets, 250, bias=3.0, length=20)
add("ok_gru_text", "characters, no clipping", lambda seed: writing(seed, models_seq.Fused("gru", 16, 40,
    VOCAB, vocab=VOCAB, every=True), "adam", 4e-3), 180)  # fmt: skip
add("ok_parity_2", "a plateau at ln 2 before anything is learnt", signs, 300, of=2, kind="momentum", lr=0.1)
add("ok_parity_3", "a long plateau at ln 2, then a sudden drop", signs, 300, of=3, kind="adam", lr=1e-2)
add("ok_raw_features_batchnorm", "raw features up to 4254 before BatchNorm", raw_normalised, 120,
    name="breast_cancer")  # fmt: skip
add("ok_raw_wine_batchnorm", "raw features up to 1680 before BatchNorm", raw_normalised, 120, name="wine")
add("ok_raw_wine_adam", "raw features that Adam copes with", tabular, 300, name="wine", standardise=False,
    kind="adam", lr=2e-3, depth=1)  # fmt: skip
add("ok_pixels_16_adam", "pixels of 0..16 that Adam copes with", stack, 150, times=16.0, kind="adam", lr=1e-3)
add("ok_vae", "a noisy loss of two parts", variational, 200)
add("ok_siamese", "most pairs give no gradient in the end", contrast, 200)
add("ok_hourglass", "a loss that falls to near zero", rebuilding, 150, times=1.0)
add("ok_denoising", "a loss that flattens at the noise", denoising, 150)
add("ok_autoencoder_tanh", "a reconstruction", autoencoder, 150, depth=3, act="tanh", init="xavier", lr=0.2)
add("ok_embedding_bag_sparse", "sparse gradients", bags, 300, sparse=True)
add("ok_embedding_bag_dense", "most rows have zero gradient", bags, 200, sparse=False)
add("ok_text_conv", "max-pooling: most positions have no gradient", text_conv, 200)
add("ok_sounds", "strided convolutions over samples", sounds, 200, times=1.0, kind="adam", lr=5e-3)
add("ok_rare_class", "a low loss at once that improves slowly", rare_class, 250)
add("ok_spectral_norm", "parametrized weights", bounded_norms, 150)
add("ok_zero_gain_residual", "branches shut at first: zero gradients behind them", shut_gains, 120)
add("ok_hardtanh", "flat ends, rarely reached", stack, 150, depth=2, act="hardtanh", kind="momentum", lr=0.03)
