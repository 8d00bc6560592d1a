"""The command line: run, list, replay."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

import kvconform
from kvconform.harness import report
from kvconform.harness.adapters import ROOT, AdapterError, Found, everything, find, nearest, of_backend
from kvconform.harness.booking import USAGE_EXIT
from kvconform.harness.efforts import DEFAULT_EFFORT, EFFORTS, HOW_HARD, STALL_SECONDS
from kvconform.harness.laws import all_laws
from kvconform.harness.plan import CACHE_DTYPES
from kvconform.harness.supervisor import supervise_all, usable_cores
from kvconform.specs.layouts import LAYOUTS
from kvconform.specs.operations import OPERATIONS

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)


class _Terminated(BaseException):
    """SIGTERM came while children were running, which have to end as well."""


@contextmanager
def _ending_with_children() -> Iterator[None]:
    """Within, SIGTERM raises _Terminated; what runs kernels in this very process is ended by it as ever."""

    def terminate(number: int, frame: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    here = Path.cwd()
    if here.resolve() != ROOT and str(here) not in sys.path:
        sys.path.append(str(here))  # `--impl my_package.adapter` from the folder that holds my_package
    try:
        code = commands.main(args=argv, prog_name="kvconform", standalone_mode=False)
        return int(code or 0)
    except click.ClickException as e:
        e.show()
        return USAGE_EXIT
    except AdapterError as e:
        err.print(f"kvconform: {e}", style="red", markup=False, highlight=False)
        if os.environ.get("KVCONFORM_DEBUG"):
            err.print_exception()
        return USAGE_EXIT
    except _Terminated:
        err.print("terminated")
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, click.Abort):
        err.print("interrupted")
        return 130


LATE = {
    "claims": "claims_command:claims",
    "compare": "compare_command:compare_layouts",
    "convert": "convert_command:convert",
    "diagnose": "diagnose_command:diagnose_command",
    "expect": "expect_command:expect",
    "layouts": "layout_commands:layouts",
    "numerics": "numerics_command:numerics",
    "power": "power_command:power_command",
    "show": "layout_commands:show",
}
"""Command -> where it is, beside this module; imported when it is asked for: a run needs none of them."""


class _Group(click.Group):
    """The commands that are here and those of `LATE`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *LATE})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in LATE:
            return super().get_command(ctx, name)
        module, _, command = LATE[name].partition(":")
        found: click.Command = getattr(importlib.import_module(f"kvconform.harness.{module}"), command)
        return found


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(kvconform.__version__)
def commands() -> None:
    """Conformance tests for KV-cache layouts and decode-attention kernels.

    \b
    kvconform run                          every implementation this machine can run
    kvconform run --impl my_adapter.py     your kernel, behind an adapter of two functions
    kvconform list                         what there is: implementations, operations, layouts, laws
    kvconform show NAME                    one layout: shape, index formula, padding, a picture
    kvconform convert A B IN OUT           a cache in files, from layout A to layout B, bit for bit
    kvconform diagnose --impl X            which layout a kernel really uses, read off probes
    kvconform replay CASE --impl X         one case again, from a report
    kvconform expect update report.json    known violations become data, fixed ones go
    kvconform findings report.json         what known violations there are, as a page
    kvconform claims                       what others claim of KV caches, judged
    kvconform numerics                     how much of its error bound each correct kernel uses
    kvconform power                        which faults the suite sees, by which law, and how soon

    Exit codes: 0 every cell that is tried conforms or is expected; 1 something violates, crashes or hangs; 2 bad usage
    or a bad adapter; 3 nothing ran, less ran than was promised, or a named implementation is blocked.
    """


