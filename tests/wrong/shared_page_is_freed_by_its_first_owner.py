"""Wrong: a page that two own is free once one of them has given it back."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PageManager

NAME = "shared_page_is_freed_by_its_first_owner"
BACKEND = "numpy"
OFFERS = {"page_manager": {"layout": {"pq_columns"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class page_manager(PageManager):
    def share(self, page):
        self._require_owned(page)
