"""Never comes back from its import."""

import time

NAME = "hangs_at_import"

time.sleep(3600)
