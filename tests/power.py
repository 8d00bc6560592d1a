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
NEIGHBOURS = "decode_does_not_see_its_neighbours"
SCALES_V = "decode_scales_exactly_with_v"
FACTOR = "decode_takes_a_factor_of_two_from_k_to_q"
BATCH = "decode_does_not_depend_on_its_batch"
HEADS = "decode_turns_with_its_heads"
SPLITS = "decode_does_not_depend_on_its_splits"
FORGETS = "decode_forgets_the_calls_before"
CHANGED = "decode_follows_one_changed_argument"
STRIDED = "decode_agrees_across_strides"
APPENDED = "decode_reads_what_was_appended"
LONG = "decode_counts_every_page_of_a_long_context"
LONGEST = "decode_counts_keys_beyond_16_bits"
REPEATED_KV = "decode_agrees_with_repeated_kv"
PAGE_SIZES = "decode_agrees_across_page_sizes"
LAYOUTS = "decode_agrees_across_layouts"
BUFFERS = "decode_does_not_see_what_its_buffers_held"
DECODE_HIGH = "decode_reaches_high_pages"
DECODE_LARGE = "decode_counts_elements_beyond_31_bits"
APPEND = "append_writes_exactly_its_slots"
GATHER = "gather_reads_the_live_tokens_in_order"
ROUND_TRIP = "what_was_appended_is_gathered"
STRAY = "append_writes_nothing_out_of_range"
REFUSED = "append_refuses_slot_minus_one"
CONTESTED = "append_leaves_one_of_several_tokens_whole"
APPEND_HIGH = "append_reaches_high_pages"
GATHER_HIGH = "gather_reaches_high_pages"
APPEND_LARGE = "append_counts_elements_beyond_31_bits"
GATHER_LARGE = "gather_counts_elements_beyond_31_bits"
COPY_LARGE = "copy_pages_counts_elements_beyond_31_bits"
COPY = "copy_pages_copies_whole_pages"
FORK = "a_fork_leaves_its_parent_alone"
SHARDS = "shards_of_the_heads_join_to_the_whole"
SHARD_READ = "a_shard_of_the_heads_is_read_alone"
FUSE = "merge_alternates_k_and_v"
SHARD = "merging_commutes_with_sharding_heads"
EXTRACT_K = "extract_k_reads_the_even_rows"
EXTRACT_V = "extract_v_reads_the_odd_rows"
FUSED_ROUND_TRIP = "what_was_merged_is_extracted"
MERGE = "merge_is_within_the_bound"
TREE = "merging_in_any_order_and_tree_gives_the_same"
ONLY_LIVE = "the_only_live_part_is_the_result"
MERGE_REPEATS = "merging_repeats_bit_for_bit"
CASCADE = "a_shared_prefix_and_suffixes_merge_to_the_whole"
RANKS = "pages_dealt_out_to_ranks_merge_to_the_whole"
UPDATE = "update_writes_exactly_the_newest_tokens"
UPDATE_DEAD = "update_ignores_dead_slots"
UPDATE_PAGES = "update_does_not_see_page_numbers"
UPDATE_SCALES_V = "update_scales_exactly_with_v"
UPDATE_FORGETS = "update_forgets_the_calls_before"
UPDATE_CHANGED = "update_follows_one_changed_argument"
UPDATE_BATCH = "update_does_not_depend_on_its_batch"
UPDATE_HEADS = "update_turns_with_its_heads"
UPDATED = "update_attends_to_what_it_has_written"
UPDATE_TWICE = "update_agrees_with_append_and_decode"
UPDATE_REPEATS = "update_repeats_bit_for_bit"
UPDATE_APART = "update_does_not_see_its_neighbours"
UPDATE_BUFFERS = "update_does_not_see_what_its_buffers_held"
UPDATE_LONG = "update_counts_every_page_of_a_long_context"
UPDATE_LONGEST = "update_counts_keys_beyond_16_bits"

PQ_ENCODE = "pq_encode_chooses_the_nearest_centroid"
PQ_DECODE = "pq_decode_gives_the_centroids_bit_for_bit"
PQ_CODES = "pq_append_writes_the_nearest_codes"
PQ_SLOTS = "pq_append_touches_only_its_slots"
PQ_BOUND = "pq_attention_is_within_the_bound"
PQ_DEAD = "pq_attention_ignores_what_is_dead"
PQ_PAGES = "pq_attention_does_not_see_page_numbers"
PQ_REPEATS = "pq_attention_repeats_bit_for_bit"
PQ_SIGN = "pq_attention_turns_with_the_sign_of_v"
PQ_TOKEN = "pq_token_may_be_coded_or_not"
PQ_NEIGHBOURS = "pq_attention_does_not_see_its_neighbours"
PQ_LAYOUTS = "pq_attention_agrees_across_layouts"
OWNERS = "a_page_has_the_owners_that_it_was_given"
CACHE = "a_cache_is_a_list_of_tokens"

LARGE = (APPEND_LARGE, GATHER_LARGE, COPY_LARGE)
"""The laws of caches whose elements 31 bits do not count."""

MAIN = (
    *(BOUND, APPEND, GATHER, COPY, FUSE, EXTRACT_K, EXTRACT_V, MERGE, UPDATE, UPDATED),
    *(PQ_ENCODE, PQ_DECODE, PQ_CODES, PQ_BOUND, OWNERS, CACHE),
)
"""The law of each operation that knows its mistakes by name."""

EVERY_DECODE = (BOUND, DEAD, PAGES, REPEATS)

