"""The generated parts of docs/numerics.md: the fields of the profile, the second derivation's factors, the searches."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvconform.numerics import screening, worst
from kvconform.numerics.emulators import emulators
from kvconform.numerics.measured import RESULTS, Measured
from kvconform.numerics.slack import STAGES, WIDE, greatest
from kvconform.numerics.worst import factors
from kvconform.specs import profile as profile_module
from kvconform.specs.profile import Profile

_PART = r"<!-- {name}: generated -->\n.*?<!-- end -->"


def filled(page: str, parts: Mapping[str, str]) -> str:
    """A page with the text between `<!-- NAME: generated -->` and `<!-- end -->` replaced, part by part.

    Raises ValueError where the page has no such part.
    """
    for name, text in parts.items():
        pattern = re.compile(_PART.format(name=re.escape(name)), re.S)
        if not pattern.search(page):
            raise ValueError(f"the page has no part '<!-- {name}: generated -->' ... '<!-- end -->'")
        page = wrapped(name, text).join(pattern.split(page, 1))
    return page


def part(page: str, name: str) -> str:
    """The text of one part."""
    found = re.search(_PART.format(name=re.escape(name)), page, re.S)
    if found is None:
        raise ValueError(f"the page has no part {name!r}")
    return found[0].partition("\n")[2].rpartition("<!-- end -->")[0].strip() + "\n"


def wrapped(name: str, text: str) -> str:
    """A part between its markers."""
    return f"<!-- {name}: generated -->\n{text.strip()}\n<!-- end -->"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) + "\n"


def static_parts() -> dict[str, str]:
    """The parts that depend on the code alone."""
    return {"profile": fields_table(), "factors": factors_table(), "screen": screen_table()}


# --- the profile


def fields_table() -> str:
    """Every field of specs/profile.py, its default, and the comment that stands beside it."""
    source = inspect.getsource(profile_module)
    lines = source.splitlines()
    (body,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "Profile"]
    plain, rows, heading = Profile(), [], ""
    for number in range(body.lineno, body.end_lineno or 0):
        code, _, comment = lines[number].strip().partition("# ")
        name = code.partition(":")[0].strip()
        if not code:
            heading = comment or heading
        elif name in Profile.__dataclass_fields__:
            default = getattr(plain, name)
            rows.append((heading, f"`{name}`", f"`{_power(default)}`", comment.strip()))
    return _table(("stage", "field", "default", "what it says"), rows)


def _power(value: object) -> str:
    if isinstance(value, float) and 0 < value < 1e-3:
        return f"2**-{round(-math.log2(value))}"
    return str(value)


# --- the second derivation


def factors_table(seed: int = 0) -> str:
    """How many times wider than the worst that can be reached the bound is, stage by stage."""
    return _table(
        ("rounded", "out: bound / reached", "lse: bound / reached", "enclosed / bound"),
        ((name, *_factor_cells(factors(stage, seed))) for name, stage in worst.STAGES.items()),
    )


def _factor_cells(found: worst.Factors) -> Iterator[str]:
    for result in RESULTS:
        seen = [one.factor for one in found.compared.get(result, ())]
        yield f"{min(seen):.1f} to {max(seen):.1f}" if seen else ""
    yield f"{max(one.enclosed / one.bound for some in found.compared.values() for one in some):.2f}"


# --- the screen

SCREEN_SEEDS = 5
"""Seeds of each family and length that every emulated kernel is screened with."""


def screen_table() -> str:
    """How much narrower than the bound the screen of every emulated kernel is, and how often it flags one."""
    rows = [screening.screened(emulator, SCREEN_SEEDS) for emulator in emulators()]
    text = f"{sum(row.elements for row in rows)} elements of {len(rows)} correct kernels, on "
    text += f"{', '.join(f'`{name}`' for name in screening.FAMILIES)} with {SCREEN_SEEDS} seeds each: "
    text += f"{sum(row.flagged for row in rows)} flagged. Bound / screen, the median over elements:\n\n"
    heads = ("kernel", *(f"{keys} keys" for keys in screening.SHOWN_KEYS))
    return text + _table(heads, ((row.name, *(f"{x:.1f}" for x in row.narrower)) for row in rows))


# --- the searches


def measured_table(rows: Sequence[Measured], command: str) -> str:
    """Every row of the searches, what was left out, and why a bound is wide where it is."""
    seen = [row for row in rows if row.cases]
    text = f"`{command}`: {sum(r.elements for r in seen)} elements of {len(seen)} implementations, "
    text += f"{sum(len(r.alarms) for r in seen)} false alarms.\n\n"
    heads = ("implementation", "elements (cases)", "out worst", "median", "lse worst", "median", "false alarms")
    text += _table((*heads, "resolution", "slack above 10"), map(cells, seen))
    text += "\n" + "\n".join(f"- `{row.name}`: {row.note}." for row in rows if row.note)
    used = {stage for row in seen for stage in _wide(row).values()}
    reasons = [(name, stage.why) for name, stage in STAGES.items() if name in used]
    return text + "\n\nWhy these stages of the bound are wide:\n\n" + _table(("stage", "why"), reasons)


def cells(row: Measured) -> tuple[str, ...]:
    """Name, elements, the four ratios, alarms, resolution, slack."""
    figures = []
    for result in RESULTS:
        figures += (
            [_figure(row.worst[result].ratio), _figure(row.typical[result])] if result in row.typical else ["", ""]
        )
    name = f"**{row.name}**<br>{row.arithmetic}"
    count = f"{row.elements} ({row.cases})"
    resolution = "" if row.resolution is None else f"{row.resolution:.1g}"
    return name, count, *figures, str(len(row.alarms)), resolution, slack(row)


def _figure(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _wide(row: Measured) -> dict[str, str]:
    """Result -> the stage with the greatest share of its bound, where the worst case is far below it."""
    return {result: greatest(one.stages) for result, one in row.worst.items() if one.stages and one.ratio * WIDE < 1}


def slack(row: Measured) -> str:
    """`out 14x: exponent 81 %`, for each result whose worst case is more than ten times below its bound."""
    wide = _wide(row)
    told = [f"{n} {1 / row.worst[n].ratio:.0f}x: {stage} {row.worst[n].stages[stage]:.0%}" for n, stage in wide.items()]
    return "; ".join(told)
