"""``gradwatch replay``: a recorded run judged again, for people and (``--json``) for programs."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from gradwatch import __version__
from gradwatch.errors import GradwatchError

if TYPE_CHECKING:
    from gradwatch._replay import Replay
    from gradwatch.records import Incident
    from gradwatch.suppression import Suppression

SCHEMA = "gradwatch-replay/1"
MAX_INCIDENTS, MAX_LAYERS = 100, 20  # in the JSON answer, which somebody may read line by line
_UNREADABLE = 2
_ABOUT = (
    "A recorded training run, judged again. The exit code is 0 for a healthy run, 1 for incidents, 2 for a file that "
    "cannot be read. `gradwatch explain CODE` explains a code."
)
T = TypeVar("T")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "replay",
        help="judge a recorded run again, with other thresholds or suppressions, without training again",
        description="Judge a run that gradwatch recorded once more: by a file of JSON lines (gradwatch.JSONLWriter), "
        "which tells everything, or by a TensorBoard log, as far as that goes. The exit code is 0 for a healthy run, "
        "1 where incidents are found, 2 where the file cannot be read.",
    )
    parser.add_argument(
        "file", nargs="?", help="the recorded run: a file of JSON lines, an event file or a log directory"
    )
    parser.add_argument("--json", action="store_true", help="answer with one JSON object")
    parser.add_argument(
        "--detectors", metavar="KINDS", type=_readable(_kinds), help="look for these only, such as exploding,nonfinite"
    )
    parser.add_argument(
        "--set",
        dest="changes",
        metavar="NAME=VALUE",
        action="append",
        type=_readable(_change),
        default=[],
        help="judge by another threshold, such as exploding.BURST=4 (any number of times)",
    )
    parser.add_argument(
        "--suppress",
        metavar="WHAT:LAYERS:REASON",
        action="append",
        type=_readable(_suppression),
        default=[],
        help="what is not told, such as 'GW102:encoder.*:frozen at first' (any number of times)",
    )
    parser.add_argument("--list-thresholds", action="store_true", help="list what --set can change")
    parser.set_defaults(run=_replay, parser=parser)


def _replay(arguments: argparse.Namespace) -> int:
    if arguments.list_thresholds:
        return _list_thresholds()
    if arguments.file is None:
        arguments.parser.error("give the file of a recorded run, or --list-thresholds")
    from gradwatch._replay import replay
    from gradwatch.thresholds import override
    from gradwatch.writers.console import ConsoleWriter

    writer = ConsoleWriter(sys.stdout)
    changes: dict[str, float] = dict(arguments.changes)

    def tell(_run: int, incident: Incident) -> None:
        if not arguments.json:
            writer.write_incident(incident)
            print()  # noqa: T201 - this is a command

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with override(changes):
                result = replay(arguments.file, kinds=arguments.detectors, suppress=arguments.suppress, tell=tell)
        except GradwatchError as error:
            return _fail(str(error), arguments)
    notes = [str(warning.message) for warning in caught]
    answer = _answer(result, arguments, changes, notes) if arguments.json else _verdict(result, arguments.file, notes)
    print(answer)  # noqa: T201
    return 1 if result.incidents else 0


def _fail(message: str, arguments: argparse.Namespace) -> int:
    if arguments.json:
        from gradwatch.writers._lines import dumps

        print(dumps({"schema": SCHEMA, "about": _ABOUT, "file": arguments.file, "error": message}))  # noqa: T201
    else:
        print(message, file=sys.stderr)  # noqa: T201
    return _UNREADABLE


def _verdict(result: Replay, file: str, notes: list[str]) -> str:
    """The closing lines."""
    from gradwatch import wording

    lines = []
    for number, run in enumerate(result.runs, start=1):
        which = f"run {number} of {len(result.runs)}, " if len(result.runs) > 1 else ""
        steps = wording.count(run.num_steps, "step")
        lines.append(f"gradwatch: {which}{steps} of {wording.watched(run)}: {wording.found(run)}")
    recorded = wording.count(len(result.recorded), "incident") if result.recorded else "no incident"
    lines.append(f"judged again from {wording.plain(file)}, where {recorded} had been recorded")
    if not result.has_model:
        lines.append("note: the file does not tell how the model is built, so causes that depend on it are missing")
    lines += [f"note: {wording.plain(gap)}" for gap in result.gaps]
    if result.num_skipped:
        lines.append(f"note: {wording.count(result.num_skipped, 'line')} could not be used")
        lines += [f"  {wording.plain(text)}" for text in result.skipped]
    return "\n".join([*lines, *(f"note: {wording.plain(note)}" for note in notes)])


def _answer(result: Replay, arguments: argparse.Namespace, changes: dict[str, float], notes: list[str]) -> str:
    """Everything as one JSON object of bounded size."""
    from gradwatch.thresholds import THRESHOLDS
    from gradwatch.writers._lines import dumps

    found = [(number, incident) for number, run in enumerate(result.runs) for incident in run.incidents]
    return dumps(
        {
            "schema": SCHEMA,
            "about": _ABOUT,
            "gradwatch": __version__,
            "file": arguments.file,
            "healthy": not found,
            "model": result.runs[-1].model.name if result.has_model else None,
            "num_runs": len(result.runs),
            "num_steps": result.num_steps,
            "detectors": None if arguments.detectors is None else list(arguments.detectors),
            "thresholds_changed": {
                name: {"default": THRESHOLDS[name].default, "value": value} for name, value in changes.items()
            },
            "suppressed": [text for run in result.runs for text in run.suppressed],
            "num_recorded_incidents": len(result.recorded),
            "num_skipped_lines": result.num_skipped,
            "skipped_lines": list(result.skipped),
            "notes": [*result.gaps, *notes],
            "num_incidents": len(found),
            "incidents": [{"run": number, **_incident(incident)} for number, incident in found[:MAX_INCIDENTS]],
        }
    )


def _incident(incident: Incident) -> dict[str, Any]:
    """One incident, without what no reader would read to its end."""
    data = incident.to_json()
    del data["evidence"]
    return {**data, "layers": data["layers"][:MAX_LAYERS], "num_layers_named": len(incident.layers)}


def _list_thresholds() -> int:
    from rich.table import Table

    from gradwatch._commands.terminal import open_console
    from gradwatch.thresholds import THRESHOLDS

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    table.add_column("name", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", overflow="fold")
    table.add_column("what it decides", overflow="fold", min_width=30)
    for threshold in THRESHOLDS.values():
        table.add_row(threshold.name, f"{threshold.default:g}", threshold.unit, threshold.meaning)
    open_console().print(table)
    return 0


# ------------------------------------------------------------------------------------------------------ the arguments


def _readable(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Errors of our own as argparse's."""

    def parsed(text: str) -> T:
        try:
            return parse(text)
        except GradwatchError as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix("gradwatch: ")) from error

    return parsed


def _kinds(text: str) -> tuple[str, ...]:
    from gradwatch._identities import nearest
    from gradwatch.detectors import default_detectors

    known = [detector.kind for detector in default_detectors()]
    kinds = tuple(kind.strip().lower() for kind in text.split(","))
    for kind in kinds:
        if kind not in known:
            guess = nearest(kind, known) or f"there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(f"{kind!r} is no detector; {guess}")
    return kinds


def _change(text: str) -> tuple[str, float]:
    from gradwatch.thresholds import check

    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with a number") from None
    return name.strip(), check(name.strip(), number)


def _suppression(text: str) -> Suppression:
    from gradwatch._identities import check_identity
    from gradwatch.suppression import Suppression

    parts = text.split(":", 2)
    if len(parts) != 3:  # noqa: PLR2004
        raise argparse.ArgumentTypeError(f"{text!r} is not WHAT:LAYERS:REASON, such as 'GW102:encoder.*:frozen'")
    check_identity(parts[0])
    return Suppression(parts[0], parts[1], reason=parts[2])
