"""Three times the load: who is served is served in time, who is refused is told when to come again, nobody hangs.

The strict figures are measured by `python -m tests.chaos.soak overload`; here are bounds that a busy machine keeps too.
"""

import pytest

from tests.chaos import overload, poison
from tests.chaos.clients import clients
from tests.chaos.server import check_restored, settled, started

SECONDS = 5.0


@pytest.fixture
def server(tmp_path):
    poison.write(tmp_path, "costly", "poisoned", milliseconds=overload.MILLISECONDS)
    with started(tmp_path, **overload.SETTINGS) as server:
        yield server


async def test_three_times_the_load(server):
    async with clients(server.url, keep=True) as some:
        await overload.capacity(some, 0.5)
        before = settled(server)
        report = await overload.measure(server, some, seconds=SECONDS, back=0.1)
    told = "\n".join(report.lines())
    print(told)
    outcomes = report.first + report.back
    allowed = {"answered 200", "refused 429 overloaded", "refused 504 deadline_exceeded"}
    assert {str(outcome) for outcome in outcomes} <= allowed, told
    refused = [outcome for outcome in outcomes if outcome.status == 429]
    assert refused, told
    for outcome in refused:
        assert int(outcome.headers["retry-after"]) >= outcome.retry_after > 0
    assert report.goodput > 0.6, told
    assert overload.percentile([o.seconds for o in report.of("answered")], 0.99) < overload.DEADLINE * 1.5, told
    assert len(report.of("refused", 504)) < len(report.of("answered")), told
    check_restored(server, before)