FAULTS: dict[str, tuple[tuple[str, ...], str | None]] = {
    # lengths
    "last_page_is_full": ((BOUND, DEAD), "last_page_is_full"),
    "last_token_is_dropped": ((BOUND,), "last_token_is_dropped"),
    "longest_length_for_all": ((BOUND, DEAD, PAGES), "longest_length_for_all"),
    "empty_rows_are_not_written": ((BOUND,), None),
    "nothing_is_shared_out_evenly": ((BOUND, DEAD), None),
    "lse_of_nothing_is_plus_infinity": ((BOUND,), None),
    "v_is_read_with_the_strides_of_k": ((GATHER,), None),
    "wide_lengths_are_read_as_int32": ((GATHER,), None),
    "decode_covers_eight_sequences": ((BOUND, PARTS), None),
    # page tables
    "pages_are_in_order": ((BOUND, DEAD, PAGES, GATHER), "pages_are_in_order"),
    "table_of_the_next_sequence": ((BOUND, DEAD, PAGES, GATHER), "table_of_the_next_sequence"),
    "table_is_as_wide_as_its_longest_row": ((BOUND,), None),
    "table_is_gathered_beyond_its_sequence": ((BOUND,), None),
    "pages_in_order_of_their_numbers": ((PAGES, UPDATE_PAGES), None),
    "pages_are_planned_by_the_first_of_each_row": ((PAGES,), None),
    "table_is_planned_for_the_memory_that_it_lies_in": ((PAGES,), None),
    "plan_keeps_the_table_that_it_was_made_of": ((PAGES,), None),
    "common_prefix_is_that_of_the_first_and_last_row": ((BOUND,), None),
    "pages_are_gathered_as_if_full": ((GATHER,), None),
    "tile_is_a_run_of_neighbouring_pages": ((PAGES, UPDATE_PAGES), None),
    "splits_take_pages_by_number": ((PAGES, UPDATE_PAGES), None),
    # forms of page tables, evicted pages
    "full_last_page_is_dropped": ((BOUND,), "full_last_page_is_dropped"),
    "empty_sequences_have_a_last_page": ((BOUND,), "empty_sequences_have_a_last_page"),
    "indptr_of_the_next_sequence": ((BOUND, GATHER), "indptr_of_the_next_sequence"),
    "slots_are_strided_by_the_page": ((BOUND,), "slots_are_strided_by_the_page"),
    "evicted_pages_are_multiplied_by_zero": ((BOUND, DEAD), None),
    # rows of a contiguous cache
    "rows_are_packed_to_the_longest": ((BOUND, DEAD, GATHER), None),
    "first_row_for_all": ((BOUND, DEAD, GATHER), "table_of_the_first_sequence"),
    # strides
    "pages_follow_without_a_gap": ((GATHER,), None),
    "inner_stride_of_q_is_one": ((BOUND,), None),
    "heads_of_q_are_dense": ((BOUND,), None),
    "out_has_the_strides_of_q": ((BOUND,), None),
    "rows_of_the_block_table_are_dense": ((BOUND, GATHER), None),
    "append_writes_into_a_copy": ((APPEND,), None),
    "append_clears_the_slot_to_its_stride": ((APPEND,), None),
    "extract_k_walks_without_strides": ((EXTRACT_K,), None),
    "extract_v_counts_from_the_storage": ((EXTRACT_V,), None),
    # heads and layouts
    "q_heads_are_dealt_out": ((BOUND,), "q_heads_are_dealt_out"),
    "kv_heads_are_repeated_as_a_block": ((BOUND,), "q_heads_are_dealt_out"),
    "group_is_a_power_of_two": ((BOUND,), None),
    "first_kv_head_for_all": ((BOUND,), "first_kv_head_for_all"),
    "heads_are_halves": ((BOUND, APPEND, GATHER), "heads_are_halves"),
    "fused_heads_are_halves": ((FUSE, SHARD, EXTRACT_K, EXTRACT_V), "heads_are_halves"),
    "fused_v_comes_first": ((FUSE, FUSED_ROUND_TRIP), "k_and_v_are_swapped"),
    "extract_v_reads_the_even_rows": ((EXTRACT_V, FUSED_ROUND_TRIP), "k_and_v_are_swapped"),
    "extract_k_is_the_first_chunk": ((EXTRACT_K,), "heads_are_halves"),
    "extract_v_is_the_second_chunk": ((EXTRACT_V,), "heads_are_halves"),
    "merge_keeps_its_first_row_stride": ((SHARD,), None),
    "merge_keeps_its_first_number_of_heads": ((SHARD,), None),
    "interleaving_of_the_first_call": ((SHARD,), None),
    "hnd_is_read_as_nhd": ((BOUND, APPEND, GATHER), "taken_for_nhd"),
    "code_pages_are_not_transposed": ((APPEND, GATHER), "taken_for_code_rows"),
    "x_is_eight_elements": ((APPEND, GATHER), None),
    "k_and_v_are_swapped": ((BOUND, APPEND, GATHER), "k_and_v_are_swapped"),
    "k_is_used_as_v": ((BOUND, GATHER), "k_is_used_as_v"),
    "pages_of_k_are_used_for_v": ((BOUND, APPEND, GATHER, ROUND_TRIP), "pages_of_k_are_used_for_v"),
    "beside_is_read_as_interleaved": ((APPEND, GATHER), None),
    "v_starts_at_half_of_the_row": ((APPEND, GATHER), None),
    "v_has_the_head_stride_of_k": ((GATHER,), None),
    "packed_heads_are_halves": ((APPEND, GATHER), "heads_are_halves"),
    "packed_heads_are_not_padded": ((APPEND, GATHER), None),
    # scales and codes
    "q8_0_scale_is_behind_its_codes": ((APPEND, GATHER), None),
    "indexer_scales_lie_beside_their_tokens": ((APPEND, GATHER), None),
    "mla_scales_behind_are_seven_bytes": ((APPEND, GATHER), None),
    "scale_of_k_is_used_for_v": ((APPEND, GATHER, ROUND_TRIP), None),
    "swizzled_scales_of_v_are_read_in_rows": ((APPEND, GATHER), None),
    "kivi_groups_of_k_lie_along_dim": ((APPEND, GATHER, ROUND_TRIP), None),
    "odd_elements_are_the_low_nibbles": ((APPEND, GATHER), None),
    # scale and softmax
    "sm_scale_is_missing": ((BOUND,), "sm_scale_is_missing"),
    "sm_scale_is_applied_twice": ((BOUND,), "sm_scale_is_applied_twice"),
    "scale_of_none_is_one": ((BOUND,), "scale_of_none_is_one"),
    "sm_scale_of_the_first_call": ((BOUND,), "sm_scale_is_the_default"),  # which it was in that call
    "lse_is_base_2": ((BOUND,), "lse_is_base_2"),
    "lse_leaves_out_the_maximum": ((BOUND,), None),
    "lse_of_one_head_a_group": ((BOUND,), None),
    "lse_is_stored_in_float16": ((BOUND,), None),
    "exp_of_0_is_not_1": ((BOUND, UPDATED), "exp_of_0_is_not_1"),
    "cache_is_narrowed_to_bfloat16": ((BOUND,), None),
    "accumulator_is_not_rescaled": ((BOUND,), None),
    "softmax_without_maximum": ((BOUND,), None),
    "accumulates_in_float16": ((BOUND,), None),
    "p_takes_the_dtype_of_v": ((BOUND,), None),
    "dims_in_chunks_of_16": ((BOUND,), None),
    # new tokens
    "query_tokens_stand_at_the_first_keys_unsaid": ((BOUND,), "causality_is_top_left"),
    "a_sequence_without_query_tokens_has_one": ((BOUND, UPDATED), "sequences_without_query_tokens_have_one"),
    "a_row_is_of_the_first_sequence_that_begins_there": (
        (BOUND, UPDATED),
        "rows_go_to_sequences_without_query_tokens",
    ),
    "room_in_the_batch_is_zeroed_where_it_begins": ((BOUND, UPDATED), None),
    "update_clears_the_rest_of_the_page": ((UPDATE,), None),
    "update_writes_its_pages_back_in_bfloat16": ((UPDATE,), None),
    "update_writes_behind_kv_lens": ((UPDATE,), "newest_tokens_go_behind_kv_lens"),
    "update_attends_before_it_appends": ((UPDATED,), "attends_before_it_appends"),
    "new_tokens_are_seen_by_older_queries": ((UPDATED,), "causality_is_ignored"),
    "new_tokens_are_not_seen_by_themselves": ((UPDATED,), "last_token_is_dropped"),
    "update_attends_to_narrowed_tokens": ((UPDATED, UPDATE_TWICE), None),
    "update_starts_at_what_lse_held": ((UPDATE_BUFFERS,), None),
    "update_takes_rows_of_numbers_for_done": ((UPDATE_BUFFERS,), None),
    "update_keeps_the_plan_in_its_workspace": ((UPDATE_BUFFERS,), None),
    "update_multiplies_neighbours_by_zero": ((UPDATE_APART,), None),
    "update_shares_its_maximum": ((UPDATE_APART,), None),
    "new_tokens_of_all_are_multiplied_by_zero": ((UPDATE_APART,), None),
    # dead slots
    "dead_v_is_multiplied_by_zero": ((BOUND, DEAD), None),
    "dead_k_is_masked_by_addition": ((DEAD,), None),
    "lazy_rescaling_sees_dead_scores": ((DEAD, UPDATE_DEAD), None),
    "safe_path_is_chosen_by_dead_scores": ((DEAD, UPDATE_DEAD), None),
    "page_scale_sees_dead_keys": ((DEAD, UPDATE_DEAD), None),
    "nan_alone_is_cleaned_from_dead_v": ((BOUND, DEAD), None),
    "padded_dims_are_multiplied_by_zero": ((BOUND, DEAD), None),
    "first_key_of_padding_is_multiplied_by_zero": ((DEAD,), None),
    "gaps_between_dims_are_multiplied_by_zero": ((DEAD,), None),
    "scale_is_that_of_the_whole_pool": ((DEAD, NEIGHBOURS), None),
    # neighbours in a batch
    "maximum_is_shared_by_the_batch": ((NEIGHBOURS,), None),
    "neighbours_are_multiplied_by_zero": ((NEIGHBOURS,), None),
    "scale_of_k_is_that_of_the_batch": ((NEIGHBOURS,), None),
    "splits_follow_the_size_of_the_batch": ((BATCH, UPDATE_BATCH), None),
    "splits_follow_the_longest_of_the_batch": ((BATCH, UPDATE_BATCH), None),
    "odd_row_out_has_other_tiles": ((BATCH, UPDATE_BATCH), None),
    # order of the heads, number of splits
    "every_other_head_goes_backwards": ((HEADS, UPDATE_HEADS), None),
    "odd_head_out_has_other_tiles": ((HEADS, UPDATE_HEADS), None),
    "first_tile_is_shorter_for_later_heads": ((HEADS, UPDATE_HEADS), None),
    "tiles_begin_anew_in_each_split": ((SPLITS,), None),
    "merging_rounds_what_splits_gave": ((SPLITS,), None),
    "order_of_merging_follows_the_splits": ((SPLITS,), None),
    # sizes of what is computed with
    "division_rounds_up": ((SCALES_V, UPDATE_SCALES_V), None),
    "dice_are_the_bits_of_the_result": ((SCALES_V, UPDATE_SCALES_V), None),
    "outliers_of_v_are_normalised_elsewhere": ((SCALES_V, UPDATE_SCALES_V), None),
    "large_q_is_scaled_before_the_dot": ((FACTOR,), None),
    "small_q_needs_no_maximum": ((FACTOR,), None),
    "q_is_held_in_fixed_point": ((FACTOR,), None),
    "q_is_narrowed_to_bfloat16": ((BOUND,), None),
    "v_saturates_at_eight": ((BOUND,), None),
    "float16_subnormals_are_flushed": ((BOUND,), None),
    "mask_value_starts_the_maximum": ((BOUND,), None),
    "lse_below_minus_1e5_is_of_no_key": ((MERGE,), None),
    "small_scores_are_taken_for_none": ((BOUND,), None),
    "lag_is_measured_from_the_last_tile": ((BOUND,), None),
    "rescaling_is_by_the_tile_s_maximum": ((BOUND,), None),
    # long contexts
    "pages_past_the_512th_are_not_in_the_table": ((LONG, UPDATE_LONG), None),
    "second_stage_of_a_table_is_that_of_row_0": ((LONG,), None),
    "splits_of_the_second_sequence_begin_by_its_own_number": ((LONG,), None),
    "positions_are_compared_in_float16": ((LONG, UPDATE_LONG), None),
    "tiles_are_counted_in_a_byte": ((LONG, UPDATE_LONG), None),
    "block_table_is_staged_in_1024_entries": ((LONG,), None),
    "page_300_of_a_long_context_is_lost": ((LONG,), None),
    "key_between_two_launches_is_lost": ((LONG,), None),
    "positions_are_16_bits": ((LONGEST, UPDATE_LONGEST), None),
    "lengths_are_16_bits": ((LONGEST, UPDATE_LONGEST), None),
    "logits_have_room_for_65536_keys": ((LONGEST, UPDATE_LONGEST), None),
    "compiled_loop_counts_pages_in_a_byte": ((LONG,), None),
    # sizes past what something has room for
    "sequences_past_the_256th_are_left_out": ((BOUND,), None),
    "kv_heads_are_counted_in_six_bits": ((BOUND,), None),
    # paths that are taken for some sizes alone
    "partitioned_kernel_has_no_soft_cap": ((BOUND,), "soft_cap_is_ignored"),
    "wide_groups_have_no_window": ((BOUND, UPDATED), "window_is_ignored"),
    "large_batches_count_no_sinks": ((BOUND,), "sinks_are_ignored"),
    "kernel_of_128_dims_has_no_soft_cap": ((BOUND,), "soft_cap_is_ignored"),
    "sinks_of_the_first_64_heads_are_staged": ((BOUND,), None),
    "soft_cap_is_a_whole_number": ((BOUND,), None),
    "window_ends_with_the_staged_tiles": ((BOUND,), None),
    "long_drafts_are_not_causal": ((BOUND,), None),
    "prefill_kernel_has_no_soft_cap": ((BOUND, UPDATED), "soft_cap_is_ignored"),
    "tree_masks_are_words_of_32_bits": ((BOUND,), None),
    "heads_of_64_dims_are_read_by_half_a_warp": ((BOUND,), None),
    "last_of_32_splits_is_lost": ((BOUND,), "last_split_is_dropped"),
    "parts_are_read_four_at_a_time": ((MERGE,), "last_part_is_dropped"),
    "query_tokens_end_as_in_the_longest": ((BOUND,), None),
    "group_has_room_for_128_heads": ((BOUND,), None),
    "dims_past_the_256th_are_not_in_the_dot": ((BOUND,), None),
    "splits_past_the_32nd_are_not_merged": ((BOUND,), "last_split_is_dropped"),
    "parts_past_the_64th_are_not_merged": ((MERGE,), "last_part_is_dropped"),
    "slot_is_kept_in_a_byte": ((APPEND,), None),
    "tokens_past_the_1024th_are_not_appended": ((APPEND,), None),
    "gather_ends_with_the_256th_sequence": ((GATHER,), None),
    "fused_tokens_past_the_1024th_are_left": ((FUSE,), None),
    "splits_have_room_for_256_keys": ((LONG,), None),
    "query_tokens_past_the_128th_see_all_of_a_tile": ((BOUND,), None),
    "windows_begin_with_a_whole_tile": ((BOUND,), None),
    "updates_of_sequences_past_the_256th_are_lost": ((UPDATE,), None),
    "order_of_many_splits_varies": ((REPEATS, UPDATE_REPEATS), None),
    "copies_of_pages_end_after_256_slots": ((COPY,), None),
    # splits and merging
    "partials_are_added": ((BOUND,), "partials_are_added"),
    "partials_are_averaged": ((BOUND,), "partials_are_averaged"),
    "last_split_is_dropped": ((BOUND,), "last_split_is_dropped"),
    "partials_are_bfloat16": ((BOUND,), None),
    "merged_parts_are_added": ((CASCADE, RANKS, MERGE, TREE, PARTS), "partials_are_added"),
    "merged_lse_is_taken_for_base_2": ((MERGE, TREE, PARTS), "lse_is_taken_for_base_2"),
    "merge_drops_the_last_part": ((MERGE, TREE, ONLY_LIVE, PARTS), "last_part_is_dropped"),
    "merge_of_nothing_is_nan": ((BOUND, MERGE, TREE, ONLY_LIVE, PARTS), None),
    "merge_without_maximum": ((PARTS, ONLY_LIVE), None),
    "empty_parts_are_multiplied_by_zero": ((MERGE, TREE), None),
    "later_part_replaces_the_earlier": ((MERGE, TREE), None),
    "odd_part_is_merged_with_itself": ((MERGE,), None),
    "many_parts_are_weighted_in_base_2": ((MERGE,), "lse_is_taken_for_base_2"),
    "running_result_is_rounded": ((MERGE,), None),
    "lses_take_the_dtype_of_outs": ((MERGE, TREE), None),
    "lses_travel_in_sixty_fourths": ((MERGE, TREE), None),
    "outs_are_read_as_bfloat16": ((MERGE, TREE), None),
    "many_lses_are_read_as_bfloat16": ((ONLY_LIVE, PARTS), None),
    "many_parts_are_read_as_bfloat16": ((ONLY_LIVE, PARTS), None),
    "denominator_has_an_epsilon": ((ONLY_LIVE,), None),
    "reciprocal_is_approximate": ((ONLY_LIVE,), None),
    "exponent_is_contracted": ((ONLY_LIVE,), None),
    "order_varies_between_calls": ((REPEATS, MERGE_REPEATS), None),
    "order_varies_in_a_reused_buffer": ((REPEATS,), None),
    "splits_are_merged_as_they_arrive": ((REPEATS,), None),
    "splits_follow_the_load": ((REPEATS,), None),
    "tile_is_still_being_tuned": ((REPEATS,), None),
    "dot_is_summed_from_either_end": ((REPEATS,), None),
    "products_of_halves_come_in_any_order": ((REPEATS, UPDATE_REPEATS), None),
    "repeated_call_is_a_graph_with_other_tiles": ((REPEATS, UPDATE_REPEATS), None),
    "merging_order_varies": ((MERGE_REPEATS,), None),
    "merging_chunk_is_still_being_tuned": ((MERGE_REPEATS,), None),
    "first_merge_of_a_shape_is_eager": ((MERGE_REPEATS,), None),
    # calls before
    "plan_of_shorter_sequences_is_kept": ((FORGETS, UPDATE_FORGETS), None),
    "plan_of_longer_sequences_is_kept": ((FORGETS,), None),
    "lengths_are_planned_for_the_memory_that_they_lie_in": ((FORGETS,), None),
    "sm_scale_is_planned_for_a_shape": ((CHANGED,), None),
    "soft_cap_is_planned_for_a_shape": ((CHANGED,), "soft_cap_is_ignored"),
    "captured_graph_keeps_its_sm_scale": ((CHANGED, UPDATE_CHANGED), None),
    "query_tokens_are_planned_for_their_number": ((CHANGED, UPDATE_CHANGED), None),
    "captured_graph_keeps_its_window": ((CHANGED, UPDATE_CHANGED), None),
    "captured_graph_keeps_its_soft_cap": ((CHANGED,), None),
    "captured_graph_keeps_its_q_lens": ((CHANGED, UPDATE_CHANGED), None),
    "captured_graph_keeps_its_sinks": ((CHANGED, UPDATE_CHANGED), None),
    "highest_maximum_of_a_cache_is_kept": ((FORGETS, UPDATE_FORGETS), None),
    "second_length_of_a_shape_is_compiled_anew": ((FORGETS, UPDATE_FORGETS), None),
    "newest_tokens_are_a_part_of_their_own": ((APPENDED,), None),
    "append_is_read_one_call_late": ((APPENDED,), None),
    "scale_is_that_of_the_last_append": ((APPENDED,), None),
    # memory that is given to be written into
    "empty_rows_of_what_is_given_are_skipped": ((BOUND,), None),
    "splits_are_added_to_what_is_given": ((BOUND, DEAD), None),
    "tail_of_a_head_is_left_in_what_is_given": ((BOUND, DEAD), None),
    "workspace_of_unused_splits_is_merged": ((BOUND,), None),
    "outs_of_empty_splits_are_multiplied_by_zero": ((BOUND,), None),
    "maximum_starts_at_what_lse_held": ((BUFFERS,), None),
    "rows_that_hold_numbers_are_taken_for_done": ((BUFFERS,), None),
    "plan_in_the_workspace_is_kept": ((BUFFERS,), None),
    "merged_lse_is_the_larger_of_it_and_what_is_given": ((MERGE_REPEATS,), None),
    "tokens_are_gathered_over_the_bits_of_what_is_given": ((GATHER,), None),
    # one layout of several
    "tiles_of_hnd_are_shorter": ((LAYOUTS,), None),
    "split_x_is_summed_from_the_last_key": ((LAYOUTS,), None),
    "sm_scale_meets_q_in_interleaved": ((LAYOUTS,), None),
    "last_token_is_dropped_in_hnd": ((BOUND, LAYOUTS), "last_token_is_dropped"),
    # append
    "skipped_tokens_go_to_the_last_slot": ((APPEND,), "skipped_tokens_go_to_the_last_slot"),
    "skipped_tokens_go_to_the_first_slot": ((APPEND,), "skipped_tokens_go_to_the_first_slot"),
    "append_clears_the_page": ((APPEND,), None),
    "append_rounds_through_float32": ((APPEND, ROUND_TRIP), None),
    "merge_rounds_through_float32": ((FUSE,), None),
    "padded_halves_are_added": ((FUSE,), None),
    "float8_is_merged_as_float16": ((FUSE,), None),
    "extract_k_quiets_signalling_nan": ((EXTRACT_K,), None),
    "extract_v_is_rounded_with_k_behind_it": ((EXTRACT_V,), None),
    "wide_slots_are_read_as_int32": ((APPEND,), None),
    "padding_is_zeroed_where_kept_is_declared": ((APPEND,), None),
    # slots that are no slot, or that of several tokens
    "stray_slots_go_to_the_last_slot": ((STRAY,), None),
    "stray_slots_wrap_around": ((STRAY,), None),
    "slots_below_minus_one_count_from_the_end": ((STRAY,), None),
    "slots_past_the_end_alone_are_refused": ((STRAY,), None),
    "last_slot_alone_is_checked": ((STRAY,), None),
    "slot_minus_one_is_skipped_where_raise_is_declared": ((REFUSED,), None),
    "slot_minus_one_is_written_where_raise_is_declared": ((REFUSED,), None),
    "slots_are_refused_only_if_none_is_live": ((REFUSED,), None),
    "wide_slots_are_not_checked": ((REFUSED,), None),
    "k_of_the_last_token_stays_with_v_of_the_first": ((CONTESTED,), None),
    "each_head_keeps_a_token_of_its_own": ((CONTESTED,), None),
    "halves_of_a_slot_are_of_two_tokens": ((CONTESTED,), None),
    "first_of_several_tokens_stays": ((CONTESTED,), None),
    "tokens_of_one_slot_are_added": ((CONTESTED,), None),
    # pages and elements that take more bits
    "decode_keeps_pages_in_int16": ((DECODE_HIGH,), None),
    "token_slots_are_kept_in_16_bits": ((DECODE_HIGH, GATHER_HIGH), None),
    "scales_of_pages_are_found_by_16_bits": ((DECODE_HIGH,), None),
    "decode_keeps_pages_in_uint16": ((DECODE_HIGH,), None),
    "decode_takes_a_page_s_top_bit_for_a_flag": ((DECODE_HIGH,), None),
    "decode_counts_elements_in_int32": ((DECODE_LARGE,), None),
    "token_slots_are_scaled_in_int32": ((DECODE_LARGE,), None),
    "decode_reads_zeros_past_int32": ((DECODE_LARGE,), None),
    "decode_counts_bytes_in_uint32": ((DECODE_LARGE,), None),
    "decode_pages_pass_through_float32": ((DECODE_LARGE,), None),
    "append_keeps_pages_in_int16": ((APPEND_HIGH,), None),
    "append_keeps_pages_in_uint16": ((APPEND_HIGH,), None),
    "append_visits_65535_pages": ((APPEND_HIGH,), None),
    "gather_keeps_pages_in_int16": ((GATHER_HIGH,), None),
    "gather_keeps_pages_in_uint16": ((GATHER_HIGH,), None),
    "gather_takes_a_page_s_top_bit_for_a_flag": ((GATHER_HIGH,), None),
    "append_counts_elements_in_int32": ((APPEND_LARGE,), None),
    "append_counts_bytes_in_uint32": ((APPEND_LARGE,), None),
    "append_writes_as_far_as_int32_counts": ((APPEND_LARGE,), None),
    "append_slots_pass_through_float32": ((APPEND_LARGE,), None),
    "gather_counts_elements_in_int32": ((GATHER_LARGE,), None),
    "gather_reads_zeros_past_int32": ((GATHER_LARGE,), None),
    "gather_counts_bytes_in_uint32": ((GATHER_LARGE,), None),
    "gather_pages_pass_through_float32": ((GATHER_LARGE,), None),
    "copy_counts_elements_in_int32": ((COPY_LARGE,), None),
    "copy_counts_bytes_in_uint32": ((COPY_LARGE,), None),
    "copy_passes_pages_through_float32": ((COPY_LARGE,), None),
    # whole pages
    "pages_are_copied_in_turn": ((COPY,), "pages_are_copied_in_turn"),
    "source_and_target_are_swapped": ((COPY,), "source_and_target_are_swapped"),
    "first_pair_is_copied_alone": ((COPY,), "first_pair_is_copied_alone"),
    "source_is_copied_to_one_target": ((COPY,), None),
    "pages_are_moved_instead_of_copied": ((COPY,), None),
    "pages_of_v_are_not_copied": ((COPY,), None),
    "scales_are_not_copied_with_their_pages": ((COPY,), None),
    "pages_are_copied_in_whole_vectors": ((COPY,), None),
    "heads_first_is_copied_as_if_pages_came_first": ((COPY,), None),
    "kv_first_is_copied_in_its_half_of_k": ((COPY,), None),
    "wide_page_mapping_is_read_as_int32": ((COPY,), None),
    "copy_lands_after_the_next_append": ((FORK,), None),
    "write_after_a_copy_goes_to_the_source": ((FORK,), None),
    "copied_page_is_read_where_it_came_from": ((FORK,), None),
    # shards of a cache
    "append_keeps_the_token_stride_of_its_plan": ((SHARDS,), None),
    "append_keeps_the_row_stride_of_its_plan": ((SHARDS,), None),
    "append_takes_a_shard_for_written": ((SHARDS,), None),
    # kernels in CUDA C++
    "scores_are_overwritten_by_the_next_tile": (EVERY_DECODE, None),
    "threads_without_a_dim_return_early": ((BOUND,), None),
    "fused_rows_end_with_the_block": ((FUSE, SHARD, FUSED_ROUND_TRIP), None),
    "half_a_warp_is_summed": ((BOUND,), None),
    "lanes_are_taken_for_lockstep": ((MERGE, ONLY_LIVE, MERGE_REPEATS), None),
    # kernels in Triton
    "exp2_without_log2e": ((BOUND,), None),
    "absent_keys_score_zero": ((BOUND,), None),
    "splits_are_rounded_down": ((BOUND,), None),
    "keys_are_masked_by_the_block": ((BOUND, DEAD), "last_page_is_full"),
    "programs_change_places": ((APPEND, ROUND_TRIP), None),
    # kernels in Pallas
    "pages_share_a_semaphore": ((BOUND,), None),
    "buffers_are_counted_from_the_split": ((BOUND,), None),
    "sinks_are_clipped_at_eleven": ((BOUND,), None),
    "sinks_are_counted_in_each_split": ((BOUND,), "sinks_are_counted_in_each_split"),
    "pages_are_those_of_the_newest_token": ((BOUND,), None),
    "scratch_is_cleared_once": ((MERGE, TREE, ONLY_LIVE), None),
    "rows_are_waited_for_by_the_page": ((GATHER, ROUND_TRIP), None),
    # form and history
    "scales_q_in_place": (EVERY_DECODE, None),
    "float_of_float32_is_no_copy": (EVERY_DECODE, None),
    "returns_float64": (EVERY_DECODE, None),
    "returns_flat_heads": (EVERY_DECODE, None),
    "one_call_in_seven": ((REPEATS,), None),
    "breaks_after_fifty_calls": ((BOUND,), None),
    # product quantisation
    "pq_ties_go_to_the_highest_code": ((PQ_ENCODE,), None),
    "pq_nearest_is_the_largest_product": ((PQ_ENCODE,), None),
    "pq_nearest_is_by_absolute_differences": ((PQ_ENCODE,), None),
    "pq_distances_are_float16": ((PQ_ENCODE,), None),
    "pq_high_nibble_comes_first": ((PQ_ENCODE,), None),
    "pq_centroids_are_those_of_subspace_0": ((PQ_DECODE,), None),
    "pq_subspaces_are_interleaved": ((PQ_DECODE,), None),
    "pq_centroids_pass_through_another_type": ((PQ_DECODE,), None),
    "pq_v_is_coded_with_the_codebooks_of_k": ((PQ_CODES,), None),
    "pq_appended_ties_go_to_the_highest_code": ((PQ_CODES,), None),
    "pq_tokens_are_coded_in_bfloat16": ((PQ_CODES,), None),
    "pq_all_heads_go_to_the_slots_of_head_0": ((PQ_CODES,), None),
    "pq_k_is_transposed_too": ((PQ_CODES, PQ_SLOTS), None),
    "pq_append_clears_the_page": ((PQ_SLOTS,), None),
    "pq_append_clears_what_is_behind_its_tokens": ((PQ_SLOTS,), None),
    "pq_skipped_tokens_go_to_the_last_slot": ((PQ_SLOTS,), None),
    "pq_sm_scale_is_applied_twice": ((PQ_BOUND,), "sm_scale_counts_twice"),
    "pq_lse_is_base_2": ((PQ_BOUND,), "lse_is_base_2"),
    "pq_q_heads_are_dealt_out": ((PQ_BOUND,), "kv_heads_in_turn"),
    "pq_pages_of_head_0": ((PQ_BOUND, PQ_TOKEN), "pages_of_head_0"),
    "pq_residual_is_left_out": ((PQ_BOUND, PQ_TOKEN), "residual_is_left_out"),
    "pq_v_is_not_transposed": ((PQ_BOUND, PQ_TOKEN), "taken_for_pq_rows"),
    "pq_v_is_decoded_with_the_codebooks_of_k": ((PQ_BOUND, PQ_TOKEN), "codebooks_are_swapped"),
    "pq_partials_are_averaged": ((PQ_BOUND, PQ_TOKEN), None),
    "pq_order_follows_a_dead_row": ((PQ_DEAD,), None),
    "pq_order_follows_a_dead_row_of_v": ((PQ_DEAD,), None),
    "pq_order_follows_a_dead_slot": ((PQ_DEAD,), None),
    "pq_pages_in_order_of_their_numbers": ((PQ_PAGES,), None),
    "pq_pages_of_even_numbers_come_first": ((PQ_PAGES,), None),
    "pq_highest_page_comes_first": ((PQ_PAGES,), None),
    "pq_page_ids_are_planned_for_the_memory_that_they_lie_in": ((PQ_PAGES,), None),
    "pq_repeated_call_sums_from_the_last_key": ((PQ_REPEATS,), None),
    "pq_repeated_call_scales_q": ((PQ_REPEATS,), None),
    "pq_repeated_call_sums_dims_from_the_last": ((PQ_REPEATS,), None),
    "pq_division_rounds_up": ((PQ_SIGN,), None),
    "pq_values_above_zero_are_summed_apart": ((PQ_SIGN,), None),
    "pq_dice_are_the_bits_of_the_result": ((PQ_SIGN,), None),
    "pq_order_follows_codes_of_another": ((PQ_NEIGHBOURS,), None),
    "pq_order_follows_the_query_of_another": ((PQ_NEIGHBOURS,), None),
    "pq_order_follows_the_residual_of_another": ((PQ_NEIGHBOURS,), None),
    "pq_columns_are_summed_from_the_last_key": ((PQ_LAYOUTS,), None),
    "pq_columns_scale_q": ((PQ_LAYOUTS,), None),
    "pq_columns_sum_dims_from_the_last": ((PQ_LAYOUTS,), None),
    "freed_pages_are_never_given_out_again": ((OWNERS,), "freed_pages_are_lost"),
    "shared_page_is_freed_by_its_first_owner": ((OWNERS,), "pages_are_free_and_owned"),
    "page_is_freed_twice": ((OWNERS,), "what_nobody_owns_is_shared_or_freed"),
    "empty_pool_gives_out_page_0": ((OWNERS,), "empty_pool_gives_out_a_page"),
    "pq_cache_counts_moved_tokens_again": ((CACHE,), "moved_tokens_are_counted_twice"),
    "pq_cache_shifts_its_residual_onto_itself": ((CACHE,), "residual_is_shifted_onto_itself"),
    "pq_cache_appends_again_in_its_fallback": ((CACHE,), "last_token_before_a_flush_is_appended_again"),
    "pq_cache_keeps_page_ids_of_one_head": ((CACHE,), "codes_of_seq_0_and_head_0"),
    "pq_cache_loses_its_newest_code": ((CACHE,), None),
    "pq_pages_of_sequence_0": ((PQ_BOUND, PQ_TOKEN), "pages_of_seq_0"),
    "pq_codes_are_left_out": ((PQ_BOUND, PQ_TOKEN), "codes_are_left_out"),
    "pq_residual_is_read_whole": ((PQ_BOUND, PQ_TOKEN), "residual_is_read_whole"),
    "pq_newest_token_is_left_out": ((PQ_BOUND, PQ_TOKEN), "newest_of_residual_is_dropped"),
    "pq_newest_code_is_left_out": ((PQ_BOUND, PQ_TOKEN), "one_code_too_few"),
    "pq_nibbles_change_places": ((PQ_BOUND, PQ_TOKEN), "nibbles_are_swapped"),
    "pq_oldest_uncoded_token_is_left_out": ((PQ_BOUND, PQ_TOKEN), "oldest_of_residual_is_dropped"),
    "pq_cache_keeps_its_residual_in_bfloat16": ((CACHE,), None),
    "pq_cache_scales_by_its_width": ((CACHE,), None),
    "pq_cache_loses_long_prefills": ((CACHE,), None),
    "pq_operands_are_float16": ((PQ_ENCODE,), None),
    "pq_distances_are_expanded": ((PQ_ENCODE,), None),
    "pq_ties_go_up_in_narrow_operands": ((PQ_ENCODE,), None),
    "pq_rows_past_the_sixteenth_are_left_out": ((PQ_BOUND,), None),
    "pq_positions_are_counted_in_a_byte": ((PQ_BOUND,), None),
    "pq_heads_past_the_fourth_are_the_first_four": ((PQ_BOUND,), None),
    "pq_slots_are_counted_in_four_bits": ((PQ_CODES,), None),
}

