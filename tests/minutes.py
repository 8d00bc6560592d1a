"""What the minutes of CI buy: seconds of each test file, and of each implementation judged, in Markdown.

    python tests/minutes.py JUNIT.xml REPORT.json ...

Test files run side by side, so their seconds add up to more than the wall's; what one buys is what it says of itself.
"""

import ast
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from kvconform.harness.booking import UNTRIED

HERE = Path(__file__).resolve().parent


def claim(stem: str) -> str:
    """The first line of a test file's docstring."""
    text = ast.get_docstring(ast.parse((HERE / f"{stem}.py").read_text(encoding="utf-8"))) or stem
    return text.splitlines()[0]


def of_tests(junit: Path) -> list[tuple[str, ...]]:
    """Test file, tests, seconds, what it buys; slowest first."""
    seconds: Counter[str] = Counter()
    tests: Counter[str] = Counter()
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        stem = case.attrib["classname"].rpartition("tests.")[2].split(".")[0]
        seconds[stem] += float(case.attrib["time"])
        tests[stem] += 1
    return [(stem, str(tests[stem]), f"{spent:.0f}", claim(stem)) for stem, spent in seconds.most_common()]


def of_report(report: Path) -> list[tuple[str, ...]]:
    """Implementation, mode, cells, examples, compilations, seconds."""
    read = json.loads(report.read_text(encoding="utf-8"))
    rows = []
    for impl in read["impls"]:
        cells = [cell for cell in read["cells"] if cell["impl"] == impl["impl"] and cell["outcome"] not in UNTRIED]
        attested = impl["attested"]
        judged = (str(len(cells)), str(sum(cell["examples"] for cell in cells)))
        rows.append(
            (
                impl["impl"],
                attested.get("mode", ""),
                *judged,
                str(attested.get("compilations", "")),
                f"{impl['seconds']:.0f}",
            )
        )
    return rows


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows)) + "\n"


def main(junit: str, *reports: str) -> None:
    """Print one table of the tests and one a report."""
    rows = of_tests(Path(junit))
    print(table(("tests/", "tests", "seconds", "what they buy"), rows))
    for report in reports:
        name = Path(report).stem
        heads = (f"judged, {name}", "mode", "cells", "examples", "compilations", "seconds")
        print(table(heads, of_report(Path(report))))


if __name__ == "__main__":
    main(*sys.argv[1:])
