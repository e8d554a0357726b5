"""``gradwatch demo``: a healthy network and two sick ones learn handwritten digits under the watch.

Nothing is staged: whatever the terminal says comes from the same detectors that watch a user's model.
"""

from __future__ import annotations

import math
import shlex
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text
from torch import Tensor, nn

from gradwatch._context import Watch, watch
from gradwatch.errors import GradwatchError
from gradwatch.wording import number
from gradwatch.writers.console import WIDTH, ConsoleWriter

NUM_LAYERS = 6
NUM_FEATURES = 256
NUM_PIXELS = 64
NUM_CLASSES = 10
BATCH_SIZE = 512
LEARNING_RATE = 0.05
TOO_LARGE = 0.5


class DigitsMLP(nn.Sequential):
    """``NUM_LAYERS`` hidden layers (fc1, act1, fc2, ...) and a last one that names the digit.

    Args:
        activation: Makes the activation of each hidden layer.
        initialise: Fills the weights of one layer.
    """

    def __init__(self, activation: type[nn.Module], initialise: Callable[[Tensor], object]) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for depth in range(1, NUM_LAYERS + 1):
            layers[f"fc{depth}"] = nn.Linear(NUM_PIXELS if depth == 1 else NUM_FEATURES, NUM_FEATURES)
            layers[f"act{depth}"] = activation()
        layers["last"] = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        super().__init__(layers)
        for layer in self:
            if isinstance(layer, nn.Linear):
                initialise(layer.weight)
                nn.init.zeros_(layer.bias)


@dataclass(frozen=True)
class Patient:
    """A network, and what a newcomer should expect of it."""

    name: str
    what: str
    expect: str
    make: Callable[[], nn.Module]


PATIENTS = (
    Patient(
        "healthy",
        "ReLU activations, Kaiming initialisation",
        "It should learn, and gradwatch should find nothing.",
        lambda: DigitsMLP(nn.ReLU, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu")),
    ),
    Patient(
        "deep-sigmoid",
        "sigmoid activations, Xavier initialisation",
        "A sigmoid weakens the learning signal at every layer: the first layers should learn next to nothing.",
        lambda: DigitsMLP(nn.Sigmoid, nn.init.xavier_normal_),
    ),
    Patient(
        "large-init",
        f"ReLU activations, weights drawn with a standard deviation of {TOO_LARGE}: several times too large",
        "The signal grows at every layer: the first updates should be far too large.",
        lambda: DigitsMLP(nn.ReLU, lambda weight: nn.init.normal_(weight, std=TOO_LARGE)),
    ),
)


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits of 8 by 8 pixels: four fifths to learn from, the rest to be tested on."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def run(logdir: Path, *, num_steps: int, seed: int) -> None:
    """Train all patients and say what was found.

    Args:
        logdir: Each network's TensorBoard log goes into a directory of its own below it.
        num_steps: Training steps of each network.
        seed: Of weights and batches.

    Raises:
        GradwatchError: scikit-learn is missing, or ``logdir`` cannot be written.
    """
    torch.set_num_threads(1)  # as fast for networks this small, and the same figures on every number of cores
    digits = load(seed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    say(console, f"gradwatch demo: {len(PATIENTS)} networks learn to read {len(digits.labels):,} handwritten digits")
    say(
        console,
        f"Each has {NUM_LAYERS} hidden layers and is trained in the same way: SGD, learning rate {LEARNING_RATE}, "
        f"{num_steps:,} steps, batches of {BATCH_SIZE}.",
    )
    suffix = free_suffix(logdir)
    watches = [
        (patient, train(patient, digits, console, logdir / f"{patient.name}{suffix}", num_steps=num_steps, seed=seed))
        for patient in PATIENTS
    ]
    for patient, watching in watches:
        heading(console, f"Summary of {patient.name}")
        console.print(watching.summary(), markup=False, soft_wrap=True)
    heading(console, "What next")
    if suffix:
        say(
            console,
            f"{logdir} holds an earlier demo; this one lies beside it, as {PATIENTS[0].name}{suffix} and so on.",
        )
    say(console, "See every layer at every step in a browser:")
    command(console, f"tensorboard --logdir {shlex.quote(str(logdir))}")
    say(console, "Watch a training of your own, with one line round the loop:")
    command(console, 'with gradwatch.watch(model, logdir="runs/mine"):')


def load(seed: int) -> Digits:
    """The digits that ship with scikit-learn, split at random.

    Raises:
        GradwatchError: scikit-learn is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise GradwatchError(
            "gradwatch demo needs scikit-learn for its data, which is not installed: pip install 'gradwatch[demo]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order.split([len(order) // 5, len(order) - len(order) // 5])
    pixels, targets = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return Digits(pixels[train], targets[train], pixels[test], targets[test])


def train(patient: Patient, digits: Digits, console: Console, logdir: Path, *, num_steps: int, seed: int) -> Watch:
    """Train one network under the watch; incidents appear above the progress bar as they happen."""
    heading(console, f"{patient.name}: {patient.what}")
    say(console, patient.expect)
    torch.manual_seed(seed)
    model = patient.make()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[status]}")
    with (
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
        watch(model, optimizer, logdir=logdir, writers=[ConsoleWriter(console)]) as watching,
    ):
        task = progress.add_task(patient.name, total=num_steps, status="")
        end = fit(
            model, optimizer, watching, digits, num_steps=num_steps, report=lambda loss: show(progress, task, loss)
        )
    say(console, f"{end} It reads {100 * accuracy(model, digits):.0f} % of the test digits (guessing: 10 %).")
    return watching


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    watching: Watch,
    digits: Digits,
    *,
    num_steps: int,
    report: Callable[[float], None],
) -> str:
    """The training loop; returns how it ended."""
    value = math.nan
    for step in range(num_steps):
        batch = torch.randint(len(digits.labels), (BATCH_SIZE,))
        loss = nn.functional.cross_entropy(model(digits.images[batch]), digits.labels[batch])
        value = float(loss.detach())
        watching.loss(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        report(value)
        if not math.isfinite(value):
            return f"Stopped after {step + 1} of {num_steps:,} steps: the loss is {number(value)}."
    return f"Loss at the end: {number(value)}."


def show(progress: Progress, task: TaskID, loss: float) -> None:
    """Move the progress bar by one step."""
    progress.update(task, advance=1, status=f"loss {number(loss)}")


def accuracy(model: nn.Module, digits: Digits) -> float:
    """The share of test digits that the model reads right."""
    with torch.inference_mode():
        return float((model(digits.test_images).argmax(dim=1) == digits.test_labels).float().mean())


def free_suffix(logdir: Path) -> str:
    """What to append to the networks' names so that no earlier log is mixed up with this one: "", "-2", "-3", ..."""
    number, suffix = 1, ""
    while any((logdir / f"{patient.name}{suffix}").exists() for patient in PATIENTS):
        number += 1
        suffix = f"-{number}"
    return suffix


def heading(console: Console, text: str) -> None:
    """A line that stands out, in a terminal and in a file."""
    console.print()
    say(console, f"── {text} ──", style="bold cyan")


def say(console: Console, text: str, style: str = "") -> None:
    """Plain text."""
    console.print(Text(text, style=style))


def command(console: Console, text: str) -> None:
    """Something to copy: never broken into two lines."""
    console.print(Text(f"  {text}", style="bold"), soft_wrap=True)
