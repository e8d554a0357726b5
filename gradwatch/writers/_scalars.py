"""The handful of plain scalars that tell a run without the gradwatch tab; the same for every kind of logger.

Logarithms, because the defaults of TensorBoard's Scalars page cut a spike of four decades off.
"""

from __future__ import annotations

import math

import numpy as np

from gradwatch.records import StepRecord

GROUP = "gradwatch"
INCIDENTS = f"{GROUP}/incidents so far"


def prefix(optimizer: int) -> str:
    """The group of one optimizer's scalars."""
    return GROUP if optimizer == 0 else f"{GROUP}/optimizer{optimizer}"


class PlainScalars:
    """Turns records into named numbers; remembers per optimizer what the run has seen."""

    def __init__(self) -> None:
        self._ever_clipped: set[int] = set()
        self._highest: dict[int, float] = {}

    def of(self, record: StepRecord) -> dict[str, float]:
        """What to show of one step; every record has to pass here, shown or not."""
        optimizer = record.optimizer
        if record.clipped:
            self._ever_clipped.add(optimizer)
        rows = [("log10 gradient norm", _log10(record.total_norm))]
        if optimizer in self._ever_clipped and not record.skipped:
            rows.append(("log10 gradient norm after clipping", _log10(record.clipped_norm)))
        if math.isfinite(record.total_norm):
            # The page scales its axes to the middle 90 % of the values: what lasts is seen, a lone spike is not.
            self._highest[optimizer] = max(record.total_norm, self._highest.get(optimizer, 0.0))
            rows.append(("log10 highest gradient norm so far", _log10(self._highest[optimizer])))
        smallest, largest = _extremes(record)
        if smallest > 0:
            rows.append(("log10 largest layer gradient norm", _log10(largest)))
            rows.append(("log10 smallest layer gradient norm", _log10(smallest)))
        if (local := record.local_norms) is not None:
            rows.append(("spread of the ranks' gradient norms", local.spread))
            if local.noise_scale is not None:
                rows.append(("log10 gradient noise scale (batches of one rank)", _log10(local.noise_scale)))
        rows.append(("non-finite gradient elements", 0.0 if record.finite else float(record.num_nonfinite.sum())))
        group = prefix(optimizer)
        return {f"{group}/{name}": value for name, value in rows if value != -math.inf}


def _extremes(record: StepRecord) -> tuple[float, float]:
    """The smallest and the largest usable norm of a layer, neither zero nor infinite; NaN where there is none."""
    smallest, largest = record.extremes
    if not (smallest > 0 and largest < math.inf):
        usable = record.grad_norm[np.isfinite(record.grad_norm) & (record.grad_norm > 0)]
        smallest, largest = (float(usable.min()), float(usable.max())) if usable.size else (math.nan, math.nan)
    return smallest, largest


def _log10(value: float) -> float:
    """log10; -inf for 0, and NaN or inf as they are: TensorBoard marks them with a triangle."""
    if value == 0:
        return -math.inf
    return math.log10(value) if math.isfinite(value) else float(value)
