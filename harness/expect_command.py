"""`kvconform expect`: the command line of harness/expect_update.py."""

from __future__ import annotations

from pathlib import Path

import click

from kvconform.harness.adapters import AdapterError
from kvconform.harness.expectations import FILE_NAME


@click.group()
def expect() -> None:
    """Known violations, as data (docs/expectations.md)."""


@expect.command()
@click.argument("report", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--file",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The file to change.  [default: {FILE_NAME} beside each adapter]",
)
@click.option("--impl", "impls", multiple=True, metavar="NAME", help="Only this implementation; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Say what would change, write nothing.")
def update(report: Path, target: Path | None, impls: tuple[str, ...], dry_run: bool) -> None:
    """Bring expectations up to REPORT, a file that `kvconform run --json` wrote.

    Each violation becomes an entry: its law, a region as narrow as its counterexample allows, the counterexample as
    witness, and a reason for you to write. A line whose witness conforms now is removed. Run again afterwards: what
    lies outside the new regions shows then. Crashes and hangs are never expected.
    """
    try:
        from kvconform.harness.expect_update import update_files
    except ModuleNotFoundError as e:
        if e.name != "tomlkit":
            raise
        raise AdapterError("expect update rewrites TOML with tomlkit: pip install 'kvconform[expect]'") from e
    update_files(report, target, impls, dry_run, click.echo)
