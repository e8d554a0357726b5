"""Score gradwatch on the zoo: every scenario is trained live under ``gradwatch.watch`` and its incidents are judged.

    python tests/zoo/score.py                            # seed 0 of every scenario and every repaired twin
    python tests/zoo/score.py --seeds 0 1 2 --json out.json
    python tests/zoo/score.py --only sigmoid rnn -v      # names that contain one of the words; every run in a line
    python tests/zoo/score.py --public ../shared/zoo     # further scenarios, of the same types, from another folder
    python tests/zoo/score.py --unchanged                # also: training is bit-equal with and without the watch
    python tests/zoo/score.py --causes                   # also: is the first cause that is named a right one?
    python tests/zoo/score.py --sweeps                   # severity sweeps instead: harmful caught, harmless left alone
    python tests/zoo/score.py --sweeps fifth             # the same of a fresh set: third to eighth
    python tests/zoo/score.py --blind                    # the five blind sets instead; --blind fifth for one

Incidents are de-duplicated per kind with a 50-step cool-down before they are counted.
  any      a faulty run raises at least one incident at or after the onset
  recall   ... with an acceptable kind (``Scenario.ok_labels``; the kind, or the name of its first cause)
  top1     the FIRST incident at or after the onset is acceptable
  exact    some incident has the scenario's own label
  layer    of the recalled runs with known faulty layers: the incident's first three layers include one of them
  delay    median steps from onset to the first acceptable incident
  fa_per_1000  de-duplicated incidents per 1000 healthy steps (healthy runs, repaired twins, steps before onset)
  fa_runs  share of healthy runs (repaired twins included) with at least one incident
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from zoo import loop
from zoo.judge import Alarm, Outcome, cause_remarks, judge, remarks, row
from zoo.public_causes import PUBLIC_CAUSES
from zoo.sweeps import SETS

Weights = dict[str, torch.Tensor]
Job = tuple[str, int, int, bool]  # module, index among its SCENARIOS, seed, repaired twin


def start(scenario: Any, seed: int, *, control: bool = False) -> Any:
    """Build a run of ours or of another zoo."""
    torch.manual_seed(seed)
    run = (scenario.control if control else scenario.build)(seed)
    torch.manual_seed(seed + 777)
    return run


def watched(run: Any, steps: int) -> tuple[list[Alarm], list[float]]:
    """Train under a watch; its incidents and the losses."""
    import gradwatch

    optimizers = run.optimizers() if hasattr(run, "optimizers") else run.optimizer
    with gradwatch.watch(run.model, optimizers, writers=[]) as watch:
        losses = loop.train(run, steps, loop.Watching(watch))
    alarms = [
        Alarm(i.step, str(i.kind), i.causes[0].name if i.causes else "", tuple(i.layers), i.message)
        for i in watch.incidents
    ]
    return alarms, losses


def weights(model: torch.nn.Module) -> Weights:
    """What the model holds now."""
    return {key: value.detach().clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}


def same(a: Weights, b: Weights) -> bool:
    """Bit-equal, where NaN equals NaN."""
    return all(torch.equal(torch.nan_to_num(a[key]), torch.nan_to_num(b[key])) for key in a)


def blank_outcome(scenario: Any, seed: int, *, control: bool) -> Outcome:
    """An outcome without alarms; an onset that has to be found is found by training once unwatched."""
    healthy = control or scenario.label == "healthy"
    causes = getattr(scenario, "right_causes", None) or PUBLIC_CAUSES.get(scenario.name, ())
    onset = None if healthy else scenario.onset
    if onset == "first_bad":
        onset = loop.first_bad(start(scenario, seed), scenario.steps)
    return Outcome(
        scenario.name + ("+fixed" if control else ""),
        "healthy" if healthy else scenario.label,
        seed,
        scenario.steps,
        onset,
        ok=["healthy"] if healthy else sorted(scenario.ok_labels),
        faulty_layers=[] if healthy else list(scenario.faulty_layers),
        right_causes=[] if healthy else list(causes),
    )


def work(job: Job, *, unchanged: bool = False) -> Outcome:
    """Train one scenario under a watch."""
    module, index, seed, control = job
    torch.set_num_threads(1)
    scenario = importlib.import_module(module).SCENARIOS[index]
    outcome = blank_outcome(scenario, seed, control=control)
    try:
        run = start(scenario, seed, control=control)
        outcome.alarms, _ = watched(run, scenario.steps)
        if unchanged:
            plain = start(scenario, seed, control=control)
            loop.train(plain, scenario.steps)
            outcome.unchanged = same(weights(run.model), weights(plain.model))
    except Exception as error:  # noqa: BLE001 - one broken run must not sink the table
        outcome.error = repr(error)
    return outcome


def jobs_of(modules: list[str], seeds: list[int], only: list[str]) -> list[Job]:
    """All runs of these modules' scenarios, repaired twins included."""
    return [
        (module, index, seed, control)
        for seed in seeds
        for module in modules
        for index, scenario in enumerate(importlib.import_module(module).SCENARIOS)
        if not only or any(word in scenario.name for word in only)
        for control in ((False, True) if scenario.control else (False,))
    ]


