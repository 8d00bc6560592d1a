"""A failure leads to the bug: planted in the README's adapter, one at a time, each is named by what is pasted."""

import re
from pathlib import Path

import pytest

from kvconform.tests.planted import PLANTED, failure, page

PAGE = Path(__file__).resolve().parent.parent / "docs" / "failures.md"


@pytest.mark.parametrize("name", PLANTED)
def test_the_message_alone_leads_to_the_bug(name, tmp_path):
    assert PLANTED[name].names in failure(name, tmp_path)


def test_the_page_of_failures_is_what_the_failures_say():
    def steady(text):
        return re.sub(r"got [^,]+,", "got #,", text)  # the last bits of a wrong number are the machine's

    assert steady(PAGE.read_text()) == steady(page()), "python tests/planted.py > docs/failures.md"
