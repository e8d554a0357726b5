"""Strict JSON on one line: no NaN literals, nothing that any reader could take for a line's end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from gradwatch.records import number_to_json


def dumps(data: Mapping[str, Any]) -> str:
    """``data`` as one line of ASCII JSON; non-finite numbers become the strings nan, inf and -inf at any depth."""
    try:
        return json.dumps(data, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(data), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if value is None or isinstance(value, (bool, int, float, str)):
        return number_to_json(value)
    return str(value)