def run_all(jobs: list[Any], function: Callable[[Any], Any], workers: int) -> list[Any]:
    """Map, over processes where there are several."""
    if workers <= 1:
        torch.set_num_threads(1)
        return [function(job) for job in jobs]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(function, jobs))


def public(folder: str) -> list[str]:
    """Make another zoo's folder importable; the names of its modules with scenarios."""
    path = Path(folder).resolve()
    sys.path.insert(1, str(path))
    found = [file.stem for file in sorted(path.glob("zoo_*.py")) if "SCENARIOS" in file.read_text()]
    if not found:
        raise SystemExit(f"--public {folder}: no zoo_*.py with SCENARIOS in it")
    return found


def options(description: str | None) -> argparse.ArgumentParser:
    """The options that every script here has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[], help="words, one of which the name must contain")
    parser.add_argument("--public", metavar="DIR", help="a folder with further scenarios of the same types")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", help="a file for the figures and every outcome")
    parser.add_argument("-v", "--verbose", action="store_true")
    return parser


_SETS = {"first": "", "second": "second", "third": "third", "fourth": "fourth", "fifth": "fifth"}
"""Blind sets, each written before the rules of its day were seen; and fresh sweeps, from the third on."""


def chosen_modules(args: argparse.Namespace) -> list[str]:
    """Where the scenarios come from."""
    if args.blind:
        return [f"zoo.blind_{name}" if name else "zoo.blind" for name in map(_SETS.get, args.blind)]
    return ["zoo.corpus", *(public(args.public) if args.public else [])]


def main() -> None:
    """Run what the command line asks for."""
    parser = options(__doc__)
    parser.add_argument("--unchanged", action="store_true", help="compare with an unwatched run, bit by bit")
    parser.add_argument("--causes", action="store_true", help="judge the first cause that is named, too")
    parser.add_argument("--sweeps", nargs="?", const="own", choices=SETS, help="severity sweeps instead, of this set")
    parser.add_argument("--blind", nargs="*", choices=_SETS, help="the blind scenarios instead: these sets, or all")
    args = parser.parse_args()
    args.blind = list(_SETS) if args.blind == [] else args.blind
    if args.sweeps:
        from zoo import sweep_score

        sweep_score.main(args)
        return
    jobs = jobs_of(chosen_modules(args), args.seeds, args.only)
    began = time.time()
    outcomes = run_all(jobs, partial(work, unchanged=args.unchanged), args.jobs)
    figures = judge(outcomes)
    lines = remarks(outcomes, verbose=args.verbose)
    lines += cause_remarks(outcomes) if args.causes else []
    lines += [f"  ERROR  {line}" for line in figures["errors"]] + [
        f"  CHANGED {key}" for key in figures["changed_training"]
    ]
    print("\n".join(lines))
    if args.json:
        Path(args.json).write_text(json.dumps({"figures": figures, "runs": [asdict(o) for o in outcomes]}, indent=1))
    print(json.dumps(figures["by_label"]), dict(Counter(o.label for o in outcomes)))
    if args.causes:
        print(f"first cause right: {figures['cause']:.0%} of the recalled runs whose causes are known")
    errors, changed = len(figures["errors"]), len(figures["changed_training"])
    print(f"{len(jobs)} runs in {time.time() - began:.0f} s: {row(figures)} errors={errors} changed={changed}")
    sys.exit(1 if errors or changed else 0)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
