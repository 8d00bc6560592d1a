"""Says that append changes the cache where it lies, and returns a copy."""

from kvconform.impls import numpy_ref as right

NAME = "lies_about_in_place"
BACKEND = "numpy"
OFFERS = {"append": {"layout": {"nhd"}, "dtype": {"int8"}}}
IN_PLACE = {"append": "cache"}

append = right.append
