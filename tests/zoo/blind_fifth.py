"""The fifth blind corpus: faulty part, two of each kind, and all of it. Ordinary faults of ordinary nets.

    python tests/zoo/verify_blind.py --blind fifth --seeds 0 1      # are the labels true? without any watch

Written without a look at any detector. Each fault comes with its repaired twin; harm is measured by ``verify``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo import blind_fifth_healthy, data
from zoo.blind_fifth_healthy import VOCAB, characters
from zoo.blind_fifth_nets import (
    AutoEncoder,
    ConvNet,
    Factors,
    Forecaster,
    Gcn,
    MiniGpt,
    Tagger,
    Vit,
    blobs,
    first_word,
    friedman,
    hours,
    itself,
    ratings,
    shapes,
    whole_network,
)
from zoo.blind_fourth_nets import he, plain, refill, squares, teach
from zoo.core import Batch, Registry, Run

optim = torch.optim
SCENARIOS = Registry()
add = SCENARIOS.pair

BLOWS = ("exploding", "nonfinite", "dead_relu", "lr_too_high")

# -------------------------------------------------------------------------------------------------------- exploding


def summed_neighbours(seed: int, *, norm: bool) -> Run:
    """Six graph convolutions of He's init; the adjacency is normalised, or as it is."""
    model = refill(Gcn(6), he)
    if not norm:
        model.edges = (model.edges > 0).float()
    return teach(model, whole_network(), optim.SGD, 0.01, momentum=0.9)


def normal_weights(seed: int, *, randn: bool) -> Run:
    """Four hidden ReLU layers of 64 on blobs; weights by ``torch.randn``, or He's."""
    model = refill(plain(20, 64, 64, 64, 64, 5), nn.init.normal_ if randn else he)
    return teach(model, blobs(32, seed), optim.SGD, 0.01)


add(
    "graph_net_sums_neighbours",
    "exploding",
    "the adjacency was never normalised: each of six layers sums up a dozen neighbours",
    summed_neighbours,
    {"norm": False},
    {"norm": True},
    ("no_normalisation", "large_weights"),
    steps=120,
    accept=BLOWS,
)
add(
    "weights_by_randn",
    "exploding",
    "weights of five layers are drawn by randn, without any scale",
    normal_weights,
    {"randn": True},
    {"randn": False},
    ("large_weights", "no_normalisation"),
    steps=150,
    accept=BLOWS,
)

# -------------------------------------------------------------------------------------------------------- vanishing


def graph_net(seed: int, layers: int) -> Run:
    """Graph convolutions on the whole network, of torch's own init."""
    return teach(Gcn(layers), whole_network(), optim.SGD, 0.1, momentum=0.9)


def gpt_init(seed: int, *, small: bool) -> Run:
    """Eight hidden ReLU layers on Friedman's function; weights of deviation 0.02, or He's."""
    model = refill(plain(10, *[48] * 8, 1), (lambda w: nn.init.normal_(w, std=0.02)) if small else he)
    return teach(model, friedman(32, seed), optim.SGD, 5e-3, squares, momentum=0.9)


add(
    "graph_net_of_12_layers",
    "vanishing",
    "twelve graph convolutions one upon the other, each of which averages and shrinks",
    graph_net,
    {"layers": 12},
    {"layers": 2},
    ("no_shortcuts", "no_normalisation", "small_weights"),
    steps=120,
    accept=("stalled",),
    faulty_layers=tuple(f"layers.{i}" for i in range(8)),
)
add(
    "deviation_of_0.02_without_norms",
    "vanishing",
    "weights of deviation 0.02, as in language models, in a net without norms or shortcuts",
    gpt_init,
    {"small": True},
    {"small": False},
    ("small_weights", "no_normalisation", "no_shortcuts"),
    steps=150,
    check="own",
    accept=("stalled",),
    faulty_layers=("0", "2", "4", "6", "8", "10"),
)

# -------------------------------------------------------------------------------------------------------- nonfinite


