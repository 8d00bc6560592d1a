"""Faults: kernels that are wrong on purpose, to see whether the laws can tell."""
