"""The arguments that both entrances share, checked before training starts."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from gradwatch._identities import check_identity
from gradwatch._layout import trainable_parameters
from gradwatch._probes.schedule import Probes
from gradwatch._voice import announce
from gradwatch.clipping import Clip
from gradwatch.detectors import Detector, default_detectors
from gradwatch.errors import ArgumentTypeError, ArgumentValueError, is_number
from gradwatch.suppression import Suppression

HISTORY = 1_000

_DEEPSPEED = ("ds_id", "_hp_mapping")
"""What DeepSpeed hangs on a parameter whose gradient it takes away: at stage 3, and at stages 1 and 2."""


def check_model(model: object, clip: Clip | None) -> nn.Module:
    """A module with something to train.

    Raises:
        ArgumentTypeError: It is no module.
        ArgumentValueError: It has no trainable parameter, or ``clip`` cannot work on one of them.
    """
    if not isinstance(model, nn.Module):
        raise ArgumentTypeError("model", model, "a torch.nn.Module")
    parameters = trainable_parameters(model)
    if not parameters:
        raise ArgumentValueError(
            "model", model, "it has no parameter with requires_grad=True, so there is no gradient to watch"
        )
    if any(hasattr(parameter, mark) for parameter in parameters for mark in _DEEPSPEED):
        announce(
            f"gradwatch: DeepSpeed (ZeRO) keeps the gradients of {type(model).__name__} in buffers of its own, where "
            "its optimizer steps, too: nothing will be recorded and nothing clipped. It knows the norms itself: "
            "engine.get_global_grad_norm(), and deepspeed.utils.safe_get_full_grad(parameter) for one parameter. "
            "FSDP2, FSDP, tensor and pipeline parallelism, DDP and ZeroRedundancyOptimizer are watched in full"
        )
    if clip is not None and clip.per_parameter and any(parameter.is_complex() for parameter in parameters):
        raise ArgumentValueError("clip", clip, "complex gradients cannot be clamped by value; use ClipNorm")
    return model


def check_optimizers(optimizer: object, model: nn.Module) -> list[Optimizer] | None:
    """The named optimizers, wrappers taken off.

    Raises:
        ArgumentTypeError: One is no torch optimizer.
        ArgumentValueError: One owns none of the model's trainable parameters, or none is given.
    """
    if optimizer is None:
        return None
    given = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
    if not given:
        raise ArgumentValueError("optimizer", optimizer, "is empty; leave it out to find the optimizers by themselves")
    owned = {id(parameter) for parameter in trainable_parameters(model)}
    optimizers = []
    for one in given:
        inner = unwrapped(one)
        if not isinstance(inner, Optimizer):
            raise ArgumentTypeError(
                "optimizer", one, "a torch.optim.Optimizer or a sequence of them (others: watch.observe(optimizer))"
            )
        if not any(id(p) in owned for group in inner.param_groups for p in group["params"]):
            raise ArgumentValueError(
                "optimizer", type(inner).__name__, f"it owns no trainable parameter of the model {type(model).__name__}"
            )
        optimizers.append(inner)
    return optimizers


def unwrapped(optimizer: Any) -> Any:
    """The torch optimizer inside Lightning's and accelerate's wrappers, whose own ``step`` fires no hook."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def check_observable(optimizer: object) -> object:
    """An optimizer of any kind, wrappers taken off, that can be known again at its next step.

    Raises:
        ArgumentTypeError: It is not hashable or not weakly referable.
    """
    inner: object = unwrapped(optimizer)
    try:
        hash(inner)
        weakref.ref(inner)
    except TypeError:
        allowed = "an object that is hashable and weakly referable, as those of plain classes are"
        raise ArgumentTypeError("optimizer", optimizer, allowed) from None
    return inner


def check_clip(clip: object) -> Clip | None:
    """A clipping rule or None.

    Raises:
        ArgumentTypeError: It is something else, such as a bare number.
    """
    if clip is None or (
        not isinstance(clip, type) and all(hasattr(clip, n) for n in ("apply", "needs", "norm_type", "per_parameter"))
    ):
        return clip  # type: ignore[return-value]
    raise ArgumentTypeError("clip", clip, "a clipping rule such as gradwatch.ClipNorm(1.0) or gradwatch.ClipValue(0.5)")


