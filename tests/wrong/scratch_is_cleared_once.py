"""Wrong: the scratch that sums up a sequence is cleared by the grid's first program, not by the first of a sequence."""

from kvconform.impls import pallas_tpu as right
from kvconform.tests.wrong._pallas import jax, jnp, launch, pl, pltpu

NAME = "scratch_is_cleared_once"
BACKEND = "pallas_tpu"
REQUIRES = ("jax",)
OFFERS = {"merge_states": right.OFFERS["merge_states"] | {"dtype": {"float32"}, "group": {2}, "head_dim": {8}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, right.ARITHMETIC | {"merge_levels": None}
to_device, to_host, attest = right.to_device, right.to_host, right.attest


def _kernel(outs, lses, out, lse, mixed, total, peak):
    @pl.when((pl.program_id(0) == 0) & (pl.program_id(1) == 0))
    def _():
        mixed[...], total[...], peak[...] = jnp.zeros_like(mixed), jnp.zeros_like(total), jnp.full_like(peak, -jnp.inf)

    top = jnp.maximum(peak[...], lses[...])
    fade, weight = (jnp.where(x > -jnp.inf, jnp.exp(x - top), 0.0) for x in (peak[...], lses[...]))
    mixed[...] = mixed[...] * fade + jnp.where(weight > 0, weight * outs[...], 0.0)
    total[...], peak[...] = total[...] * fade + weight, top
    out[...], lse[...] = jnp.where(total[...] > 0, mixed[...] / total[...], 0.0), top + jnp.log(total[...])


@jax.jit(static_argnames="interpret")
def _merge(outs, lses, *, interpret):
    parts = [jax.lax.bitcast_convert_type(bits, jnp.float32) for bits in (outs, lses[..., None])]
    rows = [array.shape[2:] for array in parts]
    ins = [pl.BlockSpec((None, None, *row), lambda seq, part: (part, seq, 0, 0)) for row in rows]
    results = [pl.BlockSpec((None, *row), lambda seq, part: (seq, 0, 0)) for row in rows]
    shapes = [jax.ShapeDtypeStruct(array.shape[1:], jnp.float32) for array in parts]
    scratch = [pltpu.VMEM(row, jnp.float32) for row in (*rows, rows[1])]
    blocks = {"grid": outs.shape[1::-1], "in_specs": ins, "out_specs": results, "scratch_shapes": scratch}
    out, lse = pl.pallas_call(_kernel, shapes, **blocks, interpret=interpret)(*parts)
    return out, lse[..., 0]


def merge_states(outs, lses):
    return launch(_merge, outs.bits, lses.bits)