ALONE: dict[str, tuple[str, ...]] = {
    BOUND: ("last_token_is_dropped", "lse_is_stored_in_float16", "p_takes_the_dtype_of_v"),
    DEAD: ("lazy_rescaling_sees_dead_scores", "safe_path_is_chosen_by_dead_scores", "page_scale_sees_dead_keys"),
    UPDATE_DEAD: ("lazy_rescaling_sees_dead_scores", "safe_path_is_chosen_by_dead_scores", "page_scale_sees_dead_keys"),
    PAGES: (
        "pages_in_order_of_their_numbers",
        "tile_is_a_run_of_neighbouring_pages",
        "splits_take_pages_by_number",
    ),
    UPDATE_PAGES: (
        "pages_in_order_of_their_numbers",
        "tile_is_a_run_of_neighbouring_pages",
        "splits_take_pages_by_number",
    ),
    REPEATS: (
        "order_of_many_splits_varies",
        "products_of_halves_come_in_any_order",
        "repeated_call_is_a_graph_with_other_tiles",
    ),
    NEIGHBOURS: (
        "maximum_is_shared_by_the_batch",
        "neighbours_are_multiplied_by_zero",
        "scale_of_k_is_that_of_the_batch",
    ),
    SCALES_V: (
        "division_rounds_up",
        "dice_are_the_bits_of_the_result",
        "outliers_of_v_are_normalised_elsewhere",
    ),
    UPDATE_SCALES_V: (
        "division_rounds_up",
        "dice_are_the_bits_of_the_result",
        "outliers_of_v_are_normalised_elsewhere",
    ),
    FACTOR: ("large_q_is_scaled_before_the_dot", "small_q_needs_no_maximum", "q_is_held_in_fixed_point"),
    BATCH: (
        "splits_follow_the_size_of_the_batch",
        "splits_follow_the_longest_of_the_batch",
        "odd_row_out_has_other_tiles",
    ),
    UPDATE_BATCH: (
        "splits_follow_the_size_of_the_batch",
        "splits_follow_the_longest_of_the_batch",
        "odd_row_out_has_other_tiles",
    ),
    HEADS: (
        "every_other_head_goes_backwards",
        "odd_head_out_has_other_tiles",
        "first_tile_is_shorter_for_later_heads",
    ),
    UPDATE_HEADS: (
        "every_other_head_goes_backwards",
        "odd_head_out_has_other_tiles",
        "first_tile_is_shorter_for_later_heads",
    ),
    SPLITS: (
        "tiles_begin_anew_in_each_split",
        "merging_rounds_what_splits_gave",
        "order_of_merging_follows_the_splits",
    ),
    FORGETS: (
        "plan_of_shorter_sequences_is_kept",
        "highest_maximum_of_a_cache_is_kept",
        "second_length_of_a_shape_is_compiled_anew",
    ),
    UPDATE_FORGETS: (
        "plan_of_shorter_sequences_is_kept",
        "highest_maximum_of_a_cache_is_kept",
        "second_length_of_a_shape_is_compiled_anew",
    ),
    CHANGED: (
        "captured_graph_keeps_its_sm_scale",
        "captured_graph_keeps_its_window",
        "captured_graph_keeps_its_soft_cap",
    ),
    UPDATE_CHANGED: (
        "captured_graph_keeps_its_sm_scale",
        "captured_graph_keeps_its_window",
        "captured_graph_keeps_its_sinks",
    ),
    BUFFERS: (
        "maximum_starts_at_what_lse_held",
        "rows_that_hold_numbers_are_taken_for_done",
        "plan_in_the_workspace_is_kept",
    ),
    LAYOUTS: (
        "tiles_of_hnd_are_shorter",
        "split_x_is_summed_from_the_last_key",
        "sm_scale_meets_q_in_interleaved",
    ),
    APPENDED: (
        "newest_tokens_are_a_part_of_their_own",
        "append_is_read_one_call_late",
        "scale_is_that_of_the_last_append",
    ),
    **dict.fromkeys(
        (LONG, UPDATE_LONG),
        (
            "pages_past_the_512th_are_not_in_the_table",
            "positions_are_compared_in_float16",
            "tiles_are_counted_in_a_byte",
        ),
    ),
    **dict.fromkeys(
        (LONGEST, UPDATE_LONGEST), ("positions_are_16_bits", "lengths_are_16_bits", "logits_have_room_for_65536_keys")
    ),
    APPEND: (
        "append_clears_the_page",
        "append_clears_the_slot_to_its_stride",
        "append_writes_into_a_copy",
        "padding_is_zeroed_where_kept_is_declared",
    ),
    STRAY: (
        "stray_slots_go_to_the_last_slot",
        "stray_slots_wrap_around",
        "slots_below_minus_one_count_from_the_end",
        "last_slot_alone_is_checked",
    ),
    REFUSED: (
        "slot_minus_one_is_written_where_raise_is_declared",
        "slots_are_refused_only_if_none_is_live",
        "wide_slots_are_not_checked",
    ),
    CONTESTED: (
        "k_of_the_last_token_stays_with_v_of_the_first",
        "each_head_keeps_a_token_of_its_own",
        "first_of_several_tokens_stays",
    ),
    DECODE_HIGH: (
        "decode_keeps_pages_in_int16",
        "decode_keeps_pages_in_uint16",
        "decode_takes_a_page_s_top_bit_for_a_flag",
    ),
    DECODE_LARGE: (
        "decode_counts_elements_in_int32",
        "decode_reads_zeros_past_int32",
        "decode_pages_pass_through_float32",
    ),
    APPEND_HIGH: ("append_keeps_pages_in_int16", "append_keeps_pages_in_uint16", "append_visits_65535_pages"),
    GATHER_HIGH: (
        "gather_keeps_pages_in_int16",
        "gather_keeps_pages_in_uint16",
        "gather_takes_a_page_s_top_bit_for_a_flag",
    ),
    APPEND_LARGE: (
        "append_counts_elements_in_int32",
        "append_counts_bytes_in_uint32",
        "append_slots_pass_through_float32",
    ),
    GATHER_LARGE: (
        "gather_counts_elements_in_int32",
        "gather_reads_zeros_past_int32",
        "gather_pages_pass_through_float32",
    ),
    COPY_LARGE: (
        "copy_counts_elements_in_int32",
        "copy_counts_bytes_in_uint32",
        "copy_passes_pages_through_float32",
    ),
    COPY: ("pages_are_copied_in_turn", "source_is_copied_to_one_target", "pages_of_v_are_not_copied"),
    FORK: (
        "copy_lands_after_the_next_append",
        "write_after_a_copy_goes_to_the_source",
        "copied_page_is_read_where_it_came_from",
    ),
    SHARDS: (
        "append_keeps_the_token_stride_of_its_plan",
        "append_keeps_the_row_stride_of_its_plan",
        "append_takes_a_shard_for_written",
    ),
    GATHER: ("wide_lengths_are_read_as_int32", "pages_are_gathered_as_if_full", "pages_follow_without_a_gap"),
    FUSE: ("merge_rounds_through_float32", "padded_halves_are_added", "float8_is_merged_as_float16"),
    SHARD: (
        "merge_keeps_its_first_row_stride",
        "merge_keeps_its_first_number_of_heads",
        "interleaving_of_the_first_call",
    ),
    EXTRACT_K: (
        "extract_k_walks_without_strides",
        "extract_k_is_the_first_chunk",
        "extract_k_quiets_signalling_nan",
    ),
    EXTRACT_V: (
        "extract_v_counts_from_the_storage",
        "extract_v_is_the_second_chunk",
        "extract_v_is_rounded_with_k_behind_it",
    ),
    MERGE: ("odd_part_is_merged_with_itself", "many_parts_are_weighted_in_base_2", "running_result_is_rounded"),
    ONLY_LIVE: ("denominator_has_an_epsilon", "reciprocal_is_approximate", "exponent_is_contracted"),
    MERGE_REPEATS: ("merging_order_varies", "merging_chunk_is_still_being_tuned", "first_merge_of_a_shape_is_eager"),
    UPDATE: (
        "update_clears_the_rest_of_the_page",
        "update_writes_its_pages_back_in_bfloat16",
        "update_writes_behind_kv_lens",
    ),
    UPDATED: (
        "exp_of_0_is_not_1",
        "new_tokens_are_seen_by_older_queries",
        "wide_groups_have_no_window",
    ),
    UPDATE_REPEATS: (
        "order_of_many_splits_varies",
        "products_of_halves_come_in_any_order",
        "repeated_call_is_a_graph_with_other_tiles",
    ),
    UPDATE_BUFFERS: (
        "update_starts_at_what_lse_held",
        "update_takes_rows_of_numbers_for_done",
        "update_keeps_the_plan_in_its_workspace",
    ),
    UPDATE_APART: (
        "update_multiplies_neighbours_by_zero",
        "update_shares_its_maximum",
        "new_tokens_of_all_are_multiplied_by_zero",
    ),
    PQ_ENCODE: ("pq_ties_go_to_the_highest_code", "pq_nearest_is_the_largest_product", "pq_distances_are_float16"),
    PQ_DECODE: (
        "pq_centroids_are_those_of_subspace_0",
        "pq_subspaces_are_interleaved",
        "pq_centroids_pass_through_another_type",
    ),
    PQ_CODES: (
        "pq_v_is_coded_with_the_codebooks_of_k",
        "pq_appended_ties_go_to_the_highest_code",
        "pq_tokens_are_coded_in_bfloat16",
        "pq_all_heads_go_to_the_slots_of_head_0",
    ),
    PQ_SLOTS: (
        "pq_append_clears_the_page",
        "pq_append_clears_what_is_behind_its_tokens",
        "pq_skipped_tokens_go_to_the_last_slot",
    ),
    PQ_BOUND: ("pq_sm_scale_is_applied_twice", "pq_lse_is_base_2", "pq_q_heads_are_dealt_out"),
    PQ_DEAD: ("pq_order_follows_a_dead_row", "pq_order_follows_a_dead_row_of_v", "pq_order_follows_a_dead_slot"),
    PQ_PAGES: (
        "pq_pages_in_order_of_their_numbers",
        "pq_pages_of_even_numbers_come_first",
        "pq_highest_page_comes_first",
    ),
    PQ_REPEATS: (
        "pq_repeated_call_sums_from_the_last_key",
        "pq_repeated_call_scales_q",
        "pq_repeated_call_sums_dims_from_the_last",
    ),
    PQ_SIGN: (
        "pq_division_rounds_up",
        "pq_values_above_zero_are_summed_apart",
        "pq_dice_are_the_bits_of_the_result",
    ),
    PQ_NEIGHBOURS: (
        "pq_order_follows_codes_of_another",
        "pq_order_follows_the_query_of_another",
        "pq_order_follows_the_residual_of_another",
    ),
    PQ_LAYOUTS: (
        "pq_columns_are_summed_from_the_last_key",
        "pq_columns_scale_q",
        "pq_columns_sum_dims_from_the_last",
    ),
    OWNERS: (
        "freed_pages_are_never_given_out_again",
        "shared_page_is_freed_by_its_first_owner",
        "page_is_freed_twice",
        "empty_pool_gives_out_page_0",
    ),
    CACHE: (
        "pq_cache_counts_moved_tokens_again",
        "pq_cache_shifts_its_residual_onto_itself",
        "pq_cache_appends_again_in_its_fallback",
        "pq_cache_keeps_page_ids_of_one_head",
        "pq_cache_loses_its_newest_code",
    ),
}
"""Law -> faults that it kills and no other law does: without the law they would live.

A fault of one call that shows in any head is offered with one head, which laws about shards do not cut.
"""

