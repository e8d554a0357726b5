"""What kinds and causes are called: the stable code for whatever a user types, and what he may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gradwatch.errors import ArgumentValueError
from gradwatch.records import CAUSE_CODES, KIND_CODES

_CODES = frozenset({*KIND_CODES.values(), *CAUSE_CODES.values()})


def code_of(text: str) -> str | None:
    """The code that a code or a name stands for, in any spelling (``"gw102"``, ``"Dead ReLU"``); None for neither.

    Where a kind and a cause have the same name, it is the kind's.
    """
    word = "_".join(text.replace("-", " ").replace("_", " ").split()).lower()
    if word.upper() in _CODES:
        return word.upper()
    return KIND_CODES.get(word) or CAUSE_CODES.get(word)


def identities() -> list[str]:
    """All names and codes."""
    return [*KIND_CODES, *CAUSE_CODES, *sorted(_CODES)]


def check_identity(identity: str, own: Iterable[str] = ()) -> None:
    """Refuse what is neither a code nor a name, nor one of a user's ``own`` kinds.

    Raises:
        ArgumentValueError: It is none of these.
    """
    own = tuple(own)
    if code_of(identity) is None and identity not in own:
        guess = nearest(identity, [*identities(), *own]) or "`gradwatch explain` lists them all"
        raise ArgumentValueError("identity", identity, f"it is no code and no name of a kind or cause; {guess}")


def nearest(given: str, known: Iterable[str]) -> str:
    """``did you mean 'exploding' or 'GW101'?``; an empty string where nothing comes near."""
    by_lower = {name.lower(): name for name in known}
    found = [by_lower[match] for match in difflib.get_close_matches(given.strip().lower(), by_lower, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(map(repr, found))}?" if found else ""
