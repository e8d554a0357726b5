"""Where a non-finite gradient was born when the loss was finite: read off the order in which gradients went bad.

The graph is gone by then, but its structure may be known from an earlier loss.
"""

from __future__ import annotations

import numpy as np

from gradwatch.records import Birthplace, Operations, StepRecord

WHAT = "where the NaN or infinity was born"
"""What is missing where nothing was found, as gaps call it."""

_STEEP = {
    "square root": "Sqrt Rsqrt",
    "norm": "LinalgVectorNorm Norm Cdist Dist",
    "standard deviation": "Std StdMean",
    "arc cosine": "Acos",
    "arc sine": "Asin",
    "logarithm": "Log Log2 Log10 Log1p Xlogy",
    "division": "Div Reciprocal",
    "power": "Pow",
    "exponential": "Exp Exp2 Expm1",
}
"""Operations that can be finite where their slope is not, the most frequent culprits first."""


def backward_birthplace(record: StepRecord, operations: Operations | None = None) -> Birthplace | None:
    """Where the first non-finite gradient of a step was born.

    The backward pass runs from the last layer to the first, so that the last bad one in forward order was bad first.

    Args:
        record: Its loss was finite, or is not known.
        operations: What lies between the layers, as far as it is known.

    Returns:
        The place, ``modules`` empty where it is the loss or what lies behind the last layer; None where every gradient
        is finite.
    """
    order = list(dict.fromkeys(layer.module for layer in record.layers))
    present = {layer.module for layer, absent in zip(record.layers, record.absent, strict=True) if not absent}
    bad = {record.layers[index].module for index in np.flatnonzero(record.num_nonfinite)}
    if not bad:
        return None
    modules = [module for module in order if module in present]
    last = max(place for place, module in enumerate(modules) if module in bad)
    before = [module for module in modules[:last] if module not in bad][-1:]
    if last == len(modules) - 1:
        found = () if operations is None else operations.in_loss
        return Birthplace("backward", "operation", steep_operation(found), (), tuple(before), ())
    found = () if operations is None else dict(operations.after).get(modules[last], ())
    places = (modules[last],) if modules[last] else ()
    return Birthplace("backward", "operation", steep_operation(found), places, tuple(before), (modules[last + 1],))


def steep_operation(operations: tuple[str, ...]) -> str:
    """The likeliest culprit among operations in autograd's words, in plain words; "" where all are harmless."""
    for words, names in _STEEP.items():
        if not set(names.split()).isdisjoint(operations):
            return words
    return ""


def born_in_words(birth: Birthplace) -> str:
    """``born in act2.1 (a division), on the way forward; fc2 before it was still finite, fc3 behind it was not``."""
    operation = f" ({with_article(birth.operation)})" if birth.operation else ""
    if birth.source == "weight":
        place = f"the weights of {_either(birth.modules, 'or') or 'the model'} held it already"
    elif birth.source == "input":
        reader = _either(birth.modules, "or") or (f"the {birth.operation}" if birth.operation else "the model")
        place = f"what {reader} was given held it already, so that it came in from outside"
    else:
        place = f"born {birth_place(birth)}{operation}, on the way {birth.direction}"
    around = []
    if birth.before:
        around.append(f"{_either(birth.before[:2], 'and')} before it {_were(birth.before[:2])} still finite")
    if birth.after:
        finite = "" if birth.before else " finite any more"
        around.append(f"{_either(birth.after[:2], 'and')} behind it {_were(birth.after[:2])} not{finite}")
    return f"{place}; {', '.join(around)}" if around else place


def birth_place(birth: Birthplace) -> str:
    """``in act2.1``, ``between enc and dec``, ``in the loss, behind fc3``."""
    if birth.modules:
        return f"in {_either(birth.modules[:3], 'or')}"
    if birth.after:
        nearest = f"between {birth.before[0]} and" if birth.before else "in front of"
        return f"{nearest} {birth.after[0]}"
    return f"in the loss or right in front of it, behind {birth.before[0]}" if birth.before else "in the loss"


def with_article(words: str) -> str:
    """``a division``, ``an exponential``."""
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"


def _either(names: tuple[str, ...], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _were(names: tuple[str, ...]) -> str:
    return "was" if len(names) == 1 else "were"