IMPLIED: dict[str, str] = {
    ROUND_TRIP: "append and gather are each held to every byte, and a kernel without memory that keeps to their laws "
    "keeps to this one; it stays because it needs no index formula",
    FUSED_ROUND_TRIP: "merge_kv, extract_k and extract_v are each held to every bit, and kernels without memory that "
    "keep to their laws keep to this one; it stays because it needs no index formula",
    TREE: "each call of merge_states is held to its bound on contents of every kind, so a kernel without memory that "
    "keeps to it keeps to this one; it stays because its calls take what other calls gave",
    SHARD_READ: "gather is held to every byte at every number of heads, and a kernel without memory that keeps to its "
    "law keeps to this one; it stays because its caches are cut out of that of all heads, as on several devices",
    REPEATED_KV: "paged_decode is held to its bound at every group, and what keeps to it keeps to this one; it stays "
    "because it takes nothing from the oracle but how far apart two results may be",
    PAGE_SIZES: "paged_decode is held to its bound at every page size, and what keeps to it keeps to this one; it "
    "stays because it takes nothing from the oracle but how far apart two results may be",
    STRIDED: "paged_decode is held to its bound in every kind of views, and what keeps to it keeps to this one; it "
    "stays because it takes nothing from the oracle but how far apart two results may be",
    PARTS: "paged_decode and merge_states are each held to their bound on contents of every kind; it stays because it "
    "is what a user of both relies on, lse_base and empty parts included",
    CASCADE: "paged_decode and merge_states are each held to their bound; it stays because it is what cascades "
    "rely on: pages in common, rows that are sequences of their own, a prefix apart from causal suffixes",
    RANKS: "paged_decode and merge_states are each held to their bound; it stays because it is what ranks rely "
    "on: tables of every so many-th page, and merges of merges of what paged_decode gave",
    UPDATE_TWICE: "append_decode, append and paged_decode are each held to every byte or to their bound; it stays "
    "because it takes nothing from the oracle but how far apart two results may be",
    PQ_TOKEN: "pq_decode_attention is held to its bound whatever is in codes and what is not; it stays because it "
    "takes nothing from the oracle but how far apart two results may be",
}
"""Law -> why no fault can be left to it alone; every fault that it kills is killed by another law too."""

