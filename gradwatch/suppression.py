"""What a user knows and does not want to be told: which incident, in which layers, and why. Never silently."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from gradwatch import wording
from gradwatch._identities import code_of
from gradwatch.errors import ArgumentTypeError, ArgumentValueError
from gradwatch.records import KIND_CODES, Incident


@dataclass(frozen=True)
class Suppression:
    """An incident that is expected, and is not told.

    ::

        gradwatch.watch(model, suppress=[gradwatch.Suppression("GW102", "encoder.*", reason="frozen until epoch 3")])

    It keeps quiet for the layers that match; if others remain, the incident is told with those. What follows from a
    suppressed incident is not told either. The run's summary counts what was suppressed.

    Args:
        identity: A code or a name of a kind (``"GW102"``, ``"vanishing"``), or of a cause (``"GW262"``, ``"frozen"``):
            then those incidents are meant whose most likely cause it is. A name that is both stands for the kind.
        layers: A pattern for the layers that an incident names (``"encoder.*"``): ``*`` any text, ``?`` any character,
            ``[abc]`` one of these. An incident that names no layer matches ``"*"`` only.
        reason: Why it is no fault here, for whoever reads the summary.

    Raises:
        ArgumentTypeError: One of them is no text (also a ``TypeError``).
        ArgumentValueError: One of them is empty (also a ``ValueError``).
    """

    identity: str
    layers: str = "*"
    reason: str = field(kw_only=True)

    def __post_init__(self) -> None:
        for argument, allowed in (
            ("identity", 'a code or a name of a kind or cause, such as "GW102"'),
            ("layers", 'a pattern for layer names, such as "encoder.*"'),
            ("reason", "a text: why it is no fault here"),
        ):
            given = getattr(self, argument)
            if not isinstance(given, str):
                raise ArgumentTypeError(argument, given, allowed)
            if not given.strip():
                raise ArgumentValueError(argument, given, f"it is empty; give {allowed}")

    def __str__(self) -> str:
        """``GW102 in encoder.*: frozen until epoch 3``."""
        code = code_of(self.identity) or wording.name(self.identity)
        place = "" if self.layers == "*" else f" in {wording.plain(self.layers, wording.NAME_LIMIT)}"
        return f"{code}{place}: {wording.plain(self.reason, _REASON_LIMIT)}"

    def concerns(self, incident: Incident) -> bool:
        """Whether it is about such an incident, in whatever layers."""
        code = code_of(self.identity)
        if code is None:  # a kind of the user's own detector
            return incident.kind == self.identity
        if code in _KINDS:
            return incident.code == code
        return bool(incident.causes) and incident.causes[0].code == code

    def matches(self, layer: str) -> bool:
        """Whether the pattern fits this layer."""
        return fnmatchcase(layer, self.layers)


_KINDS = frozenset(KIND_CODES.values())
_REASON_LIMIT = 120


class Sieve:
    """Takes suppressed layers and incidents out of what is told, and counts the incidents."""

    def __init__(self, suppressions: Iterable[Suppression]) -> None:
        self._suppressions = tuple(suppressions)
        self._counts: dict[str, int] = {}

    @property
    def suppressed(self) -> tuple[str, ...]:
        """``1 incident (GW102 in encoder.*: frozen until epoch 3)``, one for each suppression that was used."""
        return tuple(f"{wording.count(number, 'incident')} ({text})" for text, number in self._counts.items())

    def sift(self, incidents: Iterable[Incident]) -> list[Incident]:
        """Those that are told, each with the layers that are left of it."""
        return [kept for incident in incidents if (kept := self._judge(incident)) is not None]

    def state_dict(self) -> dict[str, int]:
        """The counts, as plain data."""
        return dict(self._counts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        self._counts = {str(text): int(number) for text, number in state.items()}

    def _judge(self, incident: Incident) -> Incident | None:
        kept = incident
        for suppression in self._suppressions:
            if not suppression.concerns(incident):
                continue
            gone = tuple(layer for layer in kept.layers if suppression.matches(layer))
            left = tuple(layer for layer in kept.layers if layer not in gone)
            if not left and (kept.layers or suppression.layers == "*"):
                self._counts[str(suppression)] = self._counts.get(str(suppression), 0) + 1
                return None
            if gone:
                message = f"{kept.message} (Suppressed for {wording.where(gone)}: {suppression}.)"
                kept = dataclasses.replace(kept, layers=left, message=message)
        return kept