def _shared(command: Any) -> Any:
    options = [
        click.option(
            "--expect",
            metavar="FILE",
            help="Known violations; 'none' for none.  [default: expectations.toml beside the adapter]",
        ),
        click.option(
            "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write the report as JSON."
        ),
        click.option(
            "--stall",
            type=float,
            default=STALL_SECONDS,
            show_default=True,
            help="Seconds after which a silent call is taken to hang.",
        ),
        click.option("--debug", is_flag=True, help="Show tracebacks of adapters that do not load."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@commands.command()
@click.option(
    "--impl",
    "impls",
    multiple=True,
    metavar="NAME",
    help="Built-in name, path to an adapter, or dotted module; may be repeated.  [default: everything runnable]",
)
@click.option("--backend", "backends", multiple=True, metavar="BACKEND", help="All of this backend; may be repeated.")
@click.option("--op", "ops", multiple=True, metavar="OP", help="Only this operation; may be repeated.")
@click.option("--layout", "layouts", multiple=True, metavar="LAYOUT", help="Only this layout; may be repeated.")
@click.option("--dtype", "dtypes", multiple=True, metavar="DTYPE", help="Only caches of this type; may be repeated.")
@click.option("--law", "laws", multiple=True, metavar="LAW", help="Only this law; may be repeated.")
@click.option("--profile", default=DEFAULT_EFFORT, show_default=True, metavar="|".join(EFFORTS), help=HOW_HARD)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every drawn case.")
@click.option(
    "--jobs",
    "-j",
    type=click.IntRange(min=1),
    default=usable_cores,
    show_default="usable cores",
    metavar="N",
    help="Processes at a time: one an implementation, and where more are left, several that share the cells of one "
    "whose attest() names a CPU. No verdict depends on it; of a violation another smallest case may be shown. Time "
    "limits are of the clock on the wall: more jobs than cores leave each less done in its time.",
)
@click.option(
    "--profile-time",
    is_flag=True,
    help="Print where the time goes: drawing, inputs, implementation, oracle, bound, calling.",
)
@_shared
def run(
    impls: tuple[str, ...],
    backends: tuple[str, ...],
    ops: tuple[str, ...],
    layouts: tuple[str, ...],
    dtypes: tuple[str, ...],
    laws: tuple[str, ...],
    profile: str,
    seed: int,
    jobs: int,
    profile_time: bool,
    expect: str | None,
    json_file: Path | None,
    stall: float,
    debug: bool,
) -> int:
    """Judge implementations by every law of what they offer.

    Each implementation runs in processes of its own, several at a time: a kernel that crashes or hangs costs its cell
    and no more. Prints one table, then every red cell with its smallest case and the line that replays it.
    """
    for name, values, known in (
        ("operation", ops, OPERATIONS),
        ("layout", layouts, LAYOUTS),
        ("dtype", dtypes, CACHE_DTYPES),
        ("profile", (profile,), EFFORTS),
    ):
        for value in values:
            if value not in known:
                raise AdapterError(f"no {name} {value!r}{nearest(value, known)}")
    for value in laws:
        if value not in all_laws():
            raise AdapterError(f"no law {value!r}{nearest(value, all_laws())}")
    arguments = [f"--kv-profile={profile}", f"--kv-seed={seed}", *(["--kv-profile-time"] if profile_time else [])]
    for option, values in (("--kv-op", ops), ("--kv-layout", layouts), ("--kv-dtype", dtypes), ("--kv-law", laws)):
        arguments += [f"{option}={value}" for value in values]
    named = [find(ref) for ref in impls] + [one for backend in backends for one in of_backend(backend)]
    return _judge(named or everything(), arguments, expect, json_file, stall, debug, named=bool(named), jobs=jobs)


@commands.command()
@click.argument("case", metavar="CASE")
@click.option("--impl", required=True, metavar="NAME", help="Built-in name, path to an adapter, or dotted module.")
@click.option(
    "--law",
    metavar="LAW",
    help="Only this law.  [default: the one the case was reported for, else all of its operation]",
)
@_shared
def replay(
    case: str, impl: str, law: str | None, expect: str | None, json_file: Path | None, stall: float, debug: bool
) -> int:
    """Judge one case again: CASE is a JSON file, or the JSON itself as a report prints it.

    Where a mistake explains it, the case is called with other contents, too, before that is named.
    """
    data = _read(case)
    law = law or data.get("law")
    if law is not None and law not in all_laws():
        raise AdapterError(f"no law {law!r}{nearest(law, all_laws())}")
    arguments = [f"--kv-case={json.dumps(data)}", *([f"--kv-law={law}"] if law else [])]
    return _judge([find(impl)], arguments, expect or "none", json_file, stall, debug, named=True)


def _read(case: str) -> dict[str, Any]:
    from kvconform.harness.session import read_case
    from kvconform.specs.inputs import digest

    parsed = read_case(case)
    data: dict[str, Any] = json.loads(case if case.lstrip().startswith("{") else Path(case).read_text(encoding="utf-8"))
    if data.get("digest") not in (None, digest(parsed)):
        err.print(
            f"this suite draws other arrays for this case: digest {digest(parsed)}, reported {data['digest']}",
            style="yellow",
        )
    return data


def _judge(
    found: list[Found],
    arguments: list[str],
    expect: str | None,
    json_file: Path | None,
    stall: float,
    debug: bool,
    *,
    named: bool,
    jobs: int = 1,
) -> int:
    if debug:
        os.environ["KVCONFORM_DEBUG"] = "1"
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise AdapterError(f"--json {json_file}: there is no folder {json_file.parent}")
    if expect is not None:
        arguments = [*arguments, f"--kv-expect={expect if expect == 'none' else os.path.abspath(expect)}"]
    with _ending_with_children(), report.Bars(err) as bars:
        runs = supervise_all(found, arguments, bars, jobs=jobs, stall=stall)
    out.print(report.table(runs))
    for finished in runs:
        for text in report.details(finished):
            out.print(text)
    for finished in runs:
        if finished.seconds and not finished.exit:
            out.print(report.footer(finished), style="dim", highlight=False)
    code = report.exit_code(runs, blocked_is_fine=not named)
    if json_file is not None:
        report.write_json(json_file, runs, code)
        out.print(f"report: {json_file}", style="dim", highlight=False)
    return code


@commands.command("list")
@click.option("--offers", is_flag=True, help="Show who offers what, and why not, instead; imports every adapter.")
@click.option("--markdown", is_flag=True, help="Print docs/reference.md instead; with --offers docs/offers.md.")
def list_(offers: bool, markdown: bool) -> None:
    """Show implementations (and why one is blocked), operations, layouts and laws."""
    from kvconform.harness import offers_page, reference

    if offers:
        text = offers_page.markdown(offers_page.subjects())
        click.echo(text, nl=False) if markdown else out.print(Markdown(text))
        return
    if markdown:
        click.echo(reference.markdown(all_laws()), nl=False)
        return
    impls = Table(title="implementations", title_justify="left")
    for column in ("name", "backend", "state"):
        impls.add_column(column)
    for one in everything():
        impls.add_row(
            one.name,
            one.literals["BACKEND"],
            f"[red]blocked[/]: {one.blocked}" if one.blocked else "[green]runnable[/]",
        )
    ops = Table(title="operations", title_justify="left")
    for column in ("name", "arguments", "returns", "claim"):
        ops.add_column(column)
    for row in OPERATIONS.values():
        ops.add_row(row.name, ", ".join(row.arguments), ", ".join(row.returns), row.claim)
    layouts = Table(title="layouts", title_justify="left")
    for column in ("name", "field: logical -> physical axes", "source"):
        layouts.add_column(column)
    for layout in LAYOUTS.values():
        lines = "\n".join(f"{name}: {one.line}" for name, one in layout.fields.items())
        layouts.add_row(layout.name, lines, layout.source)
    laws = Table(title="laws", title_justify="left")
    for column in ("operation", "law", "claim"):
        laws.add_column(column)
    for law in all_laws().values():
        laws.add_row(law.op, law.name, law.claim)
    for grid in (impls, ops, layouts, laws):
        out.print(grid)


@commands.command()
@click.argument("report_file", metavar="REPORT", type=click.Path(dir_okay=False, path_type=Path))
def findings(report_file: Path) -> None:
    """Print what kernels do differently, as a page: REPORT is a file that `kvconform run --json` wrote."""
    from kvconform.harness import findings_page

    click.echo(findings_page.markdown(report.read_json(report_file)), nl=False)
