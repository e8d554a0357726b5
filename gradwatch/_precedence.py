"""One root cause, one incident: what follows from an earlier incident is no news, except weights lost to NaN."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gradwatch._baselines import CLEAN_STEPS
from gradwatch._memory import Memory
from gradwatch.records import Cause, Incident, Remedy

FOLLOWS = 50
"""Steps within which one thing leads to another; a consequence may lead to the next one in as many again. A single bad
batch is over at once: what it leaves behind shows within :data:`CLEAN_STEPS`."""

_SILENT = frozenset({"vanishing", "dead_relu", "saturation", "stalled"})
LONG_AFTER = 100
"""The same after steps of a wild size: what they have done to the weights may show only later."""

_LAG = 10
"""Steps by which a consequence may be seen earlier than what it follows from."""

_BLOWN_UP = _SILENT | {"exploding", "data_outlier", "lr_too_high", "input_scale", "disconnected"}

CONSEQUENCES: Mapping[str, frozenset[str]] = {
    "nonfinite": _BLOWN_UP,
    "data_outlier": _BLOWN_UP - {"data_outlier"},
    "lr_too_high": _BLOWN_UP - {"lr_too_high"},
    "input_scale": _BLOWN_UP,
    "exploding": _BLOWN_UP - {"exploding"},
    "disconnected": frozenset({"vanishing", "stalled"}),
    "dead_relu": _SILENT | {"disconnected"},
    "saturation": _SILENT | {"input_scale", "disconnected"},
    "vanishing": (_SILENT - {"vanishing"}) | {"input_scale", "disconnected"},
    "stalled": frozenset({"input_scale"}),
}
"""What each kind brings about. A step of a wild size leaves weights behind with which anything may happen: a net that
explodes, that is dead, saturated, or whose weights are too large for any step to move them. Layers without a signal do
not move. A non-finite value follows from all that blows up too, but it is told nevertheless."""

_TOLD_NEVERTHELESS = frozenset({"exploding", "lr_too_high", "data_outlier", "input_scale"})

_ORDER = ("data_outlier", "input_scale", "lr_too_high", "exploding", "nonfinite", "disconnected", "dead_relu")
_RANK = {kind: rank for rank, kind in enumerate((*_ORDER, "saturation", "vanishing", "stalled"))}
"""Which one of several incidents of one step is the root."""


@dataclass
class _Root:
    """The incident that explains those that follow, of one optimizer.

    Attributes:
        kind: Its kind; "" where there is none.
        step: Its step.
        began: The step at which it began.
        until: The last step at which something may follow from it.
        why: Its first cause.
        remedies: That cause's remedies, each as action, reason and snippet.
    """

    kind: str = ""
    step: int = -1
    began: int = 1 << 30
    until: int = -1
    why: str = ""
    remedies: list[list[str]] = field(default_factory=list)


class Precedence:
    """Decides for each incident whether it is one of its own, a consequence to be kept quiet, or one to be explained.

    A non-finite value is always told: weights that hold NaN are lost, and nobody may be left to find that out alone.
    Where an earlier incident explains it, that one is named as its first cause, with its remedies.
    """

    def __init__(self) -> None:
        self._memory = Memory(_Root)

    def state_dict(self) -> dict[str, Any]:
        """What is remembered, as plain data."""
        return self._memory.to_plain()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._memory.from_plain(state)

    def sift(self, incidents: Iterable[Incident]) -> list[Incident]:
        """Those of one step's diagnosed incidents that are told, root causes first."""
        ordered = sorted(incidents, key=lambda incident: _RANK.get(incident.kind, len(_RANK)))
        return [kept for incident in ordered if (kept := self._judge(incident)) is not None]

    def _judge(self, incident: Incident) -> Incident | None:
        root = self._memory.of(incident.optimizer)
        active = root.began - _LAG <= _began(incident) <= root.until
        if incident.evidence.get("rule") in ("idle", "wasting") and root.kind:
            return None  # that nothing has been learnt is news only where nothing else has been told
        if active and incident.kind in CONSEQUENCES.get(root.kind, ()):
            root.until = max(root.until, incident.step + _lasts(root.kind))
            return None
        if active and incident.kind == "nonfinite" and root.kind in _TOLD_NEVERTHELESS:
            first = _follows(incident, root)
            _remember(root, incident)
            return dataclasses.replace(incident, causes=(first, *incident.causes))
        if incident.kind in CONSEQUENCES:
            _remember(root, incident)
        return incident


def _began(incident: Incident) -> int:
    """The step at which it began: a weak symptom is found only after it has lasted."""
    since = incident.evidence.get("since")
    return since if isinstance(since, int) else incident.step


def _lasts(kind: str) -> int:
    """For how many steps something may follow from an incident of this kind."""
    if kind == "data_outlier":
        return CLEAN_STEPS
    return LONG_AFTER if kind in ("lr_too_high", "exploding", "input_scale") else FOLLOWS


def _remember(root: _Root, incident: Incident) -> None:
    cause = incident.causes[0] if incident.causes else Cause("unknown", 0.1, "")
    root.began = _began(incident)
    root.kind, root.step, root.until = incident.kind, incident.step, incident.step + _lasts(incident.kind)
    root.why = "" if cause.name == "unknown" else cause.evidence
    root.remedies = [[remedy.action, remedy.reason, remedy.snippet] for remedy in cause.remedies]


def _follows(incident: Incident, root: _Root) -> Cause:
    """The earlier incident as the cause of this one."""
    when = "at this very step" if root.step == incident.step else f"at step {root.step}"
    return Cause(
        name=root.kind,
        confidence=0.9,
        evidence=f"it follows from {root.kind} {when}" + (f": {root.why}" if root.why else ""),
        remedies=tuple(Remedy(*remedy) for remedy in root.remedies),
    )
