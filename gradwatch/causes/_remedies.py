"""What the rules share: remedies that help against several causes, and code for this very model."""

from __future__ import annotations

from collections.abc import Sequence

from gradwatch.records import Incident, ModelInfo, Remedy, StepRecord

_NORMALISED = {
    "": "nn.Sequential(nn.Linear(n, n), nn.LayerNorm(n), nn.ReLU())",
    "Conv1d": "nn.Sequential(nn.Conv1d(n, n, 3, padding=1), nn.BatchNorm1d(n), nn.ReLU())",
    "Conv2d": "nn.Sequential(nn.Conv2d(n, n, 3, padding=1), nn.BatchNorm2d(n), nn.ReLU())",
    "Conv3d": "nn.Sequential(nn.Conv3d(n, n, 3, padding=1), nn.BatchNorm3d(n), nn.ReLU())",
}
"""What is usual after a layer of this kind; n is its number of outputs."""


def normalise(model: ModelInfo) -> Remedy:
    """A normalisation layer, the one that suits most of the model's layers (Ioffe & Szegedy, 2015; Ba et al., 2016)."""
    kinds = [module.kind for module in model.modules if module.num_parameters > 0]
    most = max(_NORMALISED, key=lambda kind: kinds.count(kind or "Linear"))
    return Remedy(
        action="a normalisation layer after each layer with weights",
        reason="it brings the signal back to size, whatever came before",
        snippet=f"{_NORMALISED[most]}  # n: what the layer gives",
    )


LEAKY = "they pass something on for negative inputs too, so that a unit can recover"


def clip(incident: Incident) -> Remedy:
    """Clipping at twice the usual norm leaves ordinary steps alone; 1 is the custom where no usual norm is known."""
    usual = incident.evidence.get("usual_norm")
    limit = "1.0" if usual is None else f"{2 * usual:.2g}"
    why = (
        "with SGD no step is then larger than the learning rate times that; Adam needs a lower rate"
        if usual is None
        else f"twice the usual norm of {usual:.3g}: it stops outliers only"
    )
    return Remedy(
        action=f"clip the gradients at a norm of {limit}",
        reason=why,
        snippet=f"gradwatch.watch(model, clip=gradwatch.ClipNorm(max_norm={limit}))",
    )


def initialisation(model: ModelInfo) -> tuple[str, str]:
    """The law that suits the model's activations, and its code (Glorot & Bengio, 2010; He et al., 2015)."""
    kinds = activations(model)
    if "Tanh" in kinds:
        return "Xavier", 'nn.init.xavier_normal_(m.weight, gain=nn.init.calculate_gain("tanh"))'
    if "Sigmoid" in kinds:
        return "Xavier", "nn.init.xavier_normal_(m.weight)"
    if model.operations is not None and not kinds & HALVING:
        return "Kaiming", 'nn.init.kaiming_normal_(m.weight, nonlinearity="linear")'
    return "Kaiming", 'nn.init.kaiming_normal_(m.weight, nonlinearity="relu")'


HALVING = frozenset({"ReLU", "Relu", "ReLU6", "LeakyReLU", "LeakyRelu", "GELU", "Gelu", "SiLU", "Silu", "ELU", "Elu"})
"""Activations that let about half of a signal pass, in modules' and in autograd's words."""


def activations(model: ModelInfo) -> set[str]:
    """The kinds of the model's modules, and the operations between them as far as the graph was seen."""
    kinds = {module.kind for module in model.modules}
    return kinds if model.operations is None else kinds.union(*(names for _, names in model.operations.after))


def replace_all(kind: str, by: str, names: Sequence[str]) -> str:
    """The replacement of all modules of a kind, as code; of a single one by its name."""
    if len(names) == 1:
        return assign(names[0], by)
    return (
        f"for name, m in list(model.named_modules()):\n    if isinstance(m, nn.{kind}):\n"
        f"        model.set_submodule(name, {by})"
    )


def initialise_all(record: StepRecord, model: ModelInfo) -> str:
    """The initialisation of all linear and convolutional layers, as code; a single layer would not be enough."""
    known = ("Linear", "Conv1d", "Conv2d", "Conv3d")
    found = [f"nn.{kind}" for kind in known if any(layer.module_type == kind for layer in record.layers)]
    if not found:
        return ""
    classes = found[0] if len(found) == 1 else f"({', '.join(found)})"
    return f"for m in model.modules():\n    if isinstance(m, {classes}):\n        {initialisation(model)[1]}"


def assign(name: str, value: str) -> str:
    """An assignment to a submodule as code."""
    return f"{access(name)} = {value}"


def access(name: str) -> str:
    """A submodule as code: an attribute is called by its name, a list's member by its number."""
    return "model" + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in name.split("."))


def count(number: int, what: str) -> str:
    """``1 layer``, ``3 layers``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
