"""Fixtures that more than one file needs; what they start, they end."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import hypothesis
import openai
import pytest
import torch

import tests.fake_sequences as fake_sequences
import tests.fakes as fakes
from app.main import create_app
from app.settings import Settings
from app.worker.thread import WorkerThread
from tests.serving import serving

# Examples are the same on every machine, and a busy machine fails no test.
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

# Threads that wait for each other at barriers crawl when the machine is busy with something else.
torch.set_num_threads(1)

COMMITTED = Path(__file__).parents[1] / "weights"


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch):
    """The developer's own GENSERVE_ variables must not decide a test."""
    for name in [name for name in os.environ if name.startswith("GENSERVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """While this file exists, a latent that starts with `fakes.GATE` holds the device."""
    path = tmp_path / "gate"
    path.touch()
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def weights(tmp_path: Path, gate: Path) -> Path:
    """A folder with one fake model, "echo"."""
    folder = tmp_path / "weights"
    fakes.write(folder, "echo", gate=str(gate))
    return folder


@pytest.fixture
def settings(weights: Path) -> Callable[..., Settings]:
    """Settings for the fake models; keyword arguments override."""

    def make(**fields) -> Settings:
        fixed = {"models_module": "tests.fakes", "device": "cpu", "dtype": "fp32", "threads": 1}
        return Settings(**{"weights": weights, **fixed, **fields})

    return make


@contextlib.asynccontextmanager
async def running(settings: Settings, *, launch=WorkerThread, wait: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    """The application with its lifespan, its worker in a thread; `client.app` is the application."""
    changed = asyncio.Event()
    app = create_app(settings, launch=launch, on_failure=changed.set)
    async with app.router.lifespan_context(app):
        app.state.engine.when_ready(changed.set)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://genserve", timeout=60) as client:
            client.app = app
            if wait:
                await asyncio.wait_for(changed.wait(), 60)
                assert app.state.engine.failure is None, app.state.engine.failure
            yield client


@contextlib.asynccontextmanager
async def stock_client(client: httpx.AsyncClient) -> AsyncIterator[openai.AsyncOpenAI]:
    """The stock asynchronous client of OpenAI, its connection replaced by the application of another."""
    http = httpx.AsyncClient(transport=httpx.ASGITransport(client.app))
    async with openai.AsyncOpenAI(base_url="http://genserve/v1", api_key="none", http_client=http, max_retries=0) as ai:
        yield ai


@pytest.fixture
async def client(settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application with the fake models, in this process."""
    async with running(settings()) as client:
        yield client


@pytest.fixture
def serve():
    """`serve(*flags, env=, until=)`: a real server process, ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *flags, **options: stack.enter_context(serving(*flags, **options))


@pytest.fixture
def text_weights(tmp_path: Path, gate: Path) -> Path:
    """A folder with the fake text models "counting", "digest" and "parrot" (which echoes), and the pictures' "echo"."""
    folder = tmp_path / "text-weights"
    for name, architecture in {"counting": "counting", "digest": "digest", "parrot": "echo-text"}.items():
        fake_sequences.write(folder, name, architecture, gate=str(gate))
    fakes.write(folder, "echo", gate=str(gate))
    return folder


@pytest.fixture
def text_settings(text_weights: Path) -> Callable[..., Settings]:
    """Settings for the fake text models, 4 slots each; keyword arguments override."""
    fixed = {"weights": text_weights, "models_module": "tests.fake_sequences", "device": "cpu", "max_slots": 4}
    return lambda **fields: Settings(**{**fixed, **fields})


@pytest.fixture
async def text_client(text_settings) -> AsyncIterator[httpx.AsyncClient]:
    """The application with the fake text models, in this process."""
    async with running(text_settings()) as client:
        yield client
