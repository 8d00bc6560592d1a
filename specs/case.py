"""A Case: one complete input, frozen. Every array derives from it and from nothing else.

A Case prints as one value, survives JSON, and replays alone. Fields an operation does not look at keep their defaults
and are neither printed nor written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from kvconform.specs.layouts import LAYOUTS, Layout
from kvconform.specs.operations import OPERATIONS, Operation

SCHEMA = 1
"""Number of the JSON form of a Case: its fields, and what they mean. That other arrays are drawn for it than once is
told by its digest (`kvconform replay` says so)."""


class CaseError(ValueError):
    """A Case that cannot be read; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One input of one operation.

    op, layout, dtype   the cell it belongs to
    seed, family        contents: which hash, and what kind of numbers (specs/data.py)
    dead                contents of slots that no sequence reads: zero, finite, nan, inf (of either sign)
    poison              where those contents lie, while all else that is dead holds zeros: all; tails: the rest of pages
                        that a sequence owns; free: pages that no table names; null: pages that none owns and the
                        padding of the tables names; padding: what no token's element lies in; gaps: what lies between
                        the elements of a strided cache; evicted: tokens older than every query's window
    kv_lens             live tokens of each sequence; their number is num_seqs
    num_seqs            rows of merge_states; 0 where kv_lens says it
    num_tokens          tokens of merge_kv, extract_k, extract_v
    page_size, num_kv_heads, group, head_dim, num_subspaces   sizes; group is q heads a kv head
    sub_dim, num_centroids   of product quantisation: dims of a subspace, head_dim / num_subspaces, and centroids it has
    codes               which centroids tokens are: in_order: token i is the i-th of each subspace, of its K and of its
                        V, and after the last one the first; mixed: by hash
    residual            newest tokens of a sequence that are not quantised, at most; sequence 0 has so many
    moved               tokens of the residual that become codes when it is full; it holds at least so many
    num_layers          layers of a cache that is an object
    num_pages           pages of its pool, for each kv head of each sequence and layer; those of a page manager
    history             what is done to an object, one number an operation (oracles/page_model.py, cache_model.py)
    vectors             what is encoded: anywhere; centroids: the very sums of some; between: halfway between two of
                        each subspace; beside: the same, and a little nearer to one of them
    head_dim_v          width of a head of V where the layout lets it differ; 0: that of K, head_dim
    spare_pages         pages that no sequence owns
    spare_columns       columns of the block table beyond the longest sequence
    table_padding       what the block table holds beyond a sequence's pages: valid: by turns a live page of another
                        sequence, where there is one, and any page; null: the first page that none owns, where there is
                        one; minus_one; huge: numbers far past the pool
    table_form          how reads are told the pages: a page table's row (specs/tables.py)
    evicted_pages       what the block table holds at pages of which a window keeps every query token from every slot:
                        kept: the pages; null: the first page that none owns, where there is one; minus_one
    index_dtype         dtype of slot_mapping, page tables and kv_lens
    strides             how arrays lie in memory: contiguous; outer: views into storage that is larger along every axis;
                        all: the same, the last with stride 2 (specs/storage.py)
    buffers             what results are written into: own: what the operation allocates; nan: what it is given, filled
                        with NaN and workspaces with garbage; used: what the call before was given, as it left it
    skip                every skip-th token of slot_mapping is -1; 0: none
    skip_from           the first row that is skipped, or that is a stray
    num_splits          parts that paged_decode cuts each sequence into
    sm_scale            factor of q . k; None: head_dim ** -0.5
    q_dtype             dtype of q and out; empty: the cache's
    kv_scales           what k_scale and v_scale, which the numbers of a narrow cache are multiplied with, are one of
                        each: tensor, head, page (and head), token (and head); none
    window, soft_cap    keys that a query sees at most, its own among them, and what scores are bent to; 0: neither
    sinks, alibi_slopes none, or drawn: float32 numbers of q heads, by hash; dominant: sinks that outweigh most keys
    q_lens              query tokens of each sequence, its newest, of which some have none, but not all; (): one each
    tree_mask           none: each sees all older ones; or drawn: they are nodes of a tree, by hash, and see ancestors
    stray_slots         what every third row of slot_mapping is: none; below: under -1; beyond: past the cache's end;
                        twice: the slot of the first row
    page_ids            which pages hold tokens: any, or high: those with the highest numbers
    shared_pages        leading pages that sequences have in common
    shared_by           which: all; or alternate: every other one with the first, and those between with the second
    page_moves          which pages copy_pages copies: apart: no page is source and target; swap: pairs, both ways
    pool                how the cache is allocated: dense, or sparse: 2**31 elements and more, of which few pages exist
    num_parts           partial results that merge_states merges
    empty_parts         which of them have no key: none, some, all
    capacity            0: everything is as large as needed. Else pages a sequence: page count, table width and the rows
                        of append are fixed by it while kv_lens vary below, so that compiled kernels are shared
    """

    op: str
    layout: str
    dtype: str
    seed: int = 0
    family: str = "plain"
    dead: str = "zero"
    poison: str = "all"
    kv_lens: tuple[int, ...] = ()
    num_seqs: int = 0
    num_tokens: int = 0
    page_size: int = 1
    num_kv_heads: int = 1
    group: int = 1
    head_dim: int = 1
    head_dim_v: int = 0
    num_subspaces: int = 1
    sub_dim: int = 1
    num_centroids: int = 2
    codes: str = "in_order"
    residual: int = 0
    moved: int = 1
    num_layers: int = 1
    num_pages: int = 1
    history: tuple[int, ...] = ()
    vectors: str = "anywhere"
    spare_pages: int = 0
    spare_columns: int = 0
    table_padding: str = "valid"
    table_form: str = "block_table"
    evicted_pages: str = "kept"
    index_dtype: str = "int32"
    skip: int = 0
    skip_from: int = 0
    num_splits: int = 1
    sm_scale: float | None = None
    q_dtype: str = ""
    kv_scales: str = "none"
    window: int = 0
    soft_cap: float = 0.0
    sinks: str = "none"
    alibi_slopes: str = "none"
    q_lens: tuple[int, ...] = ()
    tree_mask: str = "none"
    num_parts: int = 1
    empty_parts: str = "none"
    stray_slots: str = "none"
    page_ids: str = "any"
    shared_pages: int = 0
    shared_by: str = "all"
    page_moves: str = "apart"
    pool: str = "dense"
    strides: str = "contiguous"
    buffers: str = "own"
    capacity: int = 0

    @property
    def operation(self) -> Operation:
        """The row of the operation."""
        return OPERATIONS[self.op]

    @property
    def row(self) -> Layout:
        """The row of the layout."""
        return LAYOUTS[self.layout]

    @property
    def result_dtype(self) -> str:
        """The dtype of q, and of what is computed."""
        return self.q_dtype or self.dtype

    @property
    def counts_new_tokens(self) -> bool:
        """Whether kv_lens count the tokens that an operation appends; of one that appends none, always."""
        new = self.q_lens or (1,) * len(self.kv_lens)
        return not self.operation.appends or all(q_len <= n for q_len, n in zip(new, self.kv_lens, strict=True))

    @property
    def num_q_rows(self) -> int:
        """Query tokens of all sequences."""
        return sum(self.q_lens) if self.q_lens else len(self.kv_lens)

    @property
    def num_q_heads(self) -> int:
        """Query heads."""
        return self.num_kv_heads * self.group

    @property
    def gaps(self) -> str:
        """Contents of what lies between the elements of a strided cache; nothing: what lies beside any array."""
        return self.dead if self.dead != "zero" and self.poison in ("all", "gaps") else ""

    def to_json(self) -> dict[str, Any]:
        """The fields that the operation looks at, with the schema number."""
        seen = ("op", "layout", "dtype", "seed", "family", *self.operation.case_axes)
        values = {name: getattr(self, name) for name in seen}
        return {"schema": SCHEMA, **{k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Read what `to_json` wrote; `law`, `digest` and `impl` beside it are ignored.

        Raises CaseError naming the schema, the field or the value that cannot be read.
        """
        data = {name: value for name, value in data.items() if name not in ("law", "digest", "impl")}
        schema = data.pop("schema", None)
        if schema != SCHEMA:
            raise CaseError(f"a case of schema {schema!r}; this kvconform reads schema {SCHEMA}")
        for name, table in (("op", OPERATIONS), ("layout", LAYOUTS)):
            if data.get(name) not in table:
                raise CaseError(f"a case of {name} {data.get(name)!r}; known: {', '.join(table)}")
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise CaseError(f"a case with unknown field {unknown[0]!r}")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        case = cls(**values)
        longest = max(case.kv_lens, default=0)
        if case.q_lens and len(case.q_lens) != len(case.kv_lens):
            raise CaseError(f"a case of {len(case.kv_lens)} kv_lens and {len(case.q_lens)} q_lens")
        if case.q_lens and (min(case.q_lens) < 0 or not any(case.q_lens)):
            raise CaseError(
                f"a case of q_lens {case.q_lens}, in which no sequence has a query token, or one less than 0"
            )
        if not case.counts_new_tokens:
            told = case.q_lens or (1,) * len(case.kv_lens)
            raise CaseError(f"a case of kv_lens {case.kv_lens}, in which q_lens {told} of new tokens are to be counted")
        if case.row.contiguous and longest > case.page_size:
            raise CaseError(f"a case of {longest} tokens on {case.layout}, where a sequence has {case.page_size} slots")
        return case

    def __str__(self) -> str:
        """`paged_decode(layout='nhd', dtype='float32', ...)`, without fields at their defaults."""
        shown = {k: getattr(self, k) for k in self.to_json() if k not in ("schema", "op")}
        return f"{self.op}({', '.join(f'{k}={v!r}' for k, v in without_defaults(shown).items())})"


DEFAULTS: dict[str, Any] = {f.name: f.default for f in fields(Case) if f.default is not MISSING}
"""Field -> the value that leaving it out means."""


def without_defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Case, as a dict or as JSON, that say something."""
    silent = {name: list(value) if isinstance(value, tuple) else value for name, value in DEFAULTS.items()}
    return {
        name: value
        for name, value in values.items()
        if name not in DEFAULTS or value not in (DEFAULTS[name], silent[name])
    }
