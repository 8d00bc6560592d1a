"""The same figures for an implementation behind an adapter: paged decode on the Cases that its laws draw."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kvconform.numerics.measured import RESULTS, Tally
from kvconform.numerics.ratios import ratio, used
from kvconform.numerics.slack import stages_of
from kvconform.oracles import decode, evidence, keys, paged
from kvconform.oracles.decode import DecodeReading
from kvconform.oracles.verdict import Interval, require
from kvconform.specs.case import Case
from kvconform.specs.dtypes import FORMATS
from kvconform.specs.inputs import inputs
from kvconform.specs.paged import PagedInputs
from kvconform.specs.profile import Profile
from kvconform.suites.calls import attending
from kvconform.suites.law import Check, Subject


def measuring(tally: Tally) -> Check:
    """A law's check: the verdict that `decode_is_within_the_bound` gives, and the case booked where it holds."""

    def check(subject: Subject, case: Case) -> None:
        x = inputs(case)
        assert isinstance(x, PagedInputs)
        cache = paged.filled(x, case.dead)
        got = subject.call(case, "paged_decode", **attending(x, cache, subject.conventions))
        profile = decode.rounding(subject.profile(case.result_dtype), case.result_dtype, splits=case.num_splits)
        right = DecodeReading.right(x, subject.conventions)
        kv = keys.of_all(x, cache, right)

        def bounds(profile: Profile) -> dict[str, Interval]:
            return {name: one for name, one in decode.required(x, cache, profile, right, kv=kv).items() if name in got}

        want = bounds(profile)
        require(got, want)

        def stages(result: str) -> Mapping[str, float]:
            one = want[result]
            worst = int(np.argmax(used(got[result], one.want, one.error, one.format)))
            half_ulp = float(FORMATS[one.format].unit * np.abs(one.want.flat[worst]))
            return stages_of(profile, lambda other: float(bounds(other)[result].error.flat[worst]), half_ulp)

        ratios = {name: ratio(got[name], one.want, one.error, one.format) for name, one in want.items()}
        steps = evidence.visible_weight(kv, want, right)
        tally.saw(str(case), got[RESULTS[0]].size, ratios, True, stages, steps)

    return check
