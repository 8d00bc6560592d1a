"""Pictures of claims, each drawn on request from the figures that its judge decides by.

matplotlib is imported here only, when a picture is drawn. The same seed gives the same file, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kvconform.claims import quantised
from kvconform.claims.split_attention import added
from kvconform.claims.split_kv import CLAIMED_BAND, LSE_MERGE, errors_by_split
from kvconform.impls import numpy_ref

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
"""Endings of a picture's file name."""

_WRONG, _RIGHT, _BOUND, _CLAIMED, _BAND = "#b3261e", "#1b5e8a", "#444444", "#7a5c00", "#f7e9bf"
_OTHERS = ("#b3261e", "#d07a2d", "#7a5c00", "#444444")


def draw(picture: str, path: Path, seed: int) -> None:
    """Write a Claim's picture; `path` ends in one of FORMATS."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "kvconform", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        PICTURES[picture](figure, seed)
        undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=undated)


def naive_sum(figure: Figure, seed: int) -> None:
    """The error of added outputs by number of splits, beside an LSE merge, the bound and what was claimed."""
    from matplotlib.ticker import NullLocator

    naive, merge = (errors_by_split(seed, join, ("plain",), copies=8) for join in (added, LSE_MERGE))
    splits, bound = naive.num_splits, naive.bound.max((1, 2))
    axes = figure.subplots()
    axes.axhspan(*CLAIMED_BAND, color=_BAND, lw=0, zorder=0)
    axes.plot(splits, naive.worst, color=_WRONG, marker="o", ms=3, lw=1)
    axes.plot(splits, bound, color=_BOUND, ls="--", lw=1)
    axes.plot(splits, merge.worst, color=_RIGHT, marker="o", ms=3, lw=1)
    for text, color, height in (
        ("outputs added, as published", _WRONG, 2.5 * naive.worst[7]),
        ("derived bound of a float32 kernel", _BOUND, 1.5 * bound[7]),
        ("claimed: 1e-8 to 1e-6", _CLAIMED, 0.3 * CLAIMED_BAND[1]),
        ("merged by log-sum-exp", _RIGHT, 2.5 * merge.worst[7]),
    ):
        axes.text(8, height, text, color=color, ha="center", va="bottom")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = [1, 2, 4, 8, 16, 32, 64]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("num_splits")
    axes.set_ylabel("largest error of out, against exact attention")
    axes.set_title("1024 keys, head_dim 32, 8 rows of numbers in [-1, 1)", fontsize=9, loc="left")
    axes.grid(color="#dddddd", lw=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def pq_error(figure: Figure, seed: int) -> None:
    """What share of queries has so little error, by product and by uniform quantisation of 2 and of 4 bits."""
    for axes, num_subspaces in zip(figure.subplots(1, 2, sharey=True), (16, 32), strict=True):
        found = quantised.errors(seed, num_subspaces, numpy_ref).out
        share = np.arange(1, len(found[quantised.PQ]) + 1) / len(found[quantised.PQ])
        for name, color in (
            (quantised.PQ, _RIGHT),
            (quantised.OPQ, _RIGHT),
            *zip(quantised.UNIFORM, _OTHERS, strict=True),
        ):
            product = name in quantised.PRODUCT
            label = name if product else f"uniform, {name}"
            style = "--" if name == quantised.OPQ else "-"
            axes.step(
                np.sort(found[name]), share, where="post", color=color, lw=1.6 if product else 1, ls=style, label=label
            )
        axes.set_xscale("log")
        axes.set_xlabel("error of attention, relative")
        axes.set_title(f"{quantised.bits_of(num_subspaces)} bits an element", fontsize=9, loc="left")
        axes.grid(color="#dddddd", lw=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("share of queries with at most this error")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)


PICTURES: dict[str, Callable[[Figure, int], None]] = {
    "pictures/naive_sum.svg": naive_sum,
    "pictures/pq_error.svg": pq_error,
}
"""By the name that a Claim gives."""
