"""The harness itself: what it promises to the other tests."""

from __future__ import annotations

import os
import signal
import time
import warnings

import pytest
import torch
from ranks import RanksFailedError, launch, on_ranks
from torch import distributed as dist


def summed(value: int) -> tuple[int, int]:
    """This rank and the sum over all ranks of ``value`` times the rank's number."""
    total = torch.tensor(value * dist.get_rank())
    dist.all_reduce(total)
    return dist.get_rank(), int(total)


def one_raises() -> None:
    """And the other waits for it for ever."""
    if dist.get_rank() == 1:
        raise ValueError("the second has had enough")
    dist.barrier()


def one_is_late() -> None:
    """For longer than anybody waits."""
    if dist.get_rank() == 0:
        time.sleep(600)
    dist.barrier()


def one_is_killed() -> str:
    """As the kernel does it when memory is short."""
    print("so far", flush=True)
    if dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def warns() -> None:
    """Nothing else."""
    warnings.warn("careful", UserWarning, stacklevel=1)


@pytest.mark.parametrize("num", [2, 4])
def test_ranks_form_a_group(num):
    """Every rank runs the case, in one group, and the values come back in order."""
    assert on_ranks(summed, 10, num=num) == [(rank, 10 * sum(range(num))) for rank in range(num)]


def test_a_rank_that_raises_ends_the_group_and_is_quoted():
    """The other one does not wait for its limit."""
    start = time.monotonic()
    with pytest.raises(RanksFailedError, match="ValueError: the second has had enough") as caught:
        on_ranks(one_raises, limit=60)
    assert time.monotonic() - start < 30
    assert "rank 0 of 2" in str(caught.value)


def test_a_group_that_hangs_is_ended_and_says_where():
    """Within its limit, with the stack of each rank."""
    with pytest.raises(RanksFailedError, match="in one_is_late") as caught:
        on_ranks(one_is_late, limit=3)
    assert str(caught.value).count("in one_is_late") == 2


def test_a_doomed_rank_may_die():
    """The others' values come back, and the terminal of each; nobody else may die."""
    outcomes = launch(one_is_killed, doomed=frozenset({1}))
    assert [outcome.value for outcome in outcomes] == ["alive", None]
    assert [outcome.terminal for outcome in outcomes] == ["so far\n", "so far\n"]
    assert outcomes[1].exit_code == -signal.SIGKILL
    with pytest.raises(RanksFailedError, match="no answer, exit code -9"):
        launch(one_is_killed)


def test_a_warning_on_a_rank_fails_the_test():
    """As it does everywhere else here."""
    with pytest.raises(RanksFailedError, match="UserWarning: careful"):
        on_ranks(warns)
