"""What wrong adapters change in the source of a kernel: one text that occurs in it exactly once."""

import atexit
import importlib.util
import shutil
import tempfile
from pathlib import Path


def changed(path, old, new):
    """The text of a file with one change. Raises LookupError unless `old` is in it once: nothing else is the fault."""
    text = path.read_text()
    if text.count(old) != 1:
        raise LookupError(f"{path.name} has {text.count(old)} times, not once: {old}")
    return text.replace(old, new)


def adapter_with(kernels, old, new, *, of):
    """A private copy of an adapter that calls a private copy of one of its modules of kernels, with one change.

    kernels   that module, which the adapter knows by its last name
    of        the adapter, a module too
    """
    folder = tempfile.mkdtemp(prefix="kvconform-wrong-")  # Triton reads the source of its kernels again when they run
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _, _, name = kernels.__name__.rpartition(".")
    path = Path(folder) / f"{name}.py"
    path.write_text(changed(Path(kernels.__file__), old, new))
    adapter = copy_of(of)
    getattr(adapter, name)
    setattr(adapter, name, copy_of(kernels, path))
    return adapter


def copy_of(module, path=None):
    """A module imported once more, for its own sake, from its own file or another."""
    spec = importlib.util.spec_from_file_location(module.__name__, path or module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy
