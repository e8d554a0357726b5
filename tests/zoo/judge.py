"""The judge: from incidents to recall, first guesses, layers, delays and false alarms. It knows no detector."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

COOL_DOWN = 50


@dataclass(frozen=True)
class Alarm:
    """What is kept of one incident."""

    step: int
    kind: str
    cause: str = ""
    layers: tuple[str, ...] = ()
    message: str = ""

    def means(self, labels: Iterable[str]) -> bool:
        """Whether its kind, or its first cause, is one of these."""
        return self.kind in labels or self.cause in labels


@dataclass
class Outcome:
    """One run and what was said about it."""

    name: str
    label: str
    seed: int
    steps: int
    onset: int | None = None
    alarms: list[Alarm] = field(default_factory=list)
    ok: list[str] = field(default_factory=list)
    faulty_layers: list[str] = field(default_factory=list)
    right_causes: list[str] = field(default_factory=list)
    unchanged: bool | None = None
    error: str = ""

    @property
    def key(self) -> str:
        """Name and seed."""
        return f"{self.name}.{self.seed}"


@dataclass(frozen=True)
class Verdict:
    """How one faulty run was judged; None where the question does not arise."""

    any: bool
    recall: bool
    top1: bool
    exact: bool
    layer: bool | None
    delay: int | None
    cause: bool | None


def dedup(alarms: list[Alarm]) -> list[Alarm]:
    """The alarms in order, without those that repeat a kept one of their kind within the cool-down."""
    last: dict[str, int] = {}
    kept = []
    for alarm in sorted(alarms, key=lambda alarm: alarm.step):
        if alarm.kind not in last or alarm.step - last[alarm.kind] >= COOL_DOWN:
            kept.append(alarm)
            last[alarm.kind] = alarm.step
    return kept


def near(layer: str, prefixes: Iterable[str]) -> bool:
    """Whether the layer is one of these, inside one, or around one."""
    return bool(layer) and any(layer == p or layer.startswith(p + ".") or p.startswith(layer + ".") for p in prefixes)


def after_onset(outcome: Outcome) -> list[Alarm]:
    """The alarms that count for a faulty run; one that only a false start's cool-down swallowed counts too."""
    onset = outcome.onset or 0
    kept = [alarm for alarm in dedup(outcome.alarms) if alarm.step >= onset]
    return kept or [alarm for alarm in outcome.alarms if alarm.step >= onset][:1]


def judge_faulty(outcome: Outcome) -> Verdict:
    """Judge one faulty run."""
    after = after_onset(outcome)
    good = [alarm for alarm in after if alarm.means(outcome.ok)]
    first = [alarm for alarm in after if alarm.step == after[0].step]
    near_fault = any(near(layer, outcome.faulty_layers) for alarm in good for layer in alarm.layers[:3])
    return Verdict(
        any=bool(after),
        recall=bool(good),
        top1=any(alarm.means(outcome.ok) for alarm in first),
        exact=any(alarm.means([outcome.label]) for alarm in after),
        layer=near_fault if outcome.faulty_layers and good else None,
        delay=good[0].step - (outcome.onset or 0) if good else None,
        cause=good[0].cause in outcome.right_causes if outcome.right_causes and good else None,
    )


def false_alarms(outcome: Outcome) -> tuple[list[Alarm], int]:
    """The alarms of a run's healthy part (all of a healthy run, a faulty one before its onset), and its length."""
    alarms = dedup(outcome.alarms)
    if outcome.label == "healthy":
        return alarms, outcome.steps
    onset = outcome.onset or 0
    return [alarm for alarm in alarms if alarm.step < onset], onset


def judge(outcomes: list[Outcome]) -> dict[str, Any]:
    """The figures of the table, with shares by label."""
    faulty = [(o, judge_faulty(o)) for o in outcomes if o.label != "healthy"]
    healthy = [o for o in outcomes if o.label == "healthy"]
    wrong = [false_alarms(o) for o in outcomes]
    by_label: dict[str, list[bool]] = defaultdict(list)
    for outcome, verdict in faulty:
        by_label[outcome.label].append(verdict.recall)
    delays = [v.delay for _, v in faulty if v.delay is not None]
    return {
        "runs": len(outcomes),
        "faulty": len(faulty),
        "healthy": len(healthy),
        **{key: _share(getattr(v, key) for _, v in faulty) for key in ("any", "recall", "top1", "exact", "layer")},
        "delay": median(delays) if delays else None,
        "fa_per_1000": round(1000 * sum(len(a) for a, _ in wrong) / max(1, sum(n for _, n in wrong)), 3),
        "fa_runs": _share(bool(o.alarms) for o in healthy),
        "cause": _share(v.cause for _, v in faulty),
        "by_label": {key: f"{sum(v)}/{len(v)}" for key, v in sorted(by_label.items())},
        "errors": [f"{o.key}: {o.error}" for o in outcomes if o.error],
        "changed_training": [o.key for o in outcomes if o.unchanged is False],
    }


def _share(flags: Iterable[bool | None]) -> float:
    """How many of those that are not None hold."""
    known = [bool(flag) for flag in flags if flag is not None]
    return round(sum(known) / max(1, len(known)), 4)


COLUMNS = ("any", "recall", "top1", "exact", "layer", "delay", "fa_per_1000", "fa_runs")


def row(figures: dict[str, Any]) -> str:
    """The figures in one line."""
    return " ".join(f"{key}={figures[key]}" for key in COLUMNS)


def remarks(outcomes: list[Outcome], *, verbose: bool = False) -> list[str]:
    """A line on every false alarm and every faulty run that was not judged right; on every run if verbose."""
    lines = []
    for outcome in outcomes:
        lines += [
            f"  false alarm  {outcome.key}: {a.kind}/{a.cause} at step {a.step} {list(a.layers[:3])} {a.message}"
            for a in false_alarms(outcome)[0]
        ]
        if outcome.label == "healthy":
            continue
        verdict = judge_faulty(outcome)
        if verbose or not verdict.top1 or verdict.layer is False:
            onset = outcome.onset or 0
            told = [f"{a.kind}/{a.cause}@{a.step - onset} {list(a.layers[:2])}" for a in after_onset(outcome)[:4]]
            mark = "ok    " if verdict.top1 and verdict.layer is not False else "LAYER " if verdict.top1 else "MISS  "
            lines.append(f"  {mark} {outcome.key} ({outcome.label}, onset {onset}): {', '.join(told) or 'nothing'}")
    return lines


def cause_remarks(outcomes: list[Outcome]) -> list[str]:
    """A line on every recalled run whose first cause is wrong."""
    lines = []
    for outcome in outcomes:
        if outcome.label != "healthy" and judge_faulty(outcome).cause is False:
            good = next(alarm for alarm in after_onset(outcome) if alarm.means(outcome.ok))
            lines.append(
                f"  CAUSE  {outcome.key} ({good.kind}): {good.cause or 'none'}, not {' or '.join(outcome.right_causes)}"
            )
    return lines
