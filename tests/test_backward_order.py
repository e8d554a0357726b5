from __future__ import annotations

import numpy as np
import pytest

from gradwatch._backward_order import backward_birthplace, born_in_words
from gradwatch.records import Birthplace, Layer, Operations, StepRecord

NAMES = ("enc", "fc1", "fc2", "head")
LAYERS = tuple(Layer(f"{name}.{kind}", name, "Linear", (4,)) for name in NAMES for kind in ("weight", "bias"))
KNOWN = Operations(("Sub", "LinalgVectorNorm"), (("enc", ("Relu",)), ("fc1", ("Div", "Sqrt")), ("fc2", ("Relu",))))


def record(*bad, absent=()):
    counts = np.array([4 * (layer.module in bad) for layer in LAYERS])
    norms = np.where([layer.module in (*bad, *absent) for layer in LAYERS], np.nan, 1.0)
    return StepRecord(0, 0, LAYERS, norms, counts, np.nan, np.nan, loss=1.0)


@pytest.mark.parametrize(
    ("bad", "absent", "expected"),
    [
        (("enc", "fc1"), (), Birthplace("backward", "operation", "square root", ("fc1",), (), ("fc2",))),
        (("enc", "fc2"), (), Birthplace("backward", "operation", "", ("fc2",), ("fc1",), ("head",))),
        (("enc",), (), Birthplace("backward", "operation", "", ("enc",), (), ("fc1",))),
        (NAMES, (), Birthplace("backward", "operation", "norm", (), (), ())),
        (("fc2", "head"), (), Birthplace("backward", "operation", "norm", (), ("fc1",), ())),
        (("enc", "fc1"), ("fc2",), Birthplace("backward", "operation", "square root", ("fc1",), (), ("head",))),
        (("enc", "fc1", "fc2"), ("head",), Birthplace("backward", "operation", "norm", (), (), ())),
    ],
)
def test_the_last_bad_layer_was_bad_first(bad, absent, expected):
    """The place lies between the last bad layer and the next good one; a layer without a gradient tells nothing."""
    assert backward_birthplace(record(*bad, absent=absent), KNOWN) == expected


def test_without_a_graph_the_operation_is_not_known():
    """Then the place alone is told; and where every gradient is finite, nothing."""
    assert backward_birthplace(record("enc", "fc1")).operation == ""
    assert backward_birthplace(record()) is None


@pytest.mark.parametrize(
    ("birth", "words"),
    [
        (
            Birthplace("forward", "operation", "division", ("act2.1",), ("fc2",), ("fc3",)),
            "born in act2.1 (a division), on the way forward; fc2 before it was still finite, fc3 behind it was not",
        ),
        (
            Birthplace("forward", "operation", "power", (), ("a",), ("z",)),
            "born between a and z (a power), on the way forward; a before it was still finite, z behind it was not",
        ),
        (Birthplace("forward", "operation", "logarithm"), "born in the loss (a logarithm), on the way forward"),
        (
            Birthplace("forward", "input", "convolution", ("conv",), (), ("n",)),
            "what conv was given held it already, so that it came in from outside; n behind it was not finite any more",
        ),
        (
            Birthplace("forward", "weight", "", ("fc3",), ("q", "k", "v"), ()),
            "the weights of fc3 held it already; q and k before it were still finite",
        ),
    ],
)
def test_words(birth, words):
    """Module, operation, direction and bracket in one sentence, and nothing that is not known."""
    assert born_in_words(birth) == words
