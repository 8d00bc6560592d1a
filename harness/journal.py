"""Append-only lines in a file of our own: what a child process has seen, readable after it died.

A kernel may print what it likes and exit how it likes; only this file is believed. Kinds of lines:

    plan     {"impl", "backend", "conventions", "whole_cells", "attested", "steers_imports", "cells": {key: Booked}}
    case     {"key", "case"}                                              before each call
    named    {"mistake"}                                                  before a mistake is tried on a violation
    found    {"cell": Booked}                                             a red cell, before it is diagnosed by calls
    booked   {"cell": Booked, "attested": {...}}                          a cell is closed
    error    {"code", "message", "trace"}                                 the adapter cannot be used
    done     {"seen": {what: moments}}                                    every planned item was run
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

ENV_PATH = "KVCONFORM_JOURNAL"
ENV_CLOSED = "KVCONFORM_CLOSED"


class Journal:
    """Writes lines; a journal without a path swallows them."""

    def __init__(self, path: str | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if path else None

    def write(self, kind: str, **row: Any) -> None:
        """One line, in one system call: a reader never sees half of it interleaved with another."""
        if self._file is not None:
            os.write(self._file, (json.dumps({"kind": kind, **row}) + "\n").encode())


def read(path: Path, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole lines behind `offset`, and where they end."""
    with path.open("rb") as f:
        f.seek(offset)
        data = f.read()
    data = data[: data.rfind(b"\n") + 1]
    return [json.loads(line) for line in data.splitlines()], offset + len(data)
