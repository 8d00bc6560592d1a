"""What wrong adapters are made of: a copy of a reference in which single functions are replaced."""

import importlib.util


def reference_with(of="numpy_ref", **replaced):
    """A private copy of a reference whose own functions call the given ones instead of theirs.

    of   its name among the implementations: numpy_ref or torch_ref

    Raises AttributeError where the reference has no function of that name: a fault that changes nothing is no fault.
    """
    spec = importlib.util.find_spec(f"kvconform.impls.{of}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, function in replaced.items():
        getattr(module, name)
        setattr(module, name, function)
    return module


def both(offer):
    """OFFERS of attention over a cache that is there, and of the same behind an append in one call, in one layout."""
    return {"paged_decode": offer, "append_decode": offer | {"layout": {min(offer["layout"])}}}


def fused(paged_decode):
    """append_decode that appends as it should, and then decodes like that."""

    def decode(*arguments, q_lens=None, **options):
        return paged_decode(*arguments, **options, **({} if q_lens is None else {"q_lens": q_lens}))

    return reference_with(paged_decode=decode).append_decode
