"""The exception tree.

::

    GradwatchError                     everything that gradwatch raises on purpose
    ├── ArgumentValueError             (ValueError)    an argument has a value that is not allowed
    ├── ArgumentTypeError              (TypeError)     an argument has a type that is not allowed
    ├── LogdirError                    (OSError)       the log directory cannot be written
    ├── RecordError                    (ValueError)    a recorded run cannot be read
    ├── StateError                     (ValueError)    a ``state_dict`` does not fit
    └── NonfiniteGradientError         (RuntimeError)  ``error_if_nonfinite=True``, as torch raises it

    GradwatchWarning                   (UserWarning)   gradwatch goes on, with less than was asked for

During training only ``NonfiniteGradientError`` comes by itself, because the user asked; the others answer a call.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import TypeGuard


class GradwatchError(Exception):
    """Root of everything that gradwatch raises on purpose."""


class ArgumentValueError(GradwatchError, ValueError):
    """An argument has a value that is not allowed."""

    def __init__(self, argument: str, given: object, allowed: str) -> None:
        super().__init__(f"gradwatch: {argument}={_short(given)} is not allowed: {allowed}")


class ArgumentTypeError(GradwatchError, TypeError):
    """An argument has a type that is not allowed."""

    def __init__(self, argument: str, given: object, allowed: str) -> None:
        super().__init__(
            f"gradwatch: {argument}={_short(given)} is of type {type(given).__name__}, but must be {allowed}"
        )


class LogdirError(GradwatchError, OSError):
    """The log directory cannot be written."""


class RecordError(GradwatchError, ValueError):
    """A recorded run cannot be read."""


class StateError(GradwatchError, ValueError):
    """A ``state_dict`` does not fit this version or this watch."""


class NonfiniteGradientError(GradwatchError, RuntimeError):
    """The total norm is non-finite and the user asked to stop (``error_if_nonfinite=True``)."""


class GradwatchWarning(UserWarning):
    """Gradwatch goes on, with less than was asked for."""


@contextmanager
def damaged_state_is_told() -> Iterator[None]:
    """Turn what goes wrong while a state is read into a :class:`StateError`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"gradwatch: this state_dict is damaged ({type(error).__name__}: {error})") from error


def warn(message: str) -> None:
    """A ``GradwatchWarning`` that points at the user's line, the innermost outside gradwatch, torch and Lightning."""
    level, frame = 1, sys._getframe()  # noqa: SLF001 - skip_file_prefixes came with Python 3.12
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, GradwatchWarning, stacklevel=level)


_INSIDE = frozenset({"gradwatch", "torch", "lightning", "pytorch_lightning", "contextlib", "weakref"})


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number (numpy's scalars included) and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
