"""The console script: says in a sentence what is missing when the command line's own libraries are, and which row of
the layouts cannot be read."""

from __future__ import annotations

import sys

from kvconform.specs.pattern import LineError


def main() -> int:
    """Run the command line; the exit code."""
    try:
        from kvconform.harness.cli import main as cli
    except ModuleNotFoundError as e:
        if e.name not in ("click", "rich"):
            raise
        print(
            f"kvconform's command line needs {e.name}: pip install click rich (pytest suites needs neither)",
            file=sys.stderr,
        )
        return 2
    except LineError as e:
        return _unreadable(e)
    try:
        return cli()
    except LineError as e:  # a command that is imported late, and works a row out as it is
        return _unreadable(e)


def _unreadable(error: LineError) -> int:
    print(f"kvconform: specs/layouts.py: {error}", file=sys.stderr)
    return 2
