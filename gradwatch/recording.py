"""Recorded runs, wherever they are kept: one way to read them for figures, reports, replay and the TensorBoard tab.

::

    recording = gradwatch.recording.read("runs/a")  # a log directory, an event file, or a file of JSON lines
    table = recording.table("grad_norm")            # steps x layers
"""

from __future__ import annotations

from gradwatch._sources.memory import MemoryRecording
from gradwatch._sources.packed import PackedRecording, Store
from gradwatch._sources.protocol import STATISTICS, Recording
from gradwatch._sources.tables import Table, module_rows, relative_rows

__all__ = [
    "STATISTICS",
    "MemoryRecording",
    "PackedRecording",
    "Recording",
    "Store",
    "Table",
    "module_rows",
    "relative_rows",
]
