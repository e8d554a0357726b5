"""What the probes have seen of a step, beside their numbers, which travel to the host among the step's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradwatch._probes.through_time import profile_of
from gradwatch._transfer import Arrays
from gradwatch.records import ACTIVATION_COLUMNS, Activations, Birthplace, Layer, Ownerless, TimeProfile, Unavailable

ACTIVATIONS, OWNERLESS = "activations", "ownerless"
"""The names of the tensors."""


def through_time(index: int) -> str:
    """The name of a recurrent layer's tensor."""
    return f"through_time_{index}"


@dataclass
class Sighting:
    """What can be said without waiting for a device.

    Attributes:
        calls: Module, kind, ``joined`` and ``from_data`` of each call, ``[num_calls]``.
        places: The rows and columns that each measured value goes to, ``[num_values]``.
        recurrent: Module, kind and layer of each signal through time.
        ownerless: Parameters that no optimizer owns; None where nobody has looked.
        birthplace: Where a non-finite loss was born.
        unavailable: What could not be seen.
    """

    calls: tuple[tuple[str, str, bool, bool], ...] = ()
    places: tuple[tuple[tuple[int, str], ...], ...] = ()
    recurrent: tuple[tuple[str, str, str], ...] = ()
    ownerless: tuple[Layer, ...] | None = None
    birthplace: Birthplace | None = None
    unavailable: tuple[Unavailable, ...] = ()

    def activations(self, arrays: Arrays, scale: float) -> Activations | None:
        """What the forward probe saw, without a loss scale, on the host."""
        values = arrays.get(ACTIVATIONS)
        if values is None:
            return None
        table = np.full((len(ACTIVATION_COLUMNS), len(self.calls)), np.nan)
        columns = dict(zip(ACTIVATION_COLUMNS, table, strict=True))
        for cells, value in zip(self.places, values.tolist(), strict=True):
            for row, column in cells:
                columns[column][row] = value
        columns["out_grad"] /= scale
        modules, kinds, joined, from_data = zip(*self.calls, strict=True)
        columns["joined"], columns["from_data"] = (np.array(flags, dtype=np.float64) for flags in (joined, from_data))
        return Activations(modules, kinds, **columns)

    def profiles(self, arrays: Arrays, scale: float) -> tuple[TimeProfile, ...]:
        """The signal through time of each recurrent layer, without a loss scale, on the host."""
        return tuple(profile_of(label, arrays[through_time(i)], scale=scale) for i, label in enumerate(self.recurrent))

    def without_owner(self, arrays: Arrays) -> Ownerless | None:
        """Parameters that no optimizer owns, on the host."""
        if self.ownerless is None:
            return None
        return Ownerless(self.ownerless, arrays.get(OWNERLESS, np.empty(0)))
