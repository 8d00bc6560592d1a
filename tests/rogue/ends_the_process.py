"""Ends the process with exit code 0 in one cell of three, and by a signal in another."""

import os
import signal

NAME = "ends_the_process"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"float32", "float16", "int8"}}}


def extract_k(kv):
    if kv.dtype == "float32":
        os._exit(0)
    if kv.dtype == "float16":
        os.kill(os.getpid(), signal.SIGTERM)
    return kv[:, 0::2]
