"""`kvconform convert`: a cache in files becomes a cache of another row, bit for bit."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from kvconform.harness.adapters import AdapterError, nearest
from kvconform.harness.cache_files import check_absent, created, files, opened
from kvconform.harness.convert import Conversion, Files, find_dtype, find_sizes, plain_copy
from kvconform.specs.convert import Refused, require_same_parts, require_same_values
from kvconform.specs.dtypes import DTYPES, PACKED
from kvconform.specs.layouts import LAYOUTS, Layout
from kvconform.specs.tiles import LIMIT

out, err = Console(soft_wrap=True), Console(stderr=True, soft_wrap=True)

MIB = 1 << 20

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--dtype", metavar="DTYPE", help="What the cache is in, where the files do not say (bfloat16 in .npy).")
@click.option("--num-pages", type=_POSITIVE, help="Pages; of a contiguous layout, sequences.")
@click.option("--page-size", type=_POSITIVE, help="Slots of a page; of a contiguous layout, its capacity.")
@click.option("--num-kv-heads", type=_POSITIVE, help="Heads, where the shapes leave them open.")
@click.option("--head-dim", type=_POSITIVE, help="Width of a head, or of a latent; likewise.")
@click.option("--head-dim-v", type=_POSITIVE, help="Width of a head of V where it is not that of K; likewise.")
@click.option("--drop-padding", is_flag=True, help="Convert although padding of A holds something, and drop that.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option(
    "--memory",
    type=click.IntRange(1, 1 << 20),
    default=LIMIT // MIB,
    show_default=True,
    metavar="MIB",
    help="Memory for the data in flight.",
)
@click.option("--compare-copy", is_flag=True, help="Also time a plain copy of IN, beside OUT.")
def convert(
    a: str,
    b: str,
    source: Path,
    target: Path,
    dtype: str | None,
    num_pages: int | None,
    page_size: int | None,
    num_kv_heads: int | None,
    head_dim: int | None,
    head_dim_v: int | None,
    drop_padding: bool,
    force: bool,
    memory: int,
    compare_copy: bool,
) -> int:
    """Convert a cache from layout A to layout B, bit for bit, in bounded memory.

    \b
    kvconform convert nhd hnd cache.safetensors other.safetensors
    kvconform convert nhd interleaved 'cache.{}.npy' fused.npy --dtype bfloat16
    kvconform convert packed nhd kv.safetensors apart.safetensors --num-kv-heads 5 --head-dim 80

    IN and OUT are .safetensors files, of one tensor a buffer of the layout, by its name, or .npy files, of one array
    each: `cache.{}.npy` stands for cache.k.npy and cache.v.npy. numpy has no bfloat16 and no 8-bit floats; in .npy they
    are unsigned integers of the same width. Sizes are read off the shapes; an option gives what these leave open.

    A and B must hold the same values: scales, for instance, are not dropped. Page i stays page i; of a contiguous
    layout, that is sequence i. Padding is zero in OUT, and must be in IN. Metadata of a .safetensors file is left out.
    OUT gets its name when it is whole. Exit codes: 0 converted; 2 refused.
    """
    given = {"page": num_pages, "slot": page_size, "head": num_kv_heads, "dim": head_dim, "dim_v": head_dim_v}
    try:
        rows = _row(a), _row(b)
        require_same_parts(*rows)
        if dtype is not None and dtype not in {**DTYPES, **PACKED}:
            raise Refused(f"no dtype {dtype!r}{nearest(dtype, [*DTYPES, *PACKED])}")
        _check_names(rows, source, target, force=force)
        with opened(source, rows[0].buffers, a) as arrays:
            found = find_dtype(rows[0], arrays, dtype)
            sizes = find_sizes(rows[0], arrays, {axis: n for axis, n in given.items() if n is not None}, found)
            require_same_values(*rows, sizes, found)
            work = Conversion(*rows, sizes, found)
            copies = [_copy(arrays, target)] if compare_copy else []
            seconds = _convert(work, arrays, target, memory * MIB, drop_padding=drop_padding, force=force)
            copies += [_copy(arrays, target)] if compare_copy else []
    except Refused as e:
        raise AdapterError(str(e)) from e
    except OSError as e:
        raise AdapterError(f"{e.filename or target}: {e.strerror or e}") from e
    out.print(_summary(work, seconds, copies), highlight=False)
    return 0


def _row(name: str) -> Layout:
    if name not in LAYOUTS:
        raise Refused(f"no layout {name!r}{nearest(name, LAYOUTS)}")
    return LAYOUTS[name]


def _check_names(rows: tuple[Layout, Layout], source: Path, target: Path, *, force: bool) -> None:
    """Raises Refused when OUT is one of the files of IN, or is there already."""
    reads, writes = (files(path, row.buffers, row.name) for path, row in zip((source, target), rows, strict=True))
    for one in writes:
        for other in reads:
            if one.resolve() == other.resolve() or (one.exists() and other.exists() and os.path.samefile(one, other)):
                raise Refused(f"{one} is read and written; give OUT another name")
    check_absent(writes, force=force)


def _convert(work: Conversion, arrays: Files, target: Path, limit: int, *, drop_padding: bool, force: bool) -> float:
    """Convert, showing a bar on a terminal; seconds."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    start = time.perf_counter()
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task(f"{work.a.name} -> {work.b.name}", total=work.nbytes[0])
        with created(target, work.arrays, work.b.name, force=force) as made:
            work.run(arrays, made, limit=limit, drop_padding=drop_padding, tell=lambda n: progress.advance(task, n))
    return time.perf_counter() - start


def _copy(arrays: Files, target: Path) -> float:
    """Seconds of a plain copy, made beside OUT."""
    return plain_copy(arrays, target.with_name(f".{target.name}.{os.getpid()}.copy"))


def _summary(work: Conversion, seconds: float, copies: list[float]) -> str:
    """One line: what was converted, how fast, and how fast a plain copy is."""
    read, written = work.nbytes
    rate = read / 1e6 / seconds
    told = f"{work.a.name} -> {work.b.name}: {read} bytes read, {written} written in {seconds:.2f} s, {rate:.0f} MB/s"
    if copies:
        copy = read / 1e6 / min(copies)
        told += f"; a plain copy {copy:.0f} MB/s, so {rate / copy:.2f} of it"
    return told
