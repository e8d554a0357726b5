"""What calls for a look besides the schedule: a step that is not like the one before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradwatch._memory import Memory
from gradwatch.records import StepRecord, number_to_json

ON_DEMAND = 3
"""Steps in a row that are looked at when something begins."""

_MOST_DEMANDS = 4
"""Doublings of the rest after such looks: a loss that leaps about all the time is how that run is."""

_LEAP = 10.0
"""Times the norm of the step before: something begins."""

_MANY = 0.3
"""More of a layer's units dead or saturated than at the last look."""

_LOSS_LEAP = 3.0
"""Times the loss of the step before."""


class Alertness:
    """Demands looks where something begins; ever more seldom, if that goes on. Saved with checkpoints."""

    def __init__(self) -> None:
        self._suspicions = Memory(Suspicion)
        self._demand = self._rest = self._num_demands = 0
        self._granted = False

    def is_demanded(self) -> bool:
        """Whether to look at the next step; asked once for each."""
        self._granted, self._demand = self._demand > 0, max(0, self._demand - 1)
        return self._granted

    def follow(self, record: StepRecord, every: int) -> bool:
        """Take in a step, and rest at least ``every`` steps after each demand; whether something begins."""
        begins = self._suspicions.of(record.optimizer).of(record)
        self._rest = max(0, self._rest - 1)
        if begins and self._rest == 0:
            self._demand = ON_DEMAND
            self._rest = every << self._num_demands
            self._num_demands = min(self._num_demands + 1, _MOST_DEMANDS)
        return begins

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "suspicions": number_to_json(self._suspicions.to_plain()),
            "demand": self._demand + self._granted,  # the step that was to be looked at has yet to come
            "rest": self._rest,
            "num_demands": self._num_demands,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._suspicions.from_plain(state["suspicions"])
        self._demand, self._rest = int(state["demand"]), int(state["rest"])
        self._num_demands = int(state["num_demands"])


@dataclass
class Suspicion:
    """Whether something begins in one optimizer's steps: a norm or loss that leaps, gradients that become zero."""

    norm: float = math.inf
    loss: float = math.inf
    zeros: int = 1 << 30
    share: float = math.nan

    def of(self, record: StepRecord) -> bool:
        """Take in one step."""
        zeros = 0 if record.extremes[0] > 0 else int((~(record.grad_norm > 0)).sum())
        loss = self.loss if record.loss is None else record.loss
        changed = self._changed(record)
        begins = (
            changed or record.total_norm > _LEAP * self.norm or loss > _LOSS_LEAP * abs(self.loss) or zeros > self.zeros
        )
        self.norm, self.loss, self.zeros = record.total_norm, loss, zeros
        return begins and not record.skipped

    def _changed(self, record: StepRecord) -> bool:
        """Whether far more units are dead or saturated than when last looked at."""
        if record.activations is None:
            return False
        before = self.share
        shares = np.concatenate([record.activations.saturated_share, record.activations.dead_share])
        known = shares[~np.isnan(shares)]
        self.share = float(known.max()) if len(known) else math.nan
        return self.share > before + _MANY
