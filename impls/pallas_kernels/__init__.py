"""Pallas-TPU kernels of this repository: data movement, paged decode, codes, the merge of partial attentions.

Every operation is one `pl.pallas_call` (attention in parts, append of codes: two), functional in form, started by
`launch` alone.
"""
