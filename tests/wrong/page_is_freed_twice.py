"""Wrong: a page that nobody owns is put on the list of free ones once more."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PageManager

NAME = "page_is_freed_twice"
BACKEND = "numpy"
OFFERS = {"page_manager": {"layout": {"pq_columns"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class page_manager(PageManager):
    def free(self, page):
        if not 0 <= page < len(self._owners):
            raise ValueError(f"there is no page {page}")
        self._owners[page] = max(0, self._owners[page] - 1)
        if not self._owners[page]:
            self._free.append(page)
