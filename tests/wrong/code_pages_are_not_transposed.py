"""Wrong: a page of code_columns is addressed as rows of codes (MILLION's transposed pages)."""

from kvconform.tests.wrong._reference import reference_with

NAME = "code_pages_are_not_transposed"
BACKEND = "numpy"
OFFERS = {
    "append": {"layout": {"code_columns"}},
    "gather": {"layout": {"code_columns"}},
}


def _views(cache, layout):
    pages, subspaces, slots = cache["codes"].shape
    return cache["codes"].reshape(pages, slots, subspaces), None


_wrong = reference_with(_views=_views)
append, gather = _wrong.append, _wrong.gather
