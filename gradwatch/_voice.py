"""One voice: of many processes that train together, the first one alone writes, prints and warns of what all find.

Whatever imports this stays free of torch: who has not imported ``torch.distributed`` has no ranks.
"""

from __future__ import annotations

import os
import sys

from gradwatch.errors import warn


def is_speaker() -> bool:
    """Whether this process is the first of its run, or the only one.

    Before the process group is there, ``torchrun`` (and what works like it) tells by the environment.
    """
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank()) == 0
    return os.environ.get("RANK", "0") == "0"


def announce(message: str) -> None:
    """Warn of what every process finds alike; what goes wrong in one alone is for :func:`gradwatch.errors.warn`."""
    if is_speaker():
        warn(message)