def gaussian(seed: int, *, floor: bool) -> Run:
    """A mean and a deviation are forecast; the deviation by ReLU, or by softplus with a floor."""

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        mean, raw = model(batch[0]).unbind(1)
        deviation = functional.softplus(raw) + 1e-2 if floor else raw.relu()
        return (deviation.log() + 0.5 * ((batch[1] - mean) / deviation) ** 2).mean()

    model = plain(10, 48, 2, act=nn.GELU)
    nn.init.zeros_(model[-1].bias)
    return teach(model, friedman(32, seed), optim.Adam, 5e-3, loss)


def missing_hour(seed: int, value: float) -> Run:
    """One hour of one window of batch 60 is missing."""

    def lose(batch: Batch) -> Batch:
        x = batch[0].clone()
        x[5, 11] = value
        return x, batch[1]

    stream = data.altered(hours(32, seed), lose, 60)
    return teach(Forecaster("lstm"), stream, optim.Adam, 5e-3, squares)


add(
    "deviation_by_relu",
    "nonfinite",
    "a forecast deviation is the output of a ReLU: its logarithm, and a division by zero",
    gaussian,
    {"floor": False},
    {"floor": True},
    ("domain_operation", "unsuited_loss"),
    steps=80,
    onset="first_bad",
    check="nonfinite",
    accept=("exploding",),
)
add(
    "one_missing_hour",
    "nonfinite",
    "a missing value of batch 60 is NaN",
    missing_hour,
    {"value": float("nan")},
    {"value": 0.0},
    ("nonfinite_input", "one_bad_batch"),
    steps=100,
    onset=60,
    check="nonfinite",
    accept=("data_outlier",),
)

# -------------------------------------------------------------------------------------------------------- dead_relu


def one_sided(seed: int, low: float, high: float) -> Run:
    """An autoencoder of pixels in 0..1; uniform weights of the first layer."""
    model = AutoEncoder()
    nn.init.uniform_(model.encoder[0].weight, low, high)
    nn.init.zeros_(model.encoder[0].bias)
    return teach(model, itself(32, seed), optim.Adam, 3e-3, squares)


def rate_peak(seed: int, factor: float) -> Run:
    """Three ReLU layers on Friedman's function; the rate is multiplied in the steps 30 to 32."""
    run = teach(refill(plain(10, 64, 64, 64, 1), he), friedman(32, seed), optim.SGD, 0.05, squares)

    def schedule(step: int) -> None:
        run.optimizer.param_groups[0]["lr"] = 0.05 * (factor if 30 <= step < 33 else 1.0)

    run.before_step = schedule
    return run


add(
    "weights_from_minus_0.2_to_0",
    "dead_relu",
    "the weights of the first layer are all negative and the pixels all positive",
    one_sided,
    {"low": -0.2, "high": 0.0},
    {"low": -0.2, "high": 0.2},
    (),
    steps=120,
    check="dead",
    accept=("vanishing", "stalled"),
    faulty_layers=("encoder.0",),
)
add(
    "rate_peak_kills_units",
    "dead_relu",
    "a peak of the rate for three steps pushes all units below zero for good",
    rate_peak,
    {"factor": 100.0},
    {"factor": 1.0},
    ("dead_by_learning_rate", "lr_jumped", "lr_too_high"),
    steps=120,
    onset=30,
    accept=("lr_too_high", "exploding", "nonfinite"),
)

# ------------------------------------------------------------------------------------------------------- saturation


def huge_gates(seed: int, std: float) -> Run:
    """An LSTM must tell the first of eight symbols; all its weights have a given deviation."""
    model = Tagger("lstm", 12, 4)
    for name, p in model.rnn.named_parameters():
        if "weight" in name:
            nn.init.normal_(p, std=std)
    return teach(model, first_word(32, 8, seed), optim.Adam, 3e-3)


def tanh_convs(seed: int, std: float) -> Run:
    """Convolutions and a linear layer with tanh on shapes; the deviation of their weights."""
    model = refill(ConvNet(norm=False, act=nn.Tanh), lambda w: nn.init.normal_(w, std=std), head=False)
    return teach(model, shapes(32, seed), optim.SGD, 0.03, momentum=0.9)


