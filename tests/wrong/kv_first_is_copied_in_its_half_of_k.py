"""Wrong: the axis that holds K and V is left out, so that what is copied of each pair is the page of K."""

NAME = "kv_first_is_copied_in_its_half_of_k"
BACKEND = "numpy"
OFFERS = {"copy_pages": {"layout": {"kv_first_nhd"}, "dtype": {"float32", "bfloat16"}}}


def copy_pages(cache, page_mapping, *, layout):
    kv = cache["kv"].copy()
    kv[0, page_mapping[:, 1]] = kv[0, page_mapping[:, 0]]
    return {"kv": kv}
