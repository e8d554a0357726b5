"""What a request asks for. Everything unknown, repeated or malformed is refused in words, never guessed."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from gradwatch import wording
from gradwatch.tensorboard_plugin.refused import RefusedError

_WHOLE = re.compile(r"[0-9]{1,18}")
_SHOWN = 80


class Arguments:
    """The query of a request.

    Args:
        query: Name and value of each argument, in order.
        allowed: The names that the route knows.

    Raises:
        RefusedError: An argument is unknown, or given twice.
    """

    def __init__(self, query: Collection[tuple[str, str]], allowed: Collection[str]) -> None:
        self._values: dict[str, str] = {}
        for name, value in query:
            if name not in allowed:
                known = ", ".join(allowed) if allowed else "none"
                raise RefusedError(f"unknown argument {_quoted(name)}; there are: {known}")
            if name in self._values:
                raise RefusedError(f"{name} is given twice")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        """The value as it is; None where it is missing or empty."""
        return self._values.get(name) or None

    def needed(self, name: str) -> str:
        """The value as it is.

        Raises:
            RefusedError: It is missing or empty.
        """
        value = self.text(name)
        if value is None:
            raise RefusedError(f"{name} is missing")
        return value

    def choice(self, name: str, options: Collection[str], default: str) -> str:
        """One of ``options``.

        Raises:
            RefusedError: It is none of them.
        """
        value = self.text(name) or default
        if value not in options:
            raise RefusedError(f"{name}={_quoted(value)} is none of {', '.join(options)}")
        return value

    def whole(self, name: str) -> int | None:
        """A whole number from 0 on; None where it is missing or empty.

        Raises:
            RefusedError: It is none.
        """
        value = self.text(name)
        if value is None:
            return None
        if not _WHOLE.fullmatch(value):
            raise RefusedError(f"{name}={_quoted(value)} is not a whole number from 0 on")
        return int(value)

    def between(self, first: str, last: str) -> tuple[int | None, int | None]:
        """Two whole numbers in order.

        Raises:
            RefusedError: One is none, or they are the wrong way round.
        """
        low, high = self.whole(first), self.whole(last)
        if low is not None and high is not None and low > high:
            raise RefusedError(f"{first}={low} is greater than {last}={high}")
        return low, high


def one_of(what: str, value: Any, options: Collection[Any]) -> None:
    """Refuse what is not there.

    Raises:
        RefusedError: ``value`` is not among ``options``.
    """
    if value not in options:
        few = ", ".join(_quoted(str(option)) for option in list(options)[:8])
        more = f" and {len(options) - 8:,} more" if len(options) > 8 else ""  # noqa: PLR2004
        raise RefusedError(f"there is no {what} {_quoted(str(value))}; there is {few or 'none'}{more}")


def _quoted(text: str) -> str:
    return f"'{wording.plain(text[: 4 * _SHOWN], _SHOWN)}'"
