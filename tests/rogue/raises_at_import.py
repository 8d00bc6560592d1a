"""Raises while it is imported."""

NAME = "raises_at_import"

raise RuntimeError("no device of compute capability 9.0")
