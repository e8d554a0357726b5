"""``gradwatch explain``: what a kind of incident or a cause is, for somebody who has never heard of it."""

from __future__ import annotations

import argparse
import sys


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "explain",
        help="what an alarm or a cause means, and what to do about it",
        description="Explain an alarm or a cause: what happened, where, why, and what to do. Without a name it lists "
        "all of them.",
    )
    parser.add_argument("what", nargs="?", help="a code or a name, such as GW102, vanishing or no_clipping")
    parser.set_defaults(run=_explain)


def _explain(arguments: argparse.Namespace) -> int:
    from gradwatch._commands.pages import contents, page, print_plain
    from gradwatch._commands.terminal import open_console
    from gradwatch._identities import code_of, identities, nearest
    from gradwatch.catalogue import PAGES

    if arguments.what is None:
        print_plain(contents(), open_console())
        return 0
    code = code_of(arguments.what)
    if code is None:
        guess = nearest(arguments.what, identities())
        print(  # noqa: T201 - this is a command
            f"gradwatch: {arguments.what!r} is no code and no name of a kind or cause"
            + (f"; {guess}" if guess else "; `gradwatch explain` lists them all"),
            file=sys.stderr,
        )
        return 2
    print_plain(page(PAGES[code]), open_console())
    return 0
