"""Kinds of activations, as far as they behave alike."""

BOUNDED = frozenset({"Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "Softmax", "RNN"})
"""Activations with flat ends."""

RELUS = frozenset({"ReLU", "ReLU6"})
"""Activations that give exactly zero for half of their inputs."""

ACTIVATIONS = BOUNDED - {"RNN"} | RELUS | {"GELU", "SiLU", "ELU", "LeakyReLU"}
"""All that are known."""
