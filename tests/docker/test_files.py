"""What can be said of the container files without an engine; `make lint` checks their syntax and their manners."""

import shutil
import subprocess

import pytest
import yaml

from app.engine.supervisor import STOP_SECONDS
from app.server import ANSWER_SECONDS
from tests.serving import ROOT

PROMETHEUS = ROOT / "deploy/prometheus/prometheus.yml"


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


def test_the_grace_period_outlasts_the_drain(services):
    """The worker may take its time twice: to end by itself, and when it is killed."""
    drain = float(services["genserve"]["environment"]["GENSERVE_DRAIN_SECONDS"])
    assert (
        float(services["genserve"]["stop_grace_period"].removesuffix("s")) > drain + ANSWER_SECONDS + 2 * STOP_SECONDS
    )


def test_ports_are_the_host_s_own(services):
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service["ports"])


def test_prometheus_looks_for_the_service(services):
    (job,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert services[name]["ports"][0].endswith(f":{port}")


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool (Debian's prometheus)")
def test_promtool_finds_no_fault():
    done = subprocess.run(["promtool", "check", "config", PROMETHEUS], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
