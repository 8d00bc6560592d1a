"""Offers nothing."""

NAME = "offers_nothing"
BACKEND = "numpy"
OFFERS = {}
