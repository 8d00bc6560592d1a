"""An object that an implementation made: its methods are called as operations are, on host arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kvconform.oracles.verdict import Violation
from kvconform.specs import lse
from kvconform.specs.case import Case
from kvconform.specs.data import Array
from kvconform.specs.operations import Operation
from kvconform.specs.results import Signature, attended


class _Owner(Protocol):
    file: str
    conventions: dict[str, Any]

    def guarded(self, op: str, call: Callable[..., Any], /, *arguments: Any) -> Any: ...
    def to_device(self, copy: Array) -> Any: ...
    def checked(self, op: str, name: str, handle: Any, want: Signature) -> Array: ...


@dataclass(frozen=True)
class Made:
    """One object.

    owner   the implementation;  case: what it was made for;  row: the operation that made it
    made    the object itself
    """

    owner: _Owner
    case: Case
    row: Operation
    made: Any

    def do(self, method: str, **arguments: Any) -> dict[str, Any]:
        """Call a method with its arguments by position; results by name: arrays on the host, or whole numbers.

        A method without arguments may also be a plain attribute. Raises Raised where it raises, Violation where what
        comes back is no result.
        """
        what, (names, returns) = f"{self.row.name}.{method}", self.row.methods[method]
        given = [self._placed(arguments[name]) for name in names]

        raw = self.owner.guarded(what, self._asked, method, given)
        if not returns:
            return {}
        values = raw if isinstance(raw, tuple) else (raw,)
        if len(values) != len(returns):
            raise Violation(f"{what} returned {len(values)} result(s), want {', '.join(returns)} ({self.owner.file})")
        found = {name: self._result(what, name, value, arguments) for name, value in zip(returns, values, strict=True)}
        return lse.in_own_form(found, self.owner.conventions)

    def _asked(self, method: str, given: list[Any]) -> Any:
        found = getattr(self.made, method)
        return found(*given) if callable(found) else found

    def _placed(self, value: Any) -> Any:
        return self.owner.to_device(value.copy()) if isinstance(value, np.ndarray) else value

    def _result(self, what: str, name: str, value: Any, arguments: Mapping[str, Any]) -> Any:
        if name in ("out", "lse"):
            return self.owner.checked(what, name, value, attended(arguments["q"], self.owner.conventions)[name])
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise Violation(f"{what} returned {name} as a {type(value).__name__}, want a number ({self.owner.file})")
        return int(value)
