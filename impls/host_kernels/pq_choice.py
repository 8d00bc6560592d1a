"""Which product-quantised cache a configuration gets, and what it falls back to, aloud.

MILLION takes its paged cache where codes have 8 bits, else its CUDA kernel where codes have 8 bits, else torch. The
rows below say the same as data, and for codes of 4 bits, too, which all three take here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class FallsBack(UserWarning):
    """A configuration does not get the cache that it asks for."""


@dataclass(frozen=True)
class Path:
    """One way of keeping a cache.

    name       what a configuration calls it
    adapter    whose kernels it runs;  layout: of its pools
    bits       of codes that it takes
    """

    name: str
    adapter: str
    layout: str
    bits: tuple[int, ...] = (4, 8)


PATHS = (
    Path("paged", "cuda", "pq_columns"),
    Path("kernel", "cuda", "pq_rows"),
    Path("plain", "torch_ref", "pq_rows"),
)
"""The best first; whoever asks for one gets it, or the next one that there is."""


def choose(wanted: str, bits: int, why_not: Callable[[str], str], paths: tuple[Path, ...] = PATHS) -> Path:
    """The path that a configuration asks for, or the next one that can be had, with a warning that says why.

    why_not   of an adapter's name: why it cannot run here, or nothing
    Raises ValueError where no path of that name is known, or none that is left can be had; it names every reason.
    """
    names = [path.name for path in paths]
    if wanted not in names:
        raise ValueError(f"no cache {wanted!r}; known: {', '.join(names)}")
    reasons = []
    for path in paths[names.index(wanted) :]:
        reason = why_not(path.adapter) if bits in path.bits else f"codes of {bits} bits; it takes {_listed(path.bits)}"
        if not reason:
            if reasons:
                warnings.warn(f"{path.name} instead of {wanted}: {'; '.join(reasons)}", FallsBack, stacklevel=2)
            return path
        reasons.append(f"{path.name} ({path.adapter}) {reason}")
    raise ValueError(f"no cache for {wanted!r}: {'; '.join(reasons)}")


def cache_of(
    wanted: str,
    bits: int,
    why_not: Callable[[str], str],
    load: Callable[[str], Any],
    k_codebooks: Any,
    v_codebooks: Any,
    **sizes: Any,
) -> tuple[Path, Any]:
    """The path that `choose` gives, and an empty cache of its adapter in its layout.

    load                      an adapter by its name
    k_codebooks, v_codebooks  numpy's, since whose arrays the adapter takes is known only by then
    sizes                     all else that pq_cache is told
    """
    path = choose(wanted, bits, why_not)
    adapter = load(path.adapter)
    books = [adapter.to_device(book) for book in (k_codebooks, v_codebooks)]
    return path, adapter.pq_cache(*books, layout=path.layout, dtype=f"uint{bits}", **sizes)


def _listed(bits: tuple[int, ...]) -> str:
    return " and ".join(map(str, bits))
