"""Wrong: free takes back ids that allocate never records, so that the pool drains (MILLION's free_page)."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PageManager

NAME = "freed_pages_are_never_given_out_again"
BACKEND = "numpy"
OFFERS = {"page_manager": {"layout": {"pq_columns"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class page_manager(PageManager):
    def __init__(self, num_pages):
        super().__init__(num_pages)
        self._given = set()

    def free(self, page):
        self._require_owned(page)
        if page in self._given:
            super().free(page)
        else:
            self._owners[page] -= 1