PLACES: dict[str, str] = {
    "pages_are_in_order": "as if every sequence had pages 0, 1, 2 ...",
    "table_of_the_next_sequence": "as if each sequence had the pages of the next one",
    "table_is_as_wide_as_its_longest_row": "but on page 2 where the table says 1",
    "pages_are_gathered_as_if_full": "lies where nhd has k: page ",
    "rows_are_packed_to_the_longest": "lies where bshd has k: page 0, slot 1",
    "first_row_for_all": "as if each sequence had the pages of the first one",
    "pages_follow_without_a_gap": "in arrays of strides 'all' K is read as in no known row",
    "v_is_read_with_the_strides_of_k": "K is read as in nhd; V is read as in no known row",
    "v_has_the_head_stride_of_k": "V is read as in no known row",
    "q_heads_are_dealt_out": "h % num_kv_heads",
    "kv_heads_are_repeated_as_a_block": "h % num_kv_heads",
    "first_kv_head_for_all": "on kv heads 0, 0, 0, 0, 0, 0",
    "heads_are_halves": "head 16, dim 1 where interleaved has page 768, slot 96, head 32, dim 1",
    "hnd_is_read_as_nhd": "as in nhd = bshd = cells, not hnd",
    "code_pages_are_not_transposed": "as in code_rows, not code_columns",
    "x_is_eight_elements": "dim // 8 64, dim % 8 1 where split_x has",
    "k_and_v_are_swapped": "where nhd has V; V is ",
    "k_is_used_as_v": "K is read as in nhd; V is read where nhd has K",
    "pages_of_k_are_used_for_v": "as if V had the pages of K",
    "beside_is_read_as_interleaved": "dim 2 where beside_nhd has",
    "packed_heads_are_halves": "head 128, dim 1 where packed has",
    "q8_0_scale_is_behind_its_codes": "k_scale from 16 on where it begins at 0",
    "indexer_scales_lie_beside_their_tokens": "slot 132, dim 1 where indexer_k has page 396, slot 128",
    "mla_scales_behind_are_seven_bytes": "slot 7, dim // 64 1 where mla_scales_behind has page 2304, slot 8",
    "scale_of_k_is_used_for_v": "where token_head_scales has k_scale",
    "swizzled_scales_of_v_are_read_in_rows": "v_scale is ",
    "kivi_groups_of_k_lie_along_dim": "where kivi has page 192, slot // 32 1",
    "odd_elements_are_the_low_nibbles": "with dim 1, 0, 3, 2, 5, 4, 7, 6",
}
"""Faults of where things lie -> words of the diagnosis; all others compute wrongly and get none."""

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

