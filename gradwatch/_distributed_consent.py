"""Whether all ranks of a group want the same, asked through the key-value store and without a collective.

A collective that some ranks launch and others do not hangs all of them, so before the first one all have to agree that
there will be any. Who is missing (it watches nothing: many watch on the first rank only) is not waited for longer than
:data:`PATIENCE`, and what is decided then holds for all: the store adds one number at a time, so that there is exactly
one rank which completes the group, or one which is the first to give up.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from gradwatch._distributed_world import default_store

PATIENCE = timedelta(seconds=5)
"""For all ranks of a group to come to a step that they have all just averaged their gradients for."""

_GAVE_UP = 1_000_000
"""Added by a rank that does not want to, or waits no longer; more than there are ranks."""

_YES, _NO = "yes", "no, because "

_num_asked: Counter[str] = Counter()
"""All ranks of a group ask in the same order: the number tells one question from another."""


def refusal(group: Any, obstacle: str) -> str:
    """Why it is not to be, the same on all ranks that ask; "" where all ranks of the group are willing.

    Args:
        group: A process group.
        obstacle: What is in the way on this rank; "" for nothing.
    """
    store, name = default_store(), str(group.group_name)
    if store is None:
        return "the ranks have no key-value store to agree through"
    number = _num_asked[name]
    _num_asked[name] += 1
    try:
        return _decided(store, f"gradwatch/consent/{name}/{number}", int(group.size()), obstacle)
    except RuntimeError as error:  # the store is gone, or slower than anybody waits: then nobody gets a yes
        return f"the ranks could not agree on it ({error})"


def _decided(store: Any, key: str, num_ranks: int, obstacle: str) -> str:
    decision = f"{key}/decision"
    here = int(store.add(f"{key}/here", _GAVE_UP if obstacle else 1))
    if here == num_ranks:
        store.set(decision, _YES)  # all are here, and nobody has given up
    elif here < _GAVE_UP and not _comes(store, decision):
        obstacle = f"not all ranks asked for them within {PATIENCE.total_seconds():g} s: each has to watch the model"
        here = int(store.add(f"{key}/here", _GAVE_UP))
    if obstacle and here // _GAVE_UP == 1 and here % _GAVE_UP < num_ranks:
        store.set(decision, _NO + obstacle)  # the first to give up
    answer = str(store.get(decision).decode())
    return "" if answer == _YES else answer.removeprefix(_NO)


def _comes(store: Any, key: str) -> bool:
    try:
        store.wait([key], PATIENCE)
    except RuntimeError:
        return False
    return True
