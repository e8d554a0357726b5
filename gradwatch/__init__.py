"""gradwatch watches every layer's gradient at every optimizer step and says what goes wrong, where, why, what to do.

Importing it is cheap and does not import torch: TensorBoard's server loads it for its tab.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch._context import Watch, watch
    from gradwatch._probes.schedule import Probes
    from gradwatch.clipping import ClipNorm, ClipValue
    from gradwatch.errors import GradwatchError, GradwatchWarning
    from gradwatch.lightning import GradWatch
    from gradwatch.records import Cause, Incident, Layer, Remedy, Severity, StepRecord
    from gradwatch.suppression import Suppression
    from gradwatch.writers import Writer
    from gradwatch.writers.console import ConsoleWriter
    from gradwatch.writers.jsonl import JSONLWriter
    from gradwatch.writers.tensorboard import TensorBoardWriter

__version__ = "0.1.0"

_HOMES = {
    "Cause": "records",
    "ClipNorm": "clipping",
    "ClipValue": "clipping",
    "ConsoleWriter": "writers.console",
    "GradWatch": "lightning",
    "GradwatchError": "errors",
    "GradwatchWarning": "errors",
    "Incident": "records",
    "JSONLWriter": "writers.jsonl",
    "Layer": "records",
    "Probes": "_probes.schedule",
    "Remedy": "records",
    "Severity": "records",
    "StepRecord": "records",
    "Suppression": "suppression",
    "TensorBoardWriter": "writers.tensorboard",
    "Watch": "_context",
    "Writer": "writers",
    "watch": "_context",
}

_ROOMS = ("figures", "recording")

__all__ = [
    "Cause",
    "ClipNorm",
    "ClipValue",
    "ConsoleWriter",
    "GradWatch",
    "GradwatchError",
    "GradwatchWarning",
    "Incident",
    "JSONLWriter",
    "Layer",
    "Probes",
    "Remedy",
    "Severity",
    "StepRecord",
    "Suppression",
    "TensorBoardWriter",
    "Watch",
    "Writer",
    "__version__",
    "watch",
]


def __getattr__(name: str) -> object:
    """Import a public name, or a module that is used by its name, when it is first used (PEP 562)."""
    if name not in _HOMES and name not in _ROOMS:
        raise AttributeError(f"module 'gradwatch' has no attribute {name!r}")
    from importlib import import_module

    if name in _ROOMS:
        return import_module(f"gradwatch.{name}")
    value = getattr(import_module(f"gradwatch.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