RIGHT: dict[str, tuple[str, ...]] = {
    "refuses_slots": (APPEND, STRAY, REFUSED, APPEND_HIGH, SHARDS),
    "keeps_the_first_of_several_tokens": (APPEND, CONTESTED, COPY, FORK, SHARDS),
    "zeroes_padding": (APPEND, GATHER, COPY, FORK),
    "writes_where_the_cache_lies": (STRAY, CONTESTED, APPEND_HIGH, GATHER_HIGH, COPY, *LARGE),
    "leaves_undefined_what_it_may": (APPEND, COPY, FORK),
    "exp_errs_but_not_at_0": (BOUND, DEAD, PAGES, REPEATS),
    "chunks_are_of_a_fixed_size": (SPLITS, BATCH, APPENDED, LONG, FORGETS, SCALES_V, FACTOR, NEIGHBOURS),
    "every_head_of_every_row_is_alone": (BATCH, HEADS, LAYOUTS, LONG, FORGETS, SCALES_V, FACTOR, NEIGHBOURS),
    "writes_where_it_is_told": (UPDATE_BUFFERS, BUFFERS, BOUND, DEAD, PAGES, GATHER, MERGE, MERGE_REPEATS),
    "flushes_small_subnormals": (BOUND, DEAD, PAGES, BATCH),
    "keeps_partial_results_in_few_bits": (BOUND, DEAD, PAGES, PARTS, CASCADE, RANKS, SPLITS, MERGE),
    "takes_csr_alone": (BOUND, DEAD, PAGES, BATCH, FORGETS, APPENDED, LONG, GATHER, GATHER_HIGH, APPEND),
    "has_every_other_convention": (
        *(BOUND, DEAD, PAGES, REPEATS, PARTS, CASCADE, RANKS, NEIGHBOURS, MERGE, TREE, ONLY_LIVE),
    ),
    "counts_sinks_beside_keys_alone": (BOUND, DEAD, PAGES, REPEATS, NEIGHBOURS, FORGETS, LONG),
    "query_tokens_stand_at_the_first_keys": (BOUND, DEAD, PAGES, REPEATS, PARTS, CASCADE, RANKS, NEIGHBOURS, FORGETS),
    "query_tokens_see_newer_ones": (BOUND, DEAD, PAGES, REPEATS, PARTS, CASCADE, RANKS, NEIGHBOURS, FORGETS),
    "attends_to_new_tokens_where_they_come_from": (UPDATE, UPDATED, UPDATE_TWICE, UPDATE_REPEATS, UPDATE_APART),
    "sums_codes_in_any_order": (PQ_BOUND, PQ_TOKEN, PQ_DEAD, PQ_PAGES, PQ_SIGN, PQ_NEIGHBOURS),
}
"""Implementations that keep to conventions of their own -> laws that must have judged each and found nothing."""
