"""What a request cannot have."""

from __future__ import annotations


class RefusedError(Exception):
    """The request cannot be answered; the text says why and what is allowed."""
