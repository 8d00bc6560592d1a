"""What the suite must be able to tell: wrong adapters, the laws that must kill each, the mistake it must be taken for.

An adapter without a name makes a mistake that `oracles/mistakes.py` does not list, and must be taken for none. Ids in
the adapters' first lines belong to the list of public KV-cache bugs that this table was started from: O22 is an
operator that makes a kernel wrong, U11 and R08 are bug reports.
"""

BOUND = "decode_is_within_the_bound"
DEAD = "decode_ignores_dead_slots"
PAGES = "decode_does_not_see_page_numbers"
REPEATS = "decode_repeats_bit_for_bit"
PARTS = "attention_over_parts_merges_to_the_whole"
APPEND = "append_writes_exactly_its_slots"
GATHER = "gather_reads_the_live_tokens_in_order"
ROUND_TRIP = "what_was_appended_is_gathered"
FUSE = "merge_alternates_k_and_v"
SHARD = "merging_commutes_with_sharding_heads"
EXTRACT_K = "extract_k_reads_the_even_rows"
EXTRACT_V = "extract_v_reads_the_odd_rows"
FUSED_ROUND_TRIP = "what_was_merged_is_extracted"
MERGE = "merge_is_within_the_bound"
TREE = "merging_in_any_order_and_tree_gives_the_same"
ALONE = "the_only_live_part_is_the_result"
MERGE_REPEATS = "merging_repeats_bit_for_bit"

MAIN = (BOUND, APPEND, GATHER, FUSE, EXTRACT_K, EXTRACT_V, MERGE)
"""The law of each operation that knows its mistakes by name."""

EVERY_DECODE = (BOUND, DEAD, PAGES, REPEATS)

FAULTS: dict[str, tuple[tuple[str, ...], str | None]] = {
    # lengths
    "last_page_is_full": ((BOUND, DEAD), "last_page_is_full"),
    "last_token_is_dropped": ((BOUND,), "last_token_is_dropped"),
    "longest_length_for_all": ((BOUND, DEAD, PAGES), "longest_length_for_all"),
    "empty_rows_are_not_written": ((BOUND,), None),
    "lse_of_nothing_is_plus_infinity": ((BOUND,), None),
    # page tables
    "pages_are_in_order": ((BOUND, DEAD, PAGES, GATHER), "pages_are_in_order"),
    "table_of_the_next_sequence": ((BOUND, DEAD, PAGES, GATHER), "table_of_the_next_sequence"),
    "table_is_as_wide_as_its_longest_row": ((BOUND,), None),
    "pages_in_order_of_their_numbers": ((PAGES,), None),
    # heads and layouts
    "q_heads_are_dealt_out": ((BOUND,), "q_heads_are_dealt_out"),
    "group_is_a_power_of_two": ((BOUND,), None),
    "first_kv_head_for_all": ((BOUND,), "first_kv_head_for_all"),
    "heads_are_halves": ((BOUND, APPEND, GATHER), "heads_are_halves"),
    "fused_heads_are_halves": ((FUSE, SHARD, EXTRACT_K, EXTRACT_V), "heads_are_halves"),
    "fused_v_comes_first": ((FUSE, FUSED_ROUND_TRIP), "k_and_v_are_swapped"),
    "extract_v_reads_the_even_rows": ((EXTRACT_V, FUSED_ROUND_TRIP), "k_and_v_are_swapped"),
    "hnd_is_read_as_nhd": ((BOUND, APPEND, GATHER), "taken_for_nhd"),
    "code_pages_are_not_transposed": ((APPEND, GATHER), "taken_for_code_rows"),
    "x_is_eight_elements": ((APPEND, GATHER), None),
    "k_and_v_are_swapped": ((BOUND, APPEND, GATHER), "k_and_v_are_swapped"),
    "k_is_used_as_v": ((BOUND, GATHER), "k_is_used_as_v"),
    # scale and softmax
    "sm_scale_is_missing": ((BOUND,), "sm_scale_is_missing"),
    "sm_scale_is_applied_twice": ((BOUND,), "sm_scale_is_applied_twice"),
    "sm_scale_of_the_first_call": ((BOUND,), None),
    "lse_is_base_2": ((BOUND,), "lse_is_base_2"),
    "lse_leaves_out_the_maximum": ((BOUND,), None),
    "lse_of_one_head_a_group": ((BOUND,), None),
    "lse_is_stored_in_float16": ((BOUND,), None),
    "accumulator_is_not_rescaled": ((BOUND,), None),
    "softmax_without_maximum": ((BOUND,), None),
    "accumulates_in_float16": ((BOUND,), None),
    "dims_in_chunks_of_16": ((BOUND,), None),
    # dead slots
    "dead_v_is_multiplied_by_zero": ((BOUND, DEAD), None),
    "dead_k_is_masked_by_addition": ((DEAD,), None),
    # splits and merging
    "partials_are_added": ((BOUND,), "partials_are_added"),
    "partials_are_averaged": ((BOUND,), "partials_are_averaged"),
    "last_split_is_dropped": ((BOUND,), "last_split_is_dropped"),
    "partials_are_bfloat16": ((BOUND,), None),
    "merged_parts_are_added": ((MERGE, TREE, PARTS), "partials_are_added"),
    "merged_lse_is_taken_for_base_2": ((MERGE, TREE, PARTS), "lse_is_taken_for_base_2"),
    "merge_drops_the_last_part": ((MERGE, TREE, ALONE, PARTS), "last_part_is_dropped"),
    "merge_of_nothing_is_nan": ((BOUND, MERGE, TREE, ALONE, PARTS), None),
    "merge_without_maximum": ((TREE, PARTS), None),
    "empty_parts_are_multiplied_by_zero": ((MERGE, TREE), None),
    "later_part_replaces_the_earlier": ((MERGE, TREE), None),
    "order_varies_between_calls": ((REPEATS, MERGE_REPEATS), None),
    "order_varies_in_a_reused_buffer": ((REPEATS,), None),
    # append
    "skipped_tokens_go_to_the_last_slot": ((APPEND,), "skipped_tokens_go_to_the_last_slot"),
    "skipped_tokens_go_to_the_first_slot": ((APPEND,), "skipped_tokens_go_to_the_first_slot"),
    "append_clears_the_page": ((APPEND,), None),
    "append_rounds_through_float32": ((APPEND, ROUND_TRIP), None),
    "merge_rounds_through_float32": ((FUSE,), None),
    "wide_slots_are_read_as_int32": ((APPEND,), None),
    # form and history
    "scales_q_in_place": (EVERY_DECODE, None),
    "returns_float64": (EVERY_DECODE, None),
    "returns_flat_heads": (EVERY_DECODE, None),
    "one_call_in_seven": ((REPEATS,), None),
    "breaks_after_fifty_calls": ((BOUND,), None),
}

SMALL = (
    "last_page_is_full",
    "last_token_is_dropped",
    "q_heads_are_dealt_out",
    "k_is_used_as_v",
    "heads_are_halves",
    "dead_v_is_multiplied_by_zero",
    "last_split_is_dropped",
    "skipped_tokens_go_to_the_last_slot",
)
"""Faults whose every counterexample must come down to two sequences and two pages."""

NULLS: dict[str, str | None] = {
    "null_zeros": None,
    "null_mean": "partials_are_averaged",
    "null_previous": None,
}
"""Implementations that compute nothing, and what each may be taken for."""
