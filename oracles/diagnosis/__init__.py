"""Which layout an implementation really uses, told from calls whose contents are addresses.

`probe_cases` chooses what is called, `codes` spells addresses, `observed` reads them back, `placement` says what they
mean (rows of `candidates`, tables of `wrong_tables`, `strides`), `told` puts it into a sentence.
"""

from kvconform.oracles.diagnosis.told import OPS, Diagnosis, diagnose, explain

__all__ = ["OPS", "Diagnosis", "diagnose", "explain"]
