"""Real process groups for tests: a case runs on every rank of a fresh gloo group, and the test looks at what came back.

A fork server imports torch once and every rank is forked off it, so that a group starts in a fraction of a second and
shares nothing with the group before. Whatever goes wrong ends in time, and the test says what every rank was doing.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_GRACE = 5.0
"""Seconds that the other ranks get when one has failed: in time to fail, too, and say why."""

OTHERS_WARNINGS = [
    "FSDP2-wrapped module .* returned a view tensor",  # of every tensor parallel layer; nothing here works in place
]
"""Not ours to mend; all others fail."""

_servers = multiprocessing.get_context("forkserver")
_servers.set_forkserver_preload(
    [
        "torch",
        "torch.distributed.fsdp",
        "torch.distributed.optim",  # warns of torch.jit.script, which is torch's own affair: here warnings are none
        "torch.distributed.pipelining",
        "torch.distributed.tensor.parallel",
        "gradwatch._context",
        "gradwatch.writers.tensorboard",
        "matplotlib.figure",
        "pytest",
        "sklearn.datasets",
    ]
)


@dataclass(frozen=True)
class Outcome:
    """What became of one rank.

    Attributes:
        value: What the case returned; None where the rank was killed.
        terminal: All that it wrote to stdout and stderr.
        exit_code: As ``multiprocessing`` has it: ``-signal.SIGKILL`` where it was killed.
    """

    value: Any
    terminal: str
    exit_code: int | None


class RanksFailedError(AssertionError):
    """A rank raised, died, or did not come back in time; the message holds every rank's traceback."""


def on_ranks(case: Callable[..., Any], *arguments: Any, num: int = 2, limit: float = 60.0) -> list[Any]:
    """What ``case(*arguments)`` returns on each of ``num`` ranks, in their order; see :func:`launch`."""
    return [outcome.value for outcome in launch(case, *arguments, num=num, limit=limit)]


def launch(
    case: Callable[..., Any],
    *arguments: Any,
    num: int = 2,
    limit: float = 60.0,
    doomed: frozenset[int] = frozenset(),
) -> list[Outcome]:
    """Run a case on every rank of a new gloo group of ``num`` processes, warnings being errors.

    Args:
        case: A function at the top of a module, so that a rank can find it.
        arguments: For the case; pickled.
        num: Number of ranks.
        limit: Seconds after which all are killed.
        doomed: Ranks that are to be killed by a signal.

    Raises:
        RanksFailedError: A rank raised, was late, or died without being doomed.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        folder = Path(name)
        processes, results = [], []
        os.environ.update({"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})
        for rank in range(num):
            receiver, sender = _servers.Pipe(duplex=False)
            job = _Job(case, arguments, rank, num, limit, folder)
            process = _servers.Process(target=_rank, args=(job, sender), daemon=True)
            process.start()
            sender.close()
            processes.append(process)
            results.append(receiver)
        answers = _gather(results, limit, doomed)
        for process in processes:
            process.join(_GRACE if len(answers) == num else 0)
            if process.is_alive():
                process.kill()
                process.join()
        outcomes = [
            Outcome(answers.get(rank, (None, None))[0], _text(folder / f"terminal{rank}"), processes[rank].exitcode)
            for rank in range(num)
        ]
        failed = [rank for rank in range(num) if rank not in answers or answers[rank][1] is not None]
        if set(failed) - doomed:
            raise RanksFailedError("\n".join(_said(rank, num, outcomes, answers, folder) for rank in range(num)))
    return outcomes


def _gather(results: list[Connection], limit: float, doomed: frozenset[int]) -> dict[int, tuple[Any, str | None]]:
    """Value and traceback of each rank that has answered in time."""
    answers: dict[int, tuple[Any, str | None]] = {}
    waiting = dict(enumerate(results))
    deadline = time.monotonic() + limit
    while waiting and (left := deadline - time.monotonic()) > 0:
        for ready in wait(list(waiting.values()), left):
            rank = next(rank for rank, connection in waiting.items() if connection is ready)
            del waiting[rank]
            with suppress(EOFError):  # it died before it could say anything
                answers[rank] = pickle.loads(ready.recv_bytes())
            if rank not in doomed and answers.get(rank, (None, "died"))[1] is not None:
                deadline = min(deadline, time.monotonic() + _GRACE)
    return answers


def _said(
    rank: int, num: int, outcomes: list[Outcome], answers: dict[int, tuple[Any, str | None]], folder: Path
) -> str:
    outcome = outcomes[rank]
    end = f"exit code {outcome.exit_code}" if rank in answers else f"no answer, exit code {outcome.exit_code}"
    parts = [f"\n=== rank {rank} of {num}: {end}", answers.get(rank, (None, None))[1] or ""]
    parts += ["--- where it was when time was up", stack] if (stack := _text(folder / f"stack{rank}")) else []
    parts += ["--- its terminal", outcome.terminal] if outcome.terminal else []
    return "\n".join(parts)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


@dataclass(frozen=True)
class _Job:
    case: Callable[..., Any]
    arguments: tuple[Any, ...]
    rank: int
    num: int
    limit: float
    folder: Path


def _rank(job: _Job, sender: Connection) -> None:
    """In the new process."""
    with (
        (job.folder / f"terminal{job.rank}").open("w") as terminal,
        (job.folder / f"stack{job.rank}").open("w") as stack,
    ):
        os.dup2(terminal.fileno(), 1)
        os.dup2(terminal.fileno(), 2)
        sys.stdout = sys.stderr = terminal
        faulthandler.dump_traceback_later(0.9 * job.limit, file=stack)
        try:
            # as bytes: torch teaches multiprocessing to hand tensors over in memory of a process that must still live
            sender.send_bytes(pickle.dumps((_in_group(job), None)))
        except BaseException:  # noqa: BLE001 - the test that started us shows it
            sender.send_bytes(pickle.dumps((None, traceback.format_exc())))
        faulthandler.cancel_dump_traceback_later()
        terminal.flush()


def _in_group(job: _Job) -> Any:
    import torch
    from torch import distributed as dist

    warnings.simplefilter("error")
    for text in OTHERS_WARNINGS:
        warnings.filterwarnings("ignore", text)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ.update({"RANK": str(job.rank), "LOCAL_RANK": str(job.rank), "WORLD_SIZE": str(job.num)})
    dist.init_process_group(
        "gloo",
        init_method=f"file://{job.folder}/rendezvous",
        rank=job.rank,
        world_size=job.num,
        timeout=timedelta(seconds=2 * job.limit),  # the harness ends what hangs, and shows where
    )
    value = job.case(*job.arguments)
    dist.destroy_process_group()
    return value
