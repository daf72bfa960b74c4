"""Metrics are there, well named, and count what happened."""

import asyncio
import re

from prometheus_client.parser import text_string_to_metric_families

from tests import fakes
from tests.serving import eventually, metric

UNITS = ("_seconds", "_bytes", "_total", "_info", "_ready", "_depth", "_size")


async def scrape(client):
    response = await client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    return response.text


async def test_names_and_labels(client):
    """`genserve_`, base units, and labels that can't grow with traffic."""
    await client.post("/v1/images/generate", json={})
    families = list(text_string_to_metric_families(await scrape(client)))
    assert len(families) >= 13
    for family in families:
        name = family.name + ("_total" if family.type == "counter" else "")
        assert re.fullmatch(r"genserve_[a-z_]+", name) or name.startswith(("python_", "process_"))
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert set(sample.labels) <= {
                "route",
                "model",
                "code",
                "reason",
                "le",
                "architecture",
                "digest",
                "kind",
                "worker",
            }


async def test_what_happened_is_counted(client):
    await client.post("/v1/images/generate", json={"n": 5})
    await client.post("/v1/images/generate", json={"n": 1})
    text = await scrape(client)
    assert metric(text, "genserve_images_total", model="echo") == 6
    assert metric(text, "genserve_batch_size_sum") == 6
    assert metric(text, "genserve_batch_size_count") == 2
    assert metric(text, "genserve_padding_rows_total") == 3, "5 rows in a batch of 8, 1 in a batch of 1"
    assert metric(text, "genserve_queue_duration_seconds_count") == 2
    assert metric(text, "genserve_compute_duration_seconds_count") == 2
    assert metric(text, "genserve_encode_duration_seconds_count") == 2
    assert metric(text, "genserve_request_duration_seconds_count", route="/v1/images/generate") == 2
    assert metric(text, "genserve_model_ready", model="echo") == 1
    assert metric(text, "genserve_model_info", architecture="echo") == 1
    assert metric(text, "genserve_model_memory_bytes") == 2 * 16, "prepared, and as it is for gradients"
    assert metric(text, "genserve_queue_depth") == 0


async def test_queue_depth_shows_what_waits(client, gate):
    request = asyncio.ensure_future(client.post("/v1/images/generate", json={"latents": [[fakes.GATE, 0, 0, 0]] * 3}))
    await eventually(lambda: fakes.held(gate).exists())
    assert metric(await scrape(client), "genserve_queue_depth", model="echo") == 3
    gate.unlink()
    assert (await request).status_code == 200
