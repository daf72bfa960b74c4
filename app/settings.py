"""Settings of the service: built once in `create_app`, never at import.

Every field can be given as an environment variable with the prefix `GENSERVE_`, or as a flag of `genserve serve`.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import dtypes

MAX_UPLOAD_PIXELS = 1 << 24
DEVICE_PATTERN = r"^(auto|cpu|cuda(:\d+)?)(,(auto|cpu|cuda(:\d+)?))*$"


class Settings(BaseSettings):
    """What an operator may decide; the defaults serve the weights of the repository on 127.0.0.1:8000."""

    model_config = SettingsConfigDict(env_prefix="GENSERVE_", extra="forbid", frozen=True, protected_namespaces=())

    host: str = Field("127.0.0.1", description="address to bind")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 picks a free one")
    weights: Path = Field(Path("weights"), description="folder of weights folders")
    models: Annotated[tuple[str, ...], NoDecode] = Field((), description="names to serve, comma-separated; empty: all")
    models_module: str | None = Field(None, description="importable module that adds its classes to the model dicts")
    broken_models: Literal["stop", "skip"] = Field(
        "stop", description="what to do about a weights folder that can't be loaded"
    )
    device: str = Field("auto", pattern=DEVICE_PATTERN, description="auto, cpu, cuda or cuda:i; several with commas")
    dtype: str = Field(
        "auto",
        description="precision: fp32, bf16, of text models int8 and int4 too; auto: bf16 where the CPU has it, else "
        "fp32; with commas, one for all and NAME=PRECISION for some",
    )
    threads: int = Field(0, ge=0, le=1024, description="compute threads of each CPU worker; 0: cores / workers")
    memory_limit: int = Field(0, ge=0, description="bytes that all models of a worker may take; 0: what is free")
    max_batch: int = Field(64, ge=1, le=1024, description="largest batch of pictures")
    max_slots: int = Field(32, ge=1, le=1024, description="sequences that a text model runs at once")
    max_queue: int = Field(
        4096, ge=64, le=1_000_000, description="pictures and sequences in flight at once, for each worker"
    )
    max_body: int = Field(1 << 20, ge=1 << 10, le=1 << 28, description="largest request body, bytes")
    max_header: int = Field(1 << 15, ge=1 << 10, le=1 << 20, description="largest head of a request, bytes")
    max_pixels: int = Field(1 << 24, ge=1 << 10, description="largest answer, pixels over all its pictures")
    max_audio_seconds: float = Field(60.0, gt=0, le=3600, description="longest speech, seconds of sound")
    max_upload_pixels: int = Field(
        MAX_UPLOAD_PIXELS, ge=1 << 10, le=1 << 26, description="largest uploaded picture, pixels"
    )
    max_connections: int = Field(8192, ge=1, le=1_000_000, description="connections at once; further ones are closed")
    request_timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="seconds for an answer, or for the first token of a stream, without X-Request-Timeout",
    )
    read_timeout: float = Field(30.0, gt=0, le=3600, description="seconds in which a request's head and body must come")
    write_timeout: float = Field(30.0, gt=0, le=3600, description="seconds for which a client may take nothing")
    watchdog: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="seconds after which a batch that is not done, or a silent worker, counts as hung",
    )
    max_restarts: int = Field(5, ge=0, le=1000, description="crashes of a worker in a row before the service gives up")
    ping_seconds: float = Field(10.0, gt=0, le=3600, description="silence after which a stream sends a comment")
    drain_seconds: float = Field(20.0, ge=0, le=3600, description="time to answer what was admitted after SIGTERM")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line to log")

    @field_validator("models", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("dtype")
    @classmethod
    def _readable(cls, value: str) -> str:
        dtypes.parse(value)
        return value

    @property
    def devices(self) -> tuple[str, ...]:
        """One entry a worker."""
        return tuple(self.device.split(","))
