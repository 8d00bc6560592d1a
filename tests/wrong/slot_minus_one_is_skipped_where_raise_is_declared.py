"""Wrong: says that it raises at slot -1, and skips the token."""

from kvconform.impls.numpy_ref import append  # noqa: F401

NAME = "slot_minus_one_is_skipped_where_raise_is_declared"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"float32", "bfloat16"}}}
CONVENTIONS = {"skipped_slots": "raise"}
