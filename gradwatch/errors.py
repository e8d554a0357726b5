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

Only ``NonfiniteGradientError`` can surface during training, and only because the user asked for it.
"""

from __future__ import annotations

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
        super().__init__(f"gradwatch: {argument} is a {type(given).__name__} ({_short(given)}), but must be {allowed}")


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


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number (numpy's scalars included) and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
