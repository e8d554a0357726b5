"""What the probes have seen of a step, beside their numbers, which travel to the host among the step's tensors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradwatch._through_time import profile_of
from gradwatch._transfer import Arrays
from gradwatch.records import Activations, Layer, Ownerless, TimeProfile, Unavailable

ACTIVATIONS, OWNERLESS = "activations", "ownerless"
"""The names of the tensors."""


def through_time(index: int) -> str:
    """The name of a recurrent layer's tensor."""
    return f"through_time_{index}"


@dataclass
class Sighting:
    """What can be said without waiting for a device.

    Attributes:
        modules: Name of the module of each call, ``[num_calls]``.
        kinds: Its class name or activation, ``[num_calls]``.
        recurrent: Module, kind and layer of each signal through time.
        ownerless: Parameters that no optimizer owns; None where nobody has looked.
        unavailable: What could not be seen.
    """

    modules: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    recurrent: tuple[tuple[str, str, str], ...] = ()
    ownerless: tuple[Layer, ...] | None = None
    unavailable: tuple[Unavailable, ...] = ()

    def activations(self, arrays: Arrays) -> Activations | None:
        """What the forward probe saw, on the host."""
        data = arrays.get(ACTIVATIONS)
        return None if data is None else Activations(self.modules, self.kinds, *data.T)

    def profiles(self, arrays: Arrays, scale: float) -> tuple[TimeProfile, ...]:
        """The signal through time of each recurrent layer, without a loss scale, on the host."""
        return tuple(
            profile_of(label, arrays[through_time(i)], scale=scale) for i, label in enumerate(self.recurrent)
        )

    def without_owner(self, arrays: Arrays) -> Ownerless | None:
        """Parameters that no optimizer owns, on the host."""
        if self.ownerless is None:
            return None
        return Ownerless(self.ownerless, arrays.get(OWNERLESS, np.empty(0)))
