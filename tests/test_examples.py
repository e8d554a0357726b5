"""Every example runs as a user would run it, warnings being errors, and prints what it promises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

TELLING = {
    "amp": ["8 of 200 steps skipped, where the loss scale was too large", "incidents: 0"],
    "gan": ["generator: 600 steps", ", 0 incidents\ncritic: 600 steps", ", 0 incidents\ngenerated points"],
    "hugging_face_trainer": ["100 steps, ", "of them clipped by the Trainer; incidents: 0"],
    "lightning_callback": ["ClipNorm(max_norm=1): ", "incidents: 0"],
    "matrix_products": ["gain 1.0: found nothing", "gain 1.25: found exploding", "gain 0.8: found vanishing"],
    "lightning_model_parallel": [
        "gradwatch: 45 steps of Digits (4 parameter tensors, 9,610 elements)",
        "2 processes; inc",
    ],
    "plain_torch": ["ClipNorm(max_norm=1): ", "of the digits are read right; incidents: 0"],
    "torchrun_ddp": ["2 processes, 90 steps; incidents: 0"],
    "torchrun_fsdp2": ["(6 parameter tensors, 26,122 elements)", "the same on all: True; incidents: 0"],
    "torchrun_fsdp2_tensor_parallel": ["found [('nonfinite', 60)], skipped [60]; the same on all: True"],
}
"""What a person learns from each; a new example needs an entry."""

NUM_PROCESSES = {"torchrun_ddp": 2, "torchrun_fsdp2": 2, "torchrun_fsdp2_tensor_parallel": 4}
"""Those that ``torchrun`` starts."""

OTHERS_WARNINGS = {
    "lightning_callback": [
        "`isinstance(treespec, LeafSpec)` is deprecated",  # Lightning 2.6.6 on torch 2.13
        "The 'train_dataloader' does not have many workers",  # right for 1,797 small pictures
        "The number of training batches (29) is smaller than the logging interval",  # so that it stays short
    ],
    "lightning_model_parallel": [
        "`isinstance(treespec",
        "The 'train_dataloader' does not have many workers",
        "The number of training batches (15) is smaller than the logging interval",
    ],
}
"""Not ours to mend; everything else fails."""


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    """It ends well without a warning, says its telling lines and leaves no file behind."""
    ignored = [f"ignore:{text.partition(',')[0]}" for text in OTHERS_WARNINGS.get(path.stem, [])]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": ",".join(["error", *ignored]),  # for all the processes that it starts, too
    }
    num = NUM_PROCESSES.get(path.stem)
    torchrun = [] if num is None else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num}"]
    done = subprocess.run(
        [sys.executable, *torchrun, path],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in TELLING[path.stem]:
        assert done.stdout.count(line) == 1, "not said, or by several processes"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path):
    """At most 60 lines: one screen."""
    assert len(path.read_text().splitlines()) <= 60


def test_no_example_is_missing():
    """Each example has its telling lines, and each such entry its example."""
    assert {path.stem for path in EXAMPLES} == set(TELLING)
