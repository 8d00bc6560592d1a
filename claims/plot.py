"""The picture of the naive sum: its error by number of splits, beside an LSE merge, the bound and what was claimed.

matplotlib is imported here only, when a picture is drawn. The same seed gives the same file, byte for byte.
"""

from __future__ import annotations

from pathlib import Path

from kvconform.claims.split_attention import added
from kvconform.claims.split_kv import CLAIMED_BAND, LSE_MERGE, errors_by_split

FORMATS = (".svg", ".png")
"""Endings of a picture's file name."""

_WRONG, _RIGHT, _BOUND, _CLAIMED, _BAND = "#b3261e", "#1b5e8a", "#444444", "#7a5c00", "#f7e9bf"


def draw(path: Path, seed: int) -> None:
    """Write the picture; `path` ends in one of FORMATS."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    naive, merge = (errors_by_split(seed, join, ("plain",), copies=8) for join in (added, LSE_MERGE))
    splits, bound = naive.num_splits, naive.bound.max((1, 2))
    with matplotlib.rc_context({"svg.hashsalt": "kvconform", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
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
        undated = {"Date": None, "Creator": None} if path.suffix == ".svg" else None
        figure.savefig(path, dpi=150, metadata=undated)
