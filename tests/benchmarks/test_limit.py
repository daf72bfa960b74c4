import pytest

from benchmarks.limit import Limit


def test_the_limit_is_cores_over_the_sum_of_the_parts():
    limit = Limit(cores=2, request=100e-6, model=80e-6, png=20e-6, client=50e-6, batch=32)
    assert limit.throughput == pytest.approx(10_000)
    assert limit.beside_client == pytest.approx(8_000)
    assert limit.as_json()["throughput"] == limit.throughput