add(
    "lstm_weights_of_deviation_10",
    "saturation",
    "all weights of an LSTM have a deviation of ten: its gates are at their ends",
    huge_gates,
    {"std": 10.0},
    {"std": 0.2},
    ("large_weights", "saturating_activations"),
    steps=200,
    accept=("vanishing", "stalled", "exploding"),
    faulty_layers=("rnn",),
)
add(
    "tanh_convs_of_deviation_5",
    "saturation",
    "convolutions with tanh whose weights have a deviation of five",
    tanh_convs,
    {"std": 5.0},
    {"std": 0.15},
    ("large_weights", "saturating_activations"),
    steps=150,
    accept=("vanishing", "exploding"),
    faulty_layers=("conv1", "conv2", "fc1"),
)

# ------------------------------------------------------------------------------------------------------ lr_too_high


def language(seed: int, rate: float) -> Run:
    """A small decoder on the manual's characters under AdamW."""
    return teach(MiniGpt(VOCAB), data.windows(12, 24, seed), optim.AdamW, rate, characters, weight_decay=0.01)


def film(seed: int, rate: float) -> Run:
    """Matrix factorisation under SGD with momentum."""
    return teach(Factors(), ratings(128, seed), optim.SGD, rate, squares, momentum=0.9)


add(
    "decoder_adamw_1",
    "lr_too_high",
    "a decoder under AdamW with a rate that was meant for SGD",
    language,
    {"rate": 1.0},
    {"rate": 5e-3},
    ("lr_too_high",),
    steps=100,
    accept=("exploding", "nonfinite", "saturation"),
)
add(
    "factors_sgd_20",
    "lr_too_high",
    "matrix factorisation under SGD with momentum at a rate of 20",
    film,
    {"rate": 20.0},
    {"rate": 0.1},
    ("lr_too_high",),
    steps=120,
    accept=("exploding", "nonfinite"),
)

# ---------------------------------------------------------------------------------------------------------- stalled


def patches(seed: int, rate: float) -> Run:
    """A vision transformer on shapes under AdamW."""
    return teach(Vit(), shapes(32, seed), optim.AdamW, rate, weight_decay=0.05)


def impatient(seed: int, patience: int) -> Run:
    """A rate that is cut by ten on a plateau, asked after every batch."""
    run = teach(ConvNet(), shapes(32, seed), optim.SGD, 0.02, momentum=0.9)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(run.optimizer, patience=patience)
    seen: list[float] = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        value = functional.cross_entropy(model(batch[0]), batch[1])
        seen.append(float(value.detach()))
        return value

    run.loss_fn = loss
    run.optimizer.register_step_post_hook(lambda *_: plateau.step(seen[-1]))
    return run


add(
    "vit_adamw_1e-7",
    "stalled",
    "a vision transformer at a rate of 1e-7: a typing error for 1e-3",
    patches,
    {"rate": 1e-7},
    {"rate": 1e-3},
    ("lr_too_low",),
    steps=150,
)
add(
    "plateau_without_patience",
    "stalled",
    "a scheduler that waits for epochs is asked after every batch and cuts the rate to nothing",
    impatient,
    {"patience": 0},
    {"patience": 100},
    ("lr_too_low", "schedule_at_zero"),
    steps=150,
)

# ----------------------------------------------------------------------------------------------------- disconnected


class TwoStage(nn.Module):
    """An encoder and a classifier of what it gives; the code may be computed under ``no_grad``."""

    def __init__(self, *, cut: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 4), nn.Tanh())
        self.classifier = nn.Linear(4, 5)
        self.cut = cut

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        with torch.set_grad_enabled(not self.cut):
            h = self.encoder(x)
        return self.classifier(h)


def two_stages(seed: int, *, cut: bool) -> Run:
    """An encoder of blobs under ``no_grad``, or not."""
    return teach(TwoStage(cut=cut), blobs(32, seed), optim.Adam, 5e-3)


