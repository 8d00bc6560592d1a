"""System 3: attention over product-quantised K and V against uniform quantisation at the same bits an element."""

from __future__ import annotations

import numpy as np

from kvconform.claims import training
from kvconform.claims.claim import NOT_MEASURED, Claim, Figure, Judged, settled, share
from kvconform.claims.quantised import BITS_OF_SCALES, PQ, PRODUCT, UNIFORM, Coder, bits_of, errors
from kvconform.impls import numpy_ref
from kvconform.specs.data import Array

QUANTILES = (0.05, 0.5, 0.95)


def beats_uniform_at_2_bits(seed: int, coder: Coder = numpy_ref) -> Judged:
    """M = 16 of d = 64."""
    return _beats_uniform(seed, 16, coder)


def beats_uniform_at_4_bits(seed: int, coder: Coder = numpy_ref) -> Judged:
    """M = 32 of d = 64."""
    return _beats_uniform(seed, 32, coder)


def _beats_uniform(seed: int, num_subspaces: int, coder: Coder) -> Judged:
    if not training.can_train():
        return Judged(NOT_MEASURED, {"faiss": Figure("not installed")}, f"It is not measured here: {training.NEEDED}.")
    found = errors(seed, num_subspaces, coder)
    bits, best = bits_of(num_subspaces), min(UNIFORM, key=found.median)
    better = found.median(PQ) < found.median(best)
    figures = {
        "median error, product against the best uniform": Figure(
            f"{found.median(PQ):.3g} against {found.median(best):.3g}", f"of attention's own norm; uniform, {best}"
        ),
        **{
            f"queries nearer by product than by uniform, {name}": share(
                int((found.out[PQ] < found.out[name]).sum()), len(found.out[PQ]), "queries"
            )
            for name in UNIFORM
        },
        **{f"error, {name}": _quantiles(found.out[name], "") for name in PRODUCT},
        **{
            f"error, uniform, {name}": _quantiles(
                found.out[name], f"; {bits + BITS_OF_SCALES[name]:.3g} bits with scales"
            )
            for name in UNIFORM
        },
        "error of K, product against the best uniform": Figure(
            f"{found.k[PQ]:.3g} against {found.k[best]:.3g}", "root mean square, relative"
        ),
        "the same, keys weighted by their attention": Figure(
            f"{found.k_seen[PQ]:.3g} against {found.k_seen[best]:.3g}", "root mean square, relative"
        ),
    }
    return Judged(
        settled(better),
        figures,
        f"{bits} bits an element, scales and codebooks not counted; K and V of Student's t numbers with a few channels "
        "10 to 50 times the others, queries of four sharpnesses, codebooks trained on other tokens of the same layer. "
        + (
            "The median query is nearer to full precision by product quantisation than by any uniform one."
            if better
            else "The median query is nearer by a uniform one. Product quantisation leaves less error in K than that, "
            "but more of it in the keys that get the attention."
            if found.k[PQ] < found.k[best] and found.k_seen[PQ] > found.k_seen[best]
            else "The median query is nearer by a uniform one."
        ),
    )


def _quantiles(error: Array, more: str) -> Figure:
    shown = ", ".join(f"{one:.3g}" for one in np.quantile(error, QUANTILES))
    return Figure(shown, f"5th, 50th, 95th percentile of queries{more}")


CLAIMS = (
    Claim(
        "product_quantisation_beats_uniform_at_2_bits",
        3,
        "product quantisation is immune to outliers: nearer to full precision than uniform quantisation, at 2 bits",
        beats_uniform_at_2_bits,
    ),
    Claim(
        "product_quantisation_beats_uniform_at_4_bits",
        3,
        "product quantisation is immune to outliers: nearer to full precision than uniform quantisation, at 4 bits",
        beats_uniform_at_4_bits,
        picture="pictures/pq_error.svg",
    ),
)
