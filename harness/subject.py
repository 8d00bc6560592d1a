"""One implementation under test: how it is called, and what every call is held to whatever the law.

A call fails by itself when it raises anything at all, returns other names, shapes or dtypes than the operation says,
changes an argument that it did not declare, leaves in memory that it was given to write into anything but its result,
or launches nothing although its `attest()` counts launches.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kvconform.harness.adapters import AdapterError
from kvconform.harness.made import Made
from kvconform.oracles.verdict import Raised, Violation
from kvconform.specs import lse
from kvconform.specs.case import Case
from kvconform.specs.conventions import declared
from kvconform.specs.data import UNWRITTEN, Array, unwritten
from kvconform.specs.offers import holds
from kvconform.specs.operations import OPERATIONS, WORKSPACE
from kvconform.specs.paged import SPARSE
from kvconform.specs.profile import Profile, profile_of
from kvconform.specs.results import has_work, results
from kvconform.specs.row import SIDE_NAMES, Layout
from kvconform.specs.storage import guarded, wrap


class Subject:
    """An adapter, loaded and checked.

    name, file    for people
    ref           how a command line names it
    offers        OFFERS
    conventions   CONVENTIONS, completed with the defaults
    why_not       WHY_NOT: what is left out of OFFERS, a word or a whole axis, and the reason
    inside        seconds spent in the adapter's own functions
    weights       resolution of what has passed
    idle          whether the case in hand is no evidence
    doubt         why the case in hand, which passed, is to be drawn again with other seeds; nothing: it is not
    shown         features that the case in hand shows
    apart         why an argument lay in memory of its own though a law asked for that of the call before; or nothing
    """

    def __init__(self, adapter: Any, name: str, file: str, ref: str = "") -> None:
        self.adapter, self.name, self.file, self.ref = adapter, name, file, ref or name
        self.backend = str(getattr(adapter, "BACKEND", "") or "unnamed")
        self.offers: dict[str, dict[str, Any]] = adapter.OFFERS
        self.conventions = declared(getattr(adapter, "CONVENTIONS", {}))
        self.why_not: Mapping[str, str] = getattr(adapter, "WHY_NOT", {})
        self._arithmetic: Mapping[str, Any] = getattr(adapter, "ARITHMETIC", {})
        self.inside = 0.0
        self.weights: list[float] = []
        self.idle = False
        self.doubt = ""
        self.shown: tuple[str, ...] = ()
        self.gave: bool | None = None  # whether any call of the case gave anything but zeros; None: there was none
        self._in_place: Mapping[str, str] = getattr(adapter, "IN_PLACE", {})
        self._workspace: Mapping[str, Any] = getattr(adapter, "WORKSPACE", {})
        self._worn: dict[tuple[Any, ...], _Placed] = {}
        self._overwritten: dict[tuple[Any, ...], _Placed] | None = None
        self._overwrote = False
        self.apart = ""

    def begin(self) -> None:
        """A case is to be judged: nothing is left of the one before."""
        self.idle, self.doubt = False, ""
        self.gave = None
        self.shown = ()
        self._worn.clear()

    def profile(self, dtype: str) -> Profile:
        """ARITHMETIC for caches of one dtype, completed with the defaults."""
        found, stored = profile_of(self._arithmetic, dtype), self.conventions["lse_dtype"]
        return found if stored == lse.OWN["lse_dtype"] else replace(found, lse_format=stored)

    def why_not_of(self, word: str, axis: str) -> str:
        """The adapter's reason for not offering a word of an axis, or nothing."""
        return self.why_not.get(word, self.why_not.get(axis, ""))

    def saw(self, weights: list[float]) -> None:
        """Book the resolution of what has just passed."""
        self.weights += weights

    def doubts(self, said: str) -> None:
        """Book that what has just passed is farther out than chance takes a correct kernel."""
        self.doubt = said

    @property
    def saw_zeros(self) -> bool:
        """Whether all that was given in the case in hand is zeros: what does nothing gives them, too."""
        return self.gave is False

    def saw_nothing(self) -> None:
        """Book that the case in hand is no evidence."""
        self.idle = True

    def saw_features(self, shown: tuple[str, ...]) -> None:
        """Book the features without which the case in hand would have failed."""
        self.shown = shown

    def attested(self) -> dict[str, Any]:
        """What the adapter says of its launches, device and mode; empty where it says nothing."""
        try:
            return dict(self.adapter.attest()) if hasattr(self.adapter, "attest") else {}
        except BaseException as e:
            raise AdapterError(f"{self.file}: attest() raised {type(e).__name__}: {e}") from e

    def offers_result(self, op: str, name: str) -> bool:
        """Whether an operation returns the named result."""
        return op in self.offers and name in self.offers[op].get("returns", OPERATIONS[op].returns)

    def call(self, case: Case, op: str, **arguments: Any) -> dict[str, Array]:
        """Run an operation on copies of host arrays.

        case        gives layout and sizes to messages and results; the arguments need not be the Case's own
        arguments   by the operation's names; those it declares optional are dropped where the offer does not list them
        returns     result (append: {"cache": fields}) by name, on the host
        """
        row, self._overwrote = OPERATIONS[op], False
        if "lses" in arguments:
            arguments["lses"] = lse.convert(arguments["lses"], lse.OWN, self.conventions, numbers=False)
        hidden = {name: getattr(case, name) for name, axis in row.hidden.items() if axis in case.row.hidden}
        for name, axis in {**{name: name for name in row.optional}, **row.follows}.items():
            if axis not in self.offers[op]:
                arguments.pop(name, None)
        lent = ("cache",) if case.pool == "sparse" else ()  # too large to be copied
        placed = {
            name: _lent(value, self.to_device) if name in lent else self._placed(name, value, case)
            for name, value in arguments.items()
        }
        handles = {name: _each(value, lambda one: one.handle) for name, value in placed.items()}
        before = self._launches()
        positional, keywords = [handles[n] for n in row.positional], hidden
        keywords |= {n: handles[n] for n in row.keywords if n in handles}
        want = results(op, case, arguments, self.conventions)
        memory, into = self._memory(case, op, want, (positional, keywords))
        raw = self._run(op, positional, keywords | into)
        if before is not None and has_work(arguments) and self._launches() == before:
            raise Violation(
                f"{op} launched nothing: attest() counts {before} launches before and after the call, so no kernel of "
                f"{self.name} ran ({self.file})"
            )
        got = self._named(op, case, arguments, want, raw)
        self.gave = bool(self.gave or lent) or any(
            map(_has_a_bit, (x for value in got.values() for x in _leaves(value)))
        )
        self._inputs_unchanged(op, {n: value for n, value in arguments.items() if n not in lent}, handles, got)
        for name, value in placed.items():
            for label, one in _labelled(name, value):
                self._guards_unchanged(op, label, one)
        for name, one in memory.items():
            self._guards_unchanged(op, name, one)
            if name != WORKSPACE:
                self._is_the_result(op, name, one, got[name])
        return lse.in_own_form(got, self.conventions)

    @contextmanager
    def overwriting(self) -> Iterator[Callable[[], bool]]:
        """Arguments of calls lie where those of the call before did, by name, shape and dtype, and are written over
        them; where handles cannot be written to, as ever, in memory of their own.

        Gives what says whether any argument of the last call was written over another.
        """
        self._overwritten = {}
        try:
            yield lambda: self._overwrote
        finally:
            self._overwritten = None

    def make(self, case: Case, op: str, **arguments: Any) -> Made:
        """An object of the adapter's own, made of copies of host arrays."""
        row = OPERATIONS[op]
        handles = {name: self._placed(name, value, case).handle for name, value in arguments.items()}
        positional, keywords = [handles[n] for n in row.positional], {n: handles[n] for n in row.keywords}
        return Made(self, case, row, self._run(op, positional, keywords))

    def _memory(
        self, case: Case, op: str, want: Mapping[str, Any], call: tuple[list[Any], dict[str, Any]]
    ) -> tuple[dict[str, _Placed], dict[str, Any]]:
        """What the operation is given to write into, by result or part, and the keywords that pass it.

        want   result or part -> (shape, dtype)
        call   what else it is given
        """
        taken = [name for name in OPERATIONS[op].lends if holds(self.offers[op].get("into", ()), name)]
        names = [name for name in taken if name == WORKSPACE or self.offers_result(op, name)]
        if case.buffers == "own" or not names:
            return {}, {}
        sides = {name: SIDE_NAMES.index(name) for name in names} if op == "gather" else {}
        parts = [part.name for side in sides.values() for part in case.row.of_side(side)]
        memory = {name: self._lent(case, op, name, want[name]) for name in parts or names if name != WORKSPACE}
        if WORKSPACE in names:
            signature = ((self._workspace_bytes(op, call),), np.dtype(np.uint8))
            memory[WORKSPACE] = self._lent(case, op, WORKSPACE, signature)
        handles = {name: one.handle for name, one in memory.items()}
        return memory, {n: case.row.argument(side, handles) for n, side in sides.items()} or handles

    def _workspace_bytes(self, op: str, call: tuple[list[Any], dict[str, Any]]) -> int:
        try:
            return int(self._workspace[op](*call[0], **call[1]))
        except BaseException as e:
            raise Raised(f"WORKSPACE[{op!r}] raised {type(e).__name__}: {e}") from e

    def _lent(self, case: Case, op: str, name: str, signature: Any) -> _Placed:
        """Memory of a shape and dtype, filled as the Case says."""
        key = (op, name, *signature, case.strides)
        if case.buffers == "used" and key in self._worn:
            return self._worn[key]
        shape, dtype = signature
        array = unwritten(dtype.name, shape, case.seed)
        made = self._put(*(guarded if name == WORKSPACE else wrap)(array, case.strides, f"{op} {name}"))
        if case.buffers == "used":
            self._worn[key] = made
        return made

    def _is_the_result(self, op: str, label: str, one: _Placed, got: Array) -> None:
        held = self.to_host(f"{label}, which {op} was given to write into,", one.handle)
        if held.shape != got.shape or not _same_bytes(held, got):
            raise Violation(
                f"{op} was given {label} to write into, which differs from what it returned, "
                f"{_change(got, held)} ({self.file})"
            )
        if OPERATIONS[op].rounds and got.dtype.name in UNWRITTEN:
            left = got.view(f"uint{8 * got.itemsize}") == UNWRITTEN[got.dtype.name]
            if left.any():
                at = tuple(int(i) for i in np.argwhere(left)[0])
                raise Violation(
                    f"{op} left in {int(left.sum())} of {left.size} elements of {label} the NaN that was there before "
                    f"the call, first at {at}: not written, or computed from what was there ({self.file})"
                )

    def _run(self, op: str, positional: list[Any], keywords: dict[str, Any]) -> Any:
        return self.guarded(op, getattr(self.adapter, op), *positional, **keywords)

    def guarded(self, op: str, call: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> Any:
        """What a call of the implementation gives. Raises Raised whatever it raises."""
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return call(*arguments, **keywords)
        except BaseException as e:
            # pytest.skip, sys.exit, hypothesis.reject, Ctrl-C: raised by a kernel, they are its own
            raise Raised(f"{op} raised {type(e).__name__}: {e}") from e
        finally:
            self.inside += time.perf_counter() - start

    def _launches(self) -> int | None:
        try:
            return self.attested().get("launches")
        except AdapterError as e:
            raise Violation(str(e)) from e

    def _placed(self, name: str, value: Any, case: Case) -> Any:
        """An argument on the device; of a cache each field."""
        gaps = case.gaps if name == "cache" else ""
        if isinstance(value, dict):
            return {field: self._place(array, case.strides, f"{name} {field}", gaps) for field, array in value.items()}
        return None if value is None else self._place(value, case.strides, name)

    def _place(self, value: Any, strides: str, name: str, gaps: str = "") -> _Placed:
        """A copy of a host array on the device, in the storage that the Case asks for; other values as they are."""
        if not isinstance(value, np.ndarray):
            return _Placed(value)
        storage, slices = wrap(np.asarray(value, order="C"), strides, name, gaps)
        if self._overwritten is None:
            return self._put(storage, slices)
        key = (name, strides, value.shape, value.dtype)
        before = self._overwritten.get(key)
        placed = before and self._put_over(before, storage, value, name)
        self._overwrote |= placed is not None
        self._overwritten[key] = placed or self._put(storage, slices)
        return self._overwritten[key]

    def _put_over(self, before: _Placed, storage: Array, value: Array, name: str) -> _Placed | None:
        """Some storage written over that of an argument of the same shape; None where handles take no assignment, or
        one that does not reach what is passed."""
        handle = before.handle if before.storage is None else before.storage
        try:
            handle[...] = self.to_device(np.array(storage, order="C"))
        except Violation:
            raise
        except Exception as e:  # whatever a handle says that is none of an array's, or of one that never changes
            self.apart = self.apart or f"{name}: a handle of {type(handle).__name__} raises {type(e).__name__}"
            return None
        if not _same_bytes(self.to_host("an argument that was written over", before.handle), value):
            self.apart = self.apart or f"{name}: what a handle of {type(handle).__name__} takes, its views do not show"
            return None
        return replace(before, contents=None if before.storage is None else storage)

    def _put(self, storage: Array, slices: tuple[slice, ...]) -> _Placed:
        """A copy of some storage on the device, and the view of it that is passed."""
        handle = self.to_device(np.array(storage, order="C"))
        if not slices:
            return _Placed(handle)
        try:
            return _Placed(handle[slices], handle, storage, slices)
        except BaseException as e:
            raise Violation(
                f"strides are offered, but a handle of {type(handle).__name__} cannot be sliced: "
                f"{type(e).__name__}: {e} ({self.file})"
            ) from e

    def _guards_unchanged(self, op: str, label: str, one: _Placed) -> None:
        if one.storage is None:
            return
        after = self.to_host(f"the storage of {label}", one.storage)
        want = one.contents  # of this call alone, so that it can be written to
        want[one.slices] = after[one.slices]  # the argument itself is judged elsewhere
        if not _same_bytes(after, want):
            raise Violation(
                f"{op} wrote beside its argument {label}, {_change(want, after)} of the storage around it ({self.file})"
            )

    def to_device(self, copy: Array) -> Any:
        """A copy of a host array as the adapter takes it."""
        convert = getattr(self.adapter, "to_device", None)
        try:
            return convert(copy) if convert else copy
        except BaseException as e:
            shown = f"{copy.dtype}{list(copy.shape)}"
            raise Violation(f"to_device failed on {shown}: {type(e).__name__}: {e} ({self.file})") from e

    def to_host(self, what: str, handle: Any) -> Array:
        """What the adapter gave, as a host array."""
        convert = getattr(self.adapter, "to_host", None)
        try:
            array = convert(handle) if convert else handle
        except BaseException as e:
            raise Violation(f"{what}: to_host failed on {type(handle).__name__}: {e} ({self.file})") from e
        if not isinstance(array, np.ndarray):
            raise Violation(f"{what} is a {type(array).__name__} on the host, not a numpy array ({self.file})")
        return array

    def _named(
        self, op: str, case: Case, arguments: Mapping[str, Any], want: Mapping[str, Any], raw: Any
    ) -> dict[str, Any]:
        """Results by name, with the shapes and dtypes that the operation says; lse in the adapter's form.

        want   result or part -> (shape, dtype)
        """
        names = [n for n in OPERATIONS[op].returns if self.offers_result(op, n)]
        values = raw if isinstance(raw, tuple) else (raw,)
        if len(values) != len(names):
            raise Violation(
                f"{op} returned {len(values)} result(s), want {len(names)} ({', '.join(names)}); an adapter that "
                f"returns fewer says so in OFFERS[{op!r}]['returns'] ({self.file})"
            )
        named = dict(zip(names, values, strict=True))
        if op == "gather":
            named = self._parts(case.row, named)
        cache = {"cache": self._fields(op, named.pop("cache"), arguments["cache"], want)} if "cache" in named else {}
        return {n: self.checked(op, n, value, want[n]) for n, value in named.items()} | cache

    def _fields(self, op: str, raw: Any, given: Mapping[str, Any], want: Mapping[str, Any]) -> dict[str, Array]:
        """A cache that was returned, by field: those that were given."""
        if not isinstance(raw, dict) or set(raw) != set(given):
            shown = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
            raise Violation(f"{op} returned {shown}, want the cache's fields {sorted(given)} ({self.file})")
        return {name: self.checked(op, name, raw[name], want[name]) for name in given}

    def _parts(self, row: Layout, sides: Mapping[str, Any]) -> dict[str, Any]:
        """What gather returned for K and for V, by part."""
        parts: dict[str, Any] = {}
        for side, (name, value) in enumerate(sides.items()):
            names = [part.name for part in row.of_side(side)]
            if not names and value is not None:
                raise Violation(f"gather returned a {name}, but {row.name} stores none ({self.file})")
            if len(names) > 1 and (not isinstance(value, dict) or set(value) != set(names)):
                shown = sorted(value) if isinstance(value, dict) else type(value).__name__
                raise Violation(f"gather returned {name} as {shown}, want a dict of {', '.join(names)} ({self.file})")
            parts |= value if len(names) > 1 else dict.fromkeys(names, value)
        return parts

    def checked(self, op: str, name: str, handle: Any, want: Any) -> Array:
        """A result on the host, of the shape and dtype that the operation says."""
        got = self.to_host(f"{op}'s {name}", handle)
        shape, dtype = want
        if got.shape != shape or got.dtype != dtype:
            raise Violation(
                f"{op} returned {name} as {got.dtype}{list(got.shape)}, want {dtype}{list(shape)} ({self.file})"
            )
        return got if got.nbytes >= SPARSE else got.copy()  # the adapter may return the same buffer from its next call

    def _inputs_unchanged(self, op: str, arguments: Mapping[str, Any], handles: Mapping[str, Any], got: Any) -> None:
        for name, value in arguments.items():
            after = _each(
                handles[name], lambda h: h if isinstance(h, str | int | float) else self.to_host(f"{op}'s argument", h)
            )
            in_place = self._in_place.get(op) == name
            for label, was, now in _pairs(name, got[name] if in_place else value, after):
                if was.shape != now.shape or not _same_bytes(was, now):
                    if in_place:
                        raise Violation(
                            f"{op}: IN_PLACE says {name!r} is changed, but {label} and the result differ ({self.file})"
                        )
                    raise Violation(f"{op} changed its input {label}, {_change(was, now)} ({self.file})")


class TimedSubject(Subject):
    """A Subject whose calls of one operation are timed, on handles that are already on the device.

    The result of the last timed call goes the way of every result: a law judges it, on the very buffers timed.

    op          the operation that is timed
    benchmark   pytest-benchmark's fixture
    """

    def __init__(self, subject: Subject, op: str, benchmark: Any) -> None:
        super().__init__(subject.adapter, subject.name, subject.file, subject.ref)
        self._op, self._benchmark = op, benchmark

    def _run(self, op: str, positional: list[Any], keywords: dict[str, Any]) -> Any:
        result = super()._run(
            op, positional, keywords
        )  # compiles, and fails with a sentence where timing would with a trace
        if op != self._op:
            return result
        wait = getattr(self.adapter, "synchronize", lambda handles: handles)
        function = getattr(self.adapter, op)
        return self._benchmark(lambda: wait(function(*positional, **keywords)))


@dataclass(frozen=True)
class _Placed:
    """One argument as an adapter takes it.

    handle     what is passed
    storage    the handle that it is a view of; None: it is the whole of its storage
    contents   what the storage held;  slices: where in it the argument lies
    """

    handle: Any
    storage: Any = None
    contents: Any = None
    slices: tuple[slice, ...] = ()


def _lent(cache: Mapping[str, Array], to_device: Any) -> dict[str, _Placed]:
    """A cache that the adapter is given itself."""
    return {name: _Placed(to_device(array)) for name, array in cache.items()}


def _labelled(name: str, value: Any) -> list[tuple[str, _Placed]]:
    """The parts of an argument with their names: a cache has fields, an absent V has none."""
    if isinstance(value, dict):
        return [(f"{name}[{field!r}]", one) for field, one in value.items()]
    return [] if value is None else [(name, value)]


def _each(value: Any, convert: Any) -> Any:
    """Apply to an array, or to each field of a cache; None stays None."""
    if isinstance(value, dict):
        return {name: _each(item, convert) for name, item in value.items()}
    return None if value is None else convert(value)


def _has_a_bit(array: Array) -> bool:
    """Whether any bit is set; what NaN is as a truth, types of few bits warn of."""
    return bool(np.ascontiguousarray(array).view(np.uint8).any())


def _leaves(value: Any) -> list[Array]:
    """An array, or those of a cache."""
    return list(value.values()) if isinstance(value, dict) else [value]


def _pairs(name: str, was: Any, now: Any) -> list[tuple[str, Array, Array]]:
    if isinstance(was, dict):
        return [(f"{name}[{field!r}]", was[field], now[field]) for field in was]
    return [(name, was, now)] if isinstance(was, np.ndarray) else []


def _same_bytes(a: Array, b: Array) -> bool:
    """Whether two arrays hold the same bytes."""
    if a.nbytes < _LARGE:
        return a.tobytes() == b.tobytes()
    left, right = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    whole = len(left) - len(left) % 8  # eight at a time
    return np.array_equal(left[:whole].view(np.uint64), right[:whole].view(np.uint64)) and np.array_equal(
        left[whole:], right[whole:]
    )


_LARGE = 1 << 14
"""Bytes from which on an array is compared where it lies: a copy of a small one is the faster way."""


def _change(was: Array, now: Array) -> str:
    if was.shape != now.shape:
        return f"from shape {list(was.shape)} to {list(now.shape)}"
    a, b = (np.ascontiguousarray(x).view(np.uint8).reshape(*x.shape, -1) for x in (was, now))
    bad = (a != b).any(-1)
    at = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{int(bad.sum())} of {was.size} elements, first at {at}: from {was[at]} to {now[at]}"
