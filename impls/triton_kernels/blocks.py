"""What the kernels that move bytes share. A program moves a block of tokens times a block of a token's elements.

Elements are integers (`pages.words`), a token's heads and dims in one. Offsets have 64 bits.
"""

import triton
import triton.language as tl

from kvconform.impls.triton_kernels import COMPILED

SIZES = {"TOKENS": 16, "ELEMENTS": 128} if COMPILED else {"TOKENS": 128, "ELEMENTS": 256}
"""Of one program; the interpreter pays by the program, whatever its size."""


@triton.jit
def block(axis: tl.constexpr, size, SIZE: tl.constexpr):
    """Indices of this program's block along an axis of the grid, and which of them are below `size`."""
    index = tl.program_id(axis).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    return index, index < size


@triton.jit
def along(index, slow_step, fast_step, CUT: tl.constexpr):
    """Offsets along a pair of axes whose fast one has length CUT; 0: the fast one is all there is."""
    return index * fast_step if CUT == 0 else index // CUT * slow_step + index % CUT * fast_step


@triton.jit
def in_token(elements, head_dim, head_step, dim_step):
    """Offsets of a token's elements in a tensor [token, head, dim]."""
    return elements // head_dim * head_step + elements % head_dim * dim_step


def count(num_tokens: int, num_elements: int) -> tuple[int, int]:
    """How many blocks of tokens and of elements there are."""
    return triton.cdiv(num_tokens, SIZES["TOKENS"]), triton.cdiv(num_elements, SIZES["ELEMENTS"])
