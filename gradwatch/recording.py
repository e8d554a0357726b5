"""Recorded runs, wherever they are kept: one way to read them for figures, reports, replay and the TensorBoard tab.

::

    recording = gradwatch.recording.read("runs/a")  # a log directory, an event file, or a file of JSON lines
    table = recording.table("grad_norm")            # steps x layers
"""

from __future__ import annotations

import os

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
    "read",
    "relative_rows",
]


def read(path: str | os.PathLike[str]) -> MemoryRecording | PackedRecording:
    """Read a recorded run: what is damaged, torn off or of somebody else is left out and named in ``skipped``.

    Args:
        path: A log directory, an event file, or what a ``JSONLWriter`` wrote. A directory's event files are one run,
            in as many sessions as there were; a run that still goes on is read as far as it is.

    Returns:
        The run; empty where the files hold nothing of gradwatch.

    Raises:
        RecordError: There is no such file, it cannot be opened, or a directory holds no run or several.
    """
    from gradwatch._sources.opened import open_recording

    return open_recording(path)
