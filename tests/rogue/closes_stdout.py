"""Writes to stdout and stderr, closes both, and conforms."""

import os
import sys

NAME = "closes_stdout"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    if not sys.stdout.closed:
        print("done 0 passed", flush=True)
        for stream in (sys.stdout, sys.stderr):
            stream.close()
        for descriptor in (1, 2):
            os.close(descriptor)
    return kv[:, 0::2]
