"""How a map of a model's parameters shows that it has become stale, at a price that nobody notices at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter, is_

import numpy as np
from numpy.typing import NDArray
from torch import nn

REQUIRES_GRAD = attrgetter("requires_grad")
_NBYTES = attrgetter("nbytes")

Home = dict[str, "nn.Parameter | None"]


@dataclass(frozen=True)
class Share:
    """Some of the parameters, and where the model keeps them.

    Attributes:
        homes: The owning modules' own dicts, to see without a walk whether a parameter is still there.
        keys: Under which it is.
        parameters: They themselves, trainable.
        nbytes: New ``.data`` shows in the sizes, of another shape or dtype.
    """

    homes: list[Home]
    keys: list[str]
    parameters: list[nn.Parameter]
    nbytes: list[int]

    @classmethod
    def of(cls, places: Sequence[tuple[Home, str, nn.Parameter]]) -> Share:
        """As they are now: home, key and parameter of each."""
        parameters = [parameter for _, _, parameter in places]
        nbytes = [parameter.nbytes for parameter in parameters]
        return cls([home for home, _, _ in places], [key for _, key, _ in places], parameters, nbytes)

    def is_current(self) -> bool:
        """Whether all are where they were, trainable, and of the same size."""
        return (  # map() over built-in functions: no bytecode runs for each parameter
            all(map(is_, map(dict.get, self.homes, self.keys), self.parameters))
            and all(map(REQUIRES_GRAD, self.parameters))
            and list(map(_NBYTES, self.parameters)) == self.nbytes
        )


class Silence:
    """Which gradients are absent, exactly zero or not finite.

    Those of a parameter that was frozen or replaced are the former, those of one that has become wider than what is
    measured may be the latter.
    """

    def __init__(self) -> None:
        self._silent: bytes | None = None

    def goes_on(self, squared_norms: NDArray[np.float64]) -> bool:
        """Whether they are the same as last time, ``[num_params]``; True at the first."""
        before, silent = self._silent, ~((squared_norms > 0) & np.isfinite(squared_norms))
        self._silent = silent.tobytes() if silent.any() else b""
        return before is None or before == self._silent

    def ends(self) -> bool:
        """The same where it is known that there is none."""
        before, self._silent = self._silent, b""
        return not before
