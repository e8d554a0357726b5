"""Kinds of activations, as far as they behave alike."""

BOUNDED = frozenset({"Sigmoid", "Tanh", "Hardtanh", "Hardsigmoid", "Softsign", "Softmax", "RNN", "Gate"})
"""Activations with flat ends; a gate of a recurrent layer counts as flat where it is shut."""

RELUS = frozenset({"ReLU", "ReLU6"})
"""Activations that give exactly zero for half of their inputs."""

ACTIVATIONS = BOUNDED - {"RNN"} | RELUS | {"GELU", "SiLU", "ELU", "LeakyReLU"}
"""All that are known."""
