"""Why an incident happened: small pure rules, by topic. Each looks at the evidence and gives one cause or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from gradwatch.records import Cause, Incident, ModelInfo, StepRecord

Rule: TypeAlias = Callable[[Incident, StepRecord, ModelInfo], Cause | None]
"""Looks at an incident, the step's record and the model, and gives one cause or none; it never says more than they
hold."""
