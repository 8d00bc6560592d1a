"""Wrong: an empty pool gives out page 0 instead of refusing."""

from kvconform.impls import numpy_ref as right
from kvconform.impls.host_kernels.pq_caches import PageManager

NAME = "empty_pool_gives_out_page_0"
BACKEND = "numpy"
OFFERS = {"page_manager": {"layout": {"pq_columns"}}}
CONVENTIONS, ARITHMETIC = right.CONVENTIONS, {}


class page_manager(PageManager):
    def allocate(self):
        return super().allocate() if self._free else 0
