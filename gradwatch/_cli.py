"""The ``gradwatch`` command: one function pair a subcommand, nothing heavy imported before it is needed.

The longer ones have a file each: ``explain``, ``replay``, ``report``, ``diff``.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gradwatch import __version__
from gradwatch._commands import diff, explain, replay, report
from gradwatch.errors import GradwatchError

_INTERRUPTED = 130  # what a shell says after Ctrl-C
_NOBODY_READS = 141  # and after a pipe was closed


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        argv: The arguments after the program's name; by default the process's own.

    Returns:
        The exit code: 0, 1 after an error that the message explains, 2 after wrong arguments, 130 after Ctrl-C; that of
        ``replay``, ``report`` and ``diff`` tells more.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character shows "?", not a traceback
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # `gradwatch explain | head -1`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _NOBODY_READS
    except GradwatchError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this is a command
        return 1
    except KeyboardInterrupt:
        print("gradwatch: stopped", file=sys.stderr)  # noqa: T201
        return _INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gradwatch",
        description="Watches every layer's gradient during training: says what goes wrong, where, why, and what to do.",
        epilog="In a training script it is one line: with gradwatch.watch(model): ...",
    )
    parser.add_argument("--version", action="version", version=f"gradwatch {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    _add_demo(commands)
    explain.add_to(commands)
    replay.add_to(commands)
    report.add_to(commands)
    diff.add_to(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "Train a healthy network and two sick ones on real data, and see what gradwatch says about each."
    parser = commands.add_parser(
        "demo",
        help=text[0].lower() + text[1:-1],
        description=text,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--logdir", type=Path, default="runs/gradwatch-demo", help="where the TensorBoard logs go")
    parser.add_argument("--steps", type=_positive, default=300, help="training steps of each network")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same run")
    parser.set_defaults(run=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from gradwatch import _demo

    _demo.run(arguments.logdir, num_steps=arguments.steps, seed=arguments.seed)
    return 0


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value