def check_detectors(detectors: object) -> list[Detector]:
    """The given detectors, the default ones for None.

    Raises:
        ArgumentTypeError: One cannot observe.
    """
    if detectors is None:
        return list(default_detectors())
    judges = _all_with("detectors", detectors, ("observe", "state_dict", "load_state_dict"), "detectors")
    for judge in judges:
        if not isinstance(getattr(judge, "kind", None), str):
            raise ArgumentTypeError("a member of detectors", judge, "a detector with a kind, a string")
    return judges


def check_suppressions(suppress: object, detectors: Iterable[Detector]) -> list[Suppression]:
    """The given suppressions, each of something that there is.

    Raises:
        ArgumentTypeError: One is no ``Suppression``.
        ArgumentValueError: One names neither a kind, also of the given detectors, nor a cause.
    """
    if isinstance(suppress, (str, bytes, type, Suppression)) or not isinstance(suppress, Iterable):
        raise ArgumentTypeError("suppress", suppress, "a sequence of gradwatch.Suppression(...)")
    given = list(suppress)
    own = {detector.kind for detector in detectors}
    for suppression in given:
        if not isinstance(suppression, Suppression):
            allowed = 'a gradwatch.Suppression("GW102", reason="...")'
            raise ArgumentTypeError("a member of suppress", suppression, allowed)
        check_identity(suppression.identity, own)
    return given


def check_writers(writers: object) -> list[Any]:
    """The given writers.

    Raises:
        ArgumentTypeError: One does not follow the ``Writer`` protocol.
    """
    return _all_with("writers", writers, ("write", "write_incident", "close"), "writers")


def check_probes(probes: object) -> Probes | None:
    """The given probes, the default ones for True, None for False.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if isinstance(probes, bool):
        return Probes() if probes else None
    if isinstance(probes, Probes):
        return probes
    raise ArgumentTypeError("probes", probes, "True, False or gradwatch.Probes(...)")


def check_skip(given: object, clip: Clip | None) -> bool:
    """Whether non-finite steps are skipped.

    Raises:
        ArgumentTypeError: It is no bool.
        ArgumentValueError: ``clip`` wants to stop at such a step.
    """
    if check_flag("skip_if_nonfinite", given) and getattr(clip, "error_if_nonfinite", False):
        raise ArgumentValueError(
            "skip_if_nonfinite", given, "clip has error_if_nonfinite=True, which stops at such a step: choose one"
        )
    return bool(given)


def check_flag(argument: str, given: object) -> bool:
    """True or False.

    Raises:
        ArgumentTypeError: It is no bool.
    """
    if not isinstance(given, bool):
        raise ArgumentTypeError(argument, given, "True or False")
    return given


def check_share(argument: str, given: object) -> float | None:
    """A share of the whole, above 0 and at most 1; None for no limit.

    Raises:
        ArgumentTypeError: It is neither a number nor None.
        ArgumentValueError: It is not within these bounds.
    """
    if given is None:
        return None
    if not is_number(given):
        raise ArgumentTypeError(argument, given, "a number or None")
    value = float(given)
    if not 0 < value <= 1:
        raise ArgumentValueError(argument, given, "must be above 0 and at most 1, as 0.01 for 1 % of the run")
    return value


def check_every(given: object) -> int | None:
    """The same; None for the default, which is no fixed number.

    Raises:
        ArgumentTypeError: It is neither an int nor None.
        ArgumentValueError: It is below 1.
    """
    return None if given is None else check_count("every", given)


def check_count(argument: str, given: object) -> int:
    """A whole number of at least 1.

    Raises:
        ArgumentTypeError: It is no int.
        ArgumentValueError: It is below 1.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise ArgumentTypeError(argument, given, "a whole number")
    if given < 1:
        raise ArgumentValueError(argument, given, "must be at least 1")
    return given


def _all_with(argument: str, given: object, methods: tuple[str, ...], nouns: str) -> list[Any]:
    if isinstance(given, (str, bytes, type)) or not isinstance(given, Iterable):
        raise ArgumentTypeError(argument, given, f"a sequence of {nouns} with the methods {', '.join(methods)}")
    members = list(given)
    for member in members:
        if isinstance(member, type) or not all(callable(getattr(member, method, None)) for method in methods):
            raise ArgumentTypeError(
                f"a member of {argument}", member, f"an object with the methods {', '.join(methods)}"
            )
    return members
