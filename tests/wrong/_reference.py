"""What wrong adapters are made of: a copy of the reference in which single functions are replaced."""

import importlib.util

from kvconform.impls import numpy_ref


def reference_with(**replaced):
    """A private copy of numpy_ref whose own functions call the given ones instead of theirs.

    Raises AttributeError where the reference has no function of that name: a fault that changes nothing is no fault.
    """
    spec = importlib.util.spec_from_file_location("kvconform_wrong_reference", numpy_ref.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in replaced.items():
        getattr(module, name)
        setattr(module, name, function)
    return module
