"""Needs a module that does not exist, and says so."""

NAME = "is_blocked"
BACKEND = "cuda"
REQUIRES = ("a_module_that_nobody_has",)
OFFERS = {"extract_k": {}}


def extract_k(kv):
    return kv[:, 0::2]
