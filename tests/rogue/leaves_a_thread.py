"""Conforms, and leaves a thread that never ends."""

import threading
import time

NAME = "leaves_a_thread"
BACKEND = "numpy"
OFFERS = {"extract_k": {"dtype": {"int8"}}}


def extract_k(kv):
    if threading.active_count() == 1:
        threading.Thread(target=time.sleep, args=(3600,)).start()
    return kv[:, 0::2]
