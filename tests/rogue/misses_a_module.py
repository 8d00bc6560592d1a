"""Imports a module that does not exist and that REQUIRES does not mention."""

import a_module_that_nobody_has

NAME = "misses_a_module"
OFFERS = {"extract_k": {}}

extract_k = a_module_that_nobody_has.extract_k