def new_head(seed: int, *, late: bool) -> Run:
    """The recurrent body of a tagger is replaced after its optimizer was made, or before."""
    model = Tagger("gru", VOCAB, VOCAB, 40, every=True)
    before = list(model.parameters())
    model.rnn, model.fc = nn.GRU(16, 40, batch_first=True), nn.Linear(40, VOCAB)
    weights = before if late else list(model.parameters())
    return teach(model, data.windows(12, 20, seed), optim.Adam, 0.01, characters, weights=weights)


add(
    "encoder_under_no_grad",
    "disconnected",
    "the encoder runs under no_grad, left over from another stage",
    two_stages,
    {"cut": True},
    {"cut": False},
    ("cut_graph",),
    steps=120,
    check="unmoved",
    faulty_layers=("encoder",),
)
add(
    "optimizer_of_the_old_layers",
    "disconnected",
    "two layers are replaced after the optimizer was made: it holds the old ones",
    new_head,
    {"late": True},
    {"late": False},
    ("no_optimizer",),
    steps=120,
    check="unmoved",
    faulty_layers=("rnn", "fc"),
)

# ------------------------------------------------------------------------------------------------------ input_scale


def raw_table(seed: int, *, standardise: bool) -> Run:
    """The breast-cancer table with columns up to thousands, or standardised."""
    x, y = data.table("breast_cancer", standardise=standardise)
    return teach(plain(30, 32, 32, 2), data.batches(x, y, 32, seed), optim.SGD, 0.05, momentum=0.9)


def megawatts(seed: int, unit: float, base: float) -> Run:
    """A GRU reads the load in a given unit; what it forecasts is standardised."""
    stream = ((base + unit * x, y) for x, y in hours(32, seed))
    return teach(Forecaster("gru"), stream, optim.Adam, 3e-3, squares)


add(
    "table_of_cells_not_standardised",
    "input_scale",
    "columns between a thousandth and thousands go into a ReLU net as they are",
    raw_table,
    {"standardise": False},
    {"standardise": True},
    ("unscaled_inputs",),
    steps=120,
    accept=BLOWS,
)
add(
    "load_in_megawatts",
    "input_scale",
    "a GRU reads a load of 40000 and more in megawatts",
    megawatts,
    {"unit": 8000.0, "base": 40000.0},
    {"unit": 1.0, "base": 0.0},
    ("unscaled_inputs",),
    steps=150,
    accept=("saturation", "vanishing", "stalled"),
)

# ----------------------------------------------------------------------------------------------------- data_outlier


def missing_code(seed: int, code: float) -> Run:
    """A tenth of the ratings of batch 80 has the code for a missing value."""

    def mark(batch: Batch) -> Batch:
        y = batch[1].clone()
        y[::10] = code
        return batch[0], y

    stream = data.altered(ratings(128, seed), mark, 80)
    return teach(Factors(), stream, optim.SGD, 0.1, squares, momentum=0.9)


def raw_once(seed: int, unit: float, base: float) -> Run:
    """The windows and the answers of batch 70 come in megawatts, all others standardised."""
    stream = data.altered(hours(32, seed), lambda batch: tuple(base + unit * part for part in batch), 70)
    return teach(Forecaster("gru", width=32), stream, optim.SGD, 0.03, squares, momentum=0.9)


add(
    "code_9999_for_missing",
    "data_outlier",
    "a tenth of the ratings of batch 80 is 9999, a code for missing values",
    missing_code,
    {"code": 9999.0},
    {"code": 3.0},
    ("one_bad_batch",),
    steps=130,
    onset=80,
    check="spike",
    accept=("exploding",),
)
add(
    "one_batch_in_megawatts",
    "data_outlier",
    "the windows and the answers of batch 70 were never standardised",
    raw_once,
    {"unit": 800.0, "base": 4000.0},
    {"unit": 1.0, "base": 0.0},
    ("one_bad_batch",),
    steps=130,
    onset=70,
    check="spike",
    accept=("exploding", "input_scale"),
)

for scenario in blind_fifth_healthy.SCENARIOS:
    SCENARIOS.put(scenario)
