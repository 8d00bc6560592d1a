"""Its attest() fails."""

NAME = "attest_fails"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def attest():
    raise RuntimeError("driver not loaded")


def extract_k(kv):
    return kv[:, 0::2]
