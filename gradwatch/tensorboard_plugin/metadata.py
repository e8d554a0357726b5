"""Tags and wire format, shared by the writer and every reader.

A packed statistic is one float32 value a layer, one tag for 4,096 writes:
``gradwatch/v1/<session>/<optimizer>/<statistic>/<segment>``. The metadata of each tag's first event holds JSON with
the version, the unit and the layer names, so that any segment can be read alone.

Everything else is strings of JSON (DT_STRING ``[n]``): ``gradwatch/v1/<session>/incidents/<segment>``, ``/model`` (a
``ModelInfo``, whenever more is known), ``/summary`` (a ``RunSummary`` without its incidents, once, at the end of the
run), and for each optimizer ``<optimizer>/layers`` (a list of ``Layer``, whenever they change) and
``<optimizer>/through_time`` (one ``TimeProfile`` a string, at the steps that were sampled), and where they were asked
for ``<optimizer>/local_norms`` (a ``LocalNorms``). A reader leaves out what it does not know. The events of incidents
are counted: TensorBoard keeps one event of a tag for each step, and two incidents may have the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

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


TEXTS = ("incidents", "model", "summary", "layers", "through_time", "local_norms")
"""What is written as strings of JSON."""

_FLOAT32 = np.finfo(np.float32)
_TAG = re.compile(
    rf"{PLUGIN_NAME}/v(?P<version>\d{{1,9}})/(?P<session>[^/]+)(?:/(?P<optimizer>\d{{1,9}}))?/(?P<what>[^/]+)/(?P<segment>\d{{5,9}})"
)


@dataclass(frozen=True)
class Place:
    """What a tag says.

    Attributes:
        session: Names sort by time.
        optimizer: Its index; None for what is of the whole session.
        what: The statistic, or one of :data:`TEXTS`.
        segment: Its number.
        version: Of the wire format.
    """

    session: str
    optimizer: int | None
    what: str
    segment: int
    version: int = VERSION


def parse_tag(tag: str) -> Place | None:
    """The inverse of :func:`statistic_tag` and :func:`session_tag`; None for a tag of somebody else."""
    match = _TAG.fullmatch(tag)
    if match is None:
        return None
    optimizer = None if match["optimizer"] is None else int(match["optimizer"])
    return Place(match["session"], optimizer, match["what"], int(match["segment"]), int(match["version"]))


def statistic_tag(session: str, optimizer: int, statistic: str, segment: int) -> str:
    """The tag of one segment of one packed statistic."""
    return f"{PLUGIN_NAME}/v{VERSION}/{session}/{optimizer}/{statistic}/{segment:05d}"


def session_tag(session: str, what: str, segment: int) -> str:
    """The tag of one segment of what belongs to the whole session: incidents, model, summary."""
    return f"{PLUGIN_NAME}/v{VERSION}/{session}/{what}/{segment:05d}"


def incidents_tag(session: str, segment: int) -> str:
    """The tag of one segment of incidents."""
    return session_tag(session, "incidents", segment)


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


def to_float32(values: Any) -> NDArray[np.float32]:
    """Little-endian float32 that keeps what a value means: only zero becomes 0, only inf becomes inf."""
    wide = np.asarray(values, dtype=np.float64)
    with np.errstate(over="ignore", under="ignore"):
        narrow: NDArray[np.float32] = wide.astype("<f4")
    if np.count_nonzero(narrow) == narrow.size and not np.isinf(narrow).any():
        return narrow
    vanished = (narrow == 0) & (wide != 0)
    narrow[vanished] = np.copysign(_FLOAT32.smallest_subnormal, wide[vanished])
    overflown = np.isinf(narrow) & np.isfinite(wide)
    narrow[overflown] = np.copysign(_FLOAT32.max, wide[overflown])
    return narrow
