"""Forms of a log-sum-exp, and what turns one into another: base, order of axes, and what stands for no key.

The suite's own form is natural, [rows, num_q_heads], -inf where there is no key. An implementation has the form that
its conventions name. Axes and empty rows are turned at the boundary, bit for bit; the base is part of a number, whose
rounding belongs to the kernel, and is turned only where numbers are computed with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kvconform.specs.data import Array
from kvconform.specs.dtypes import DTYPES

NATS = {"e": 1.0, "2": float(np.log(2.0))}
"""Base -> what one unit of lse is worth in nats."""

OWN: dict[str, Any] = {"lse_base": "e", "lse_axes": "rows, heads", "lse_of_empty": "-inf", "lse_dtype": "float32"}
"""The suite's own form; the keys are conventions."""


def signature(shape: tuple[int, ...], form: Mapping[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an lse [..., rows, num_q_heads] in a form."""
    *rest, rows, heads = shape
    axes = (rows, heads) if form["lse_axes"] == OWN["lse_axes"] else (heads, rows)
    return (*rest, *axes), DTYPES[form["lse_dtype"]]


def convert(lse: Array, source: Mapping[str, Any], target: Mapping[str, Any], *, numbers: bool = True) -> Array:
    """An lse of one form in another; `numbers`: whether its base and dtype are turned too.

    lse   [..., rows, num_q_heads], or the other way round, in the source's dtype
    """
    if source["lse_axes"] != target["lse_axes"]:
        lse = np.ascontiguousarray(np.swapaxes(lse, -1, -2))
    if source["lse_of_empty"] != target["lse_of_empty"]:
        lse = np.where(lse == float(source["lse_of_empty"]), lse.dtype.type(target["lse_of_empty"]), lse)
    if not numbers:
        return lse
    factor = NATS[source["lse_base"]] / NATS[target["lse_base"]]
    with np.errstate(over="ignore"):  # what is too large for the target is infinite there
        return (lse.astype(np.float64) * factor).astype(DTYPES[target["lse_dtype"]])


def in_own_form(results: dict[str, Array], form: Mapping[str, Any]) -> dict[str, Array]:
    """Results whose lse, where there is one, has the axes and empty rows of the suite; its base and dtype stay."""
    if "lse" not in results:
        return results
    return results | {"lse": convert(results["lse"], form, OWN, numbers=False)}
