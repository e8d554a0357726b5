"""Verify the labels of a blind corpus on unwatched runs, in the way of ``verify``, and tell the figures.

python tests/zoo/verify_blind.py --blind fifth --seeds 0 1 -v      # or fourth
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from zoo import verify
from zoo.core import Scenario


def checked(scenario: Scenario, seed: int) -> tuple[str, str]:
    """What speaks against a label, or nothing; and the figures."""
    run = verify.measure(scenario, seed)
    ends = f"loss {run.losses[0]:.3g} to {run.last:.3g}, {run.seconds:.1f} s"
    if scenario.label == "healthy":
        return verify.healthy_complaint(scenario.check, run), ends
    twin = verify.measure(scenario, seed, control=True)
    share = verify.kept(run, twin, own=scenario.check == "own")
    complaints = [verify.faulty_complaint(scenario, run, twin)]
    if complaint := verify.healthy_complaint("loss", twin):
        complaints.append(f"twin: {complaint}")
    figures = f"keeps {max(share, -9.99):.2f}; {ends}; twin {twin.losses[0]:.3g} to {twin.last:.3g}"
    return "; ".join(filter(None, complaints)), figures + f"; first bad {run.first_bad}"


def main() -> None:
    """Verify the scenarios that the command line names."""
    from zoo.score import options

    parser = options(__doc__)
    parser.add_argument("--blind", choices=("fourth", "fifth"), required=True)
    args = parser.parse_args()
    scenarios = importlib.import_module(f"zoo.blind_{args.blind}").SCENARIOS
    torch.set_num_threads(1)
    wrong = total = 0
    for scenario in scenarios:
        if args.only and not any(word in scenario.name for word in args.only):
            continue
        for seed in args.seeds:
            complaint, figures = checked(scenario, seed)
            total, wrong = total + 1, wrong + bool(complaint)
            if complaint or args.verbose:
                mark = "WRONG" if complaint else "ok   "
                print(f"{mark} {scenario.name}.{seed} ({scenario.label}) {figures} {complaint}", flush=True)
    print(f"{total} checked, {wrong} wrong")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
