"""A run that was killed and resumed was written in several sessions: which of their steps still count."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from gradwatch import wording
from gradwatch.records import Incident

RowsT = TypeVar("RowsT")


@dataclass(frozen=True)
class Session(Generic[RowsT]):
    """What one process wrote.

    Attributes:
        first: Its first step; None where it has written none.
        incidents: In the order of writing.
        rows: Its steps, in whatever form.
    """

    first: int | None
    incidents: tuple[Incident, ...]
    rows: RowsT


def valid(sessions: Sequence[Session[RowsT]]) -> Iterator[tuple[Session[RowsT], float]]:
    """Each session with the step from which on it no longer counts, because a later one has trained that again."""
    for index, session in enumerate(sessions):
        later = [other.first for other in sessions[index + 1 :] if other.first is not None]
        yield session, min(later, default=math.inf)


def in_vain(sessions: Sequence[Session[RowsT]]) -> list[str]:
    """In words, the incidents of steps that were trained again: they are not shown, and that is said."""
    gone = [incident for session, limit in valid(sessions) for incident in session.incidents if incident.step >= limit]
    if not gone:
        return []
    named = ", ".join(f"{wording.title(incident)} at step {incident.step:,}" for incident in gone[:3])
    more = f" and {len(gone) - 3:,} more" if len(gone) > 3 else ""  # noqa: PLR2004
    return [
        f"{wording.count(len(gone), 'incident')} of an earlier session, at steps trained again since: {named}{more}"
    ]
