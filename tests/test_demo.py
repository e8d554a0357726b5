"""The demo as a newcomer runs it: in time, with the right findings, readable in a file, and its logs readable."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAMES = ["healthy", "deep-sigmoid", "large-init"]


def run_demo(logdir, *options):
    """Everything it prints, warnings being errors."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "gradwatch", "demo", "--logdir", logdir, *options],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """One full run: its output, its seconds and its logdir."""
    logdir = tmp_path_factory.mktemp("runs") / "demo"
    start = time.perf_counter()
    done = run_demo(logdir)
    return done, time.perf_counter() - start, logdir


def section(text, title):
    """What is printed below one heading."""
    return re.split(r"\n── .* ──\n", text.partition(f"── {title}")[2].partition("\n")[2])[0]


def test_it_takes_less_than_a_minute(demo):
    """Two cores and other tests beside it included."""
    assert demo[1] < 60


def test_each_finding_is_the_right_one(demo):
    """Nothing in the healthy network, vanishing in the sigmoid one, exploding in the one initialised too large."""
    out = demo[0].stdout
    assert "nothing found" in section(out, "healthy: ")
    assert "GW" not in section(out, "healthy: ") + section(out, "Summary of healthy")
    for where in ("deep-sigmoid: ", "Summary of deep-sigmoid"):
        assert re.search(r"^vanishing · step \d+ · fc1.* · GW102$", section(out, where), re.MULTILINE)
    for where in ("large-init: ", "Summary of large-init"):
        assert re.search(r"^exploding · step \d+ · .* · GW101$", section(out, where), re.MULTILINE)


def test_causes_and_remedies_are_shown(demo):
    """Each sick network's true cause comes first, with something to do about it."""
    out = demo[0].stdout
    assert re.search(r"why +saturating activations \(confident\)", section(out, "Summary of deep-sigmoid"))
    assert re.search(r"why +large weights \(confident\)", section(out, "Summary of large-init"))
    assert out.count("try   1. ") == 6, "three incidents, each as it happens and in its summary"


def test_the_sick_do_not_learn(demo):
    """The findings are true: the healthy network reads nearly all digits, the sick ones guess."""
    shares = [int(share) for share in re.findall(r"reads (\d+) % of the test digits", demo[0].stdout)]
    assert shares[0] > 90
    assert max(shares[1:]) < 30


def test_the_output_is_readable_in_a_file(demo):
    """No terminal codes, no warning, no half-drawn bar, and the command that opens the logs."""
    done, _, logdir = demo
    assert "\x1b" not in done.stdout
    assert "━" not in done.stdout
    assert done.stderr == ""
    assert f"tensorboard --logdir {logdir}" in done.stdout


def test_the_logs_can_be_read(demo):
    """One run directory a network, with scalars, a report and a picture."""
    for name in NAMES:
        log = EventAccumulator(str(demo[2] / name)).Reload()
        tags = log.Tags()
        assert any("gradient norm" in tag for tag in tags["scalars"]), name
        assert tags["images"], name
        assert any("report" in tag for tag in tags["tensors"]), name


def test_a_second_run_lies_beside_the_first(tmp_path):
    """No earlier log is overwritten or mixed with a new one, the output says so, and a seed fixes every figure."""
    first, second = run_demo(tmp_path, "--steps", "20"), run_demo(tmp_path, "--steps", "20")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES + [f"{name}-2" for name in NAMES])
    assert "holds an earlier demo" not in first.stdout
    assert "holds an earlier demo; this one lies beside it, as healthy-2" in " ".join(second.stdout.split())

    def figures(text):
        """What depends on neither the clock nor the directory."""
        lines = re.findall(r"^(?:fc|last).*|.* of the test digits.*|  total norm.*|.* GW\d+$", text, re.MULTILINE)
        return [line for line in lines if "took" not in line]

    assert len(figures(first.stdout)) > 30
    assert figures(first.stdout) == figures(second.stdout)
