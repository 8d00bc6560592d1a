"""Offers an operation and has no function for it."""

NAME = "offers_without_a_function"
BACKEND = "numpy"
OFFERS = {"extract_k": {}}
