"""CUDA C++ kernels and the two ways to run them: on a GPU (`device`) and on this CPU (`host`), from the same source."""
