"""Pallas-TPU kernels of this repository: data movement, paged decode, the merge of partial attentions.

Every operation is one `pl.pallas_call` (paged decode with splits: two), functional in form, started by `launch` alone.
"""
