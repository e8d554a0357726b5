"""Score gradwatch on the severity sweeps: are harmful levels caught and named rightly, and harmless ones left alone?"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from zoo import score, sweeps
from zoo.judge import Alarm, dedup


@dataclass(frozen=True)
class Judged:
    """One level of one sweep: what it did, and what was said."""

    sweep: str
    seed: int
    level: float
    kept: float
    verdict: str
    caught: bool
    named: bool
    said: tuple[str, ...]
    cause: str


def judge(sweep: sweeps.Sweep, seed: int, level: sweeps.Level, alarms: list[Alarm]) -> Judged:
    """Judge one level."""
    kept = dedup(alarms)
    said = tuple(f"{alarm.kind}/{alarm.cause}@{alarm.step}" for alarm in kept)
    named = any(alarm.means(sweep.accept) for alarm in kept)
    return Judged(
        sweep.name, seed, level.level, level.kept, level.verdict, bool(kept), named, said, kept[0].cause if kept else ""
    )


def work(job: tuple[str, int, int]) -> list[Judged]:
    """One sweep at one seed: measure it unwatched, then watch every level."""
    name, index, seed = job
    torch.set_num_threads(1)
    sweep = sweeps.sweeps_of(name)[index]
    return [
        judge(sweep, seed, level, score.watched(sweep.start(seed, level.level), sweep.steps)[0])
        for level in sweeps.measure(sweep, seed)
    ]


def figures(judged: list[Judged]) -> dict[str, Any]:
    """The figures of the table."""
    harmful = [j for j in judged if j.verdict == "harmful"]
    harmless = [j for j in judged if j.verdict == "harmless"]
    return {
        "levels": len(judged),
        "harmful": len(harmful),
        "harmless": len(harmless),
        "caught": round(sum(j.caught for j in harmful) / max(1, len(harmful)), 4),
        "right_name": round(sum(j.named for j in harmful) / max(1, len(harmful)), 4),
        "harmless_alarmed": round(sum(j.caught for j in harmless) / max(1, len(harmless)), 4),
    }


def lines(judged: list[Judged], *, verbose: bool) -> list[str]:
    """A line on every level that was judged wrongly; on every level if verbose."""
    told = []
    for j in judged:
        wrong = (j.verdict == "harmful" and not j.named) or (j.verdict == "harmless" and j.caught)
        if wrong or verbose:
            mark = (
                "ok    "
                if not wrong
                else "MISS  "
                if not j.caught
                else "NAME  "
                if j.verdict == "harmful"
                else "ALARM "
            )
            said = ", ".join(j.said[:3]) or "nothing"
            told.append(
                f"  {mark} {j.sweep}.{j.seed} {j.level:g} ({j.verdict}, keeps {max(j.kept, -9.99):.0%}): {said}"
            )
    return told


def main(args: argparse.Namespace) -> None:
    """Run all sweeps, or those that are named."""
    available = sweeps.sweeps_of(args.sweeps)
    chosen = [i for i, sweep in enumerate(available) if not args.only or any(word in sweep.name for word in args.only)]
    began = time.time()
    jobs = [(args.sweeps, index, seed) for seed in args.seeds for index in chosen]
    judged = [j for part in score.run_all(jobs, work, args.jobs) for j in part]
    print("\n".join(lines(judged, verbose=args.verbose)))
    table = figures(judged)
    if args.causes:
        right = sweeps.right_causes_of(args.sweeps)
        told = [j for j in judged if j.verdict == "harmful" and j.caught and j.sweep in right]
        table["right_cause"] = round(sum(j.cause in right[j.sweep] for j in told) / max(1, len(told)), 4)
    if args.json:
        Path(args.json).write_text(json.dumps({"figures": table, "levels": [asdict(j) for j in judged]}, indent=1))
    print(
        f"{len(chosen)} sweeps in {time.time() - began:.0f} s: "
        + " ".join(f"{key}={value}" for key, value in table.items())
    )
    sys.exit(0)
