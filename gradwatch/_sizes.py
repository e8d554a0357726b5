"""Sizes of what a model is given that everybody agrees on."""

LARGE_INPUT = 10.0
"""Root mean square of what comes from the data, where standardised inputs have 1 and pixels in 0..1 have 0.5."""

SMALL_INPUT = 1e-2
"""Root mean square of data below which its first layer gives next to nothing but its bias."""
