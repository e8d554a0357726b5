"""Tags and wire format, shared by the writer and every reader.

A packed statistic is one float32 value a layer, one tag for 4,096 writes:
``gradwatch/v1/<session>/<optimizer>/<statistic>/<segment>``. The metadata of each tag's first event holds JSON with
the version, the unit and the layer names, so that any segment can be read alone. Incidents are strings of JSON under
``gradwatch/v1/<session>/incidents/<segment>``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

PLUGIN_NAME = "gradwatch"
VERSION = 1
SEGMENT_WRITES = 4096
"""Writes a tag: one huge tag would exceed TensorBoard's 256 MiB message, a full segment can be cached for ever."""

SCALARS = ("total_norm", "clipped_norm", "loss", "lr", "skipped")
"""The columns of the packed statistic ``scalars``."""

UNITS = {
    "grad_norm": "L2 norm of the gradient before clipping, unscaled; NaN where absent",
    "num_nonfinite": "non-finite elements of the gradient",
    "grad_max": "largest absolute value of the gradient",
    "weight_norm": "L2 norm of the parameter before the step",
    "update_ratio": "norm of the update over norm of the parameter",
    "scalars": "one value for each name in layers",
}


def statistic_tag(session: str, optimizer: int, statistic: str, segment: int) -> str:
    """The tag of one segment of one packed statistic."""
    return f"{PLUGIN_NAME}/v{VERSION}/{session}/{optimizer}/{statistic}/{segment:05d}"


def incidents_tag(session: str, segment: int) -> str:
    """The tag of one segment of incidents."""
    return f"{PLUGIN_NAME}/v{VERSION}/{session}/incidents/{segment:05d}"


def content(statistic: str, layers: Sequence[str]) -> bytes:
    """The plugin content of a tag's first event: JSON with version, statistic, unit and layer names."""
    data = {
        "version": VERSION,
        "statistic": statistic,
        "unit": UNITS.get(statistic, ""),
        "layers": list(layers),
    }
    return json.dumps(data).encode()


def parse_content(raw: bytes) -> dict[str, Any]:
    """The inverse of :func:`content`."""
    data: dict[str, Any] = json.loads(raw)
    return data
