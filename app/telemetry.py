"""The one catalogue of metrics.

One registry an application, so that several can live in one process (tests); one process exposes it.
"""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.engine.jobs import ENCODER, INPAINTER, SAMPLER

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class PictureMeters:
    """The series of one picture model: looking them up by label at every request costs more than counting."""

    def __init__(self, telemetry: "Telemetry", model: str) -> None:
        self.queue = telemetry.queue.labels(model)
        self.compute = telemetry.compute.labels(model)
        self.encode = telemetry.encode.labels(model)
        self.batch_size = telemetry.batch_size.labels(model)
        self.padding = telemetry.padding.labels(model)
        self.images = _made(telemetry, model)


def _made(telemetry: "Telemetry", model: str) -> Counter:
    """Where the good rows of a model are counted, or those of its encoder, or of what improves its latents."""
    if model.endswith(ENCODER):
        return telemetry.encoded.labels(model.removesuffix(ENCODER))
    for way in (SAMPLER, INPAINTER):
        if model.endswith(way):
            return telemetry.refined.labels(model.removesuffix(way), way.removeprefix("/"))
    return telemetry.images.labels(model)


class Telemetry:
    """All metrics of one application; attribute names are the metric names without the prefix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"genserve_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"genserve_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"genserve_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter("requests_total", "Answered requests.", "route", "model", "code")
        self.request_duration = histogram("request_duration_seconds", "From first byte to last.", "route")
        self.queue = histogram("queue_duration_seconds", "From arrival at the worker to compute.", "model")
        self.compute = histogram("compute_duration_seconds", "Compute of one batch.", "model")
        self.encode = histogram("encode_duration_seconds", "Pictures to bytes, one request.", "model")
        self.batch_size = histogram("batch_size", "Rows of a batch, padding left out.", "model", buckets=BATCH)
        self.padding = counter("padding_rows_total", "Rows computed only to fill a bucket.", "model")
        self.tokens = counter("tokens_total", "Tokens read (prompt) and generated (completion).", "model", "kind")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "Submission to first token.", "model")
        self.inter_token = histogram("inter_token_latency_seconds", "Between tokens of a sequence.", "model")
        self.slots_busy = gauge("slots_busy", "Slots of a sequence model in use.", "model")
        self.images = counter("images_total", "Pictures generated.", "model")
        self.audio_seconds = counter("audio_seconds_total", "Seconds of sound generated.", "model")
        self.encoded = counter("encoded_total", "Pictures turned into latents.", "model")
        self.refined = counter("refined_total", "Latents improved by gradients.", "model", "way")
        self.read = histogram("read_duration_seconds", "An uploaded file to the pixels that a model takes.", "model")
        self.queue_depth = gauge("queue_depth", "Rows waiting or being computed.", "model")
        self.queue_seconds = gauge(
            "queue_seconds", "Predicted seconds until the pictures in flight are done.", "worker"
        )
        self.rejected = counter("rejected_total", "Requests refused before compute.", "reason")
        self.expired = counter("expired_total", "Requests not done in the time that they had.", "model")
        self.worker_restarts = counter("worker_restarts_total", "Workers that ended or were ended.", "worker")
        self.batch_limit = gauge("batch_limit", "Largest batch since one ran out of memory.", "model")
        self.cancelled = counter("cancelled_total", "Requests whose client left before the answer.", "model")
        self.model_ready = gauge("model_ready", "1 while the model is served.", "model")
        self.model_info = gauge("model_info", "Always 1.", "model", "architecture", "digest")
        self.model_memory = gauge("model_memory_bytes", "Parameters and buffers on the device.", "model")

        # What every request asks for: its label values are few, being routes, models that are served, and statuses.
        self.pictures = functools.cache(functools.partial(PictureMeters, self))
        self.depth = functools.cache(self.queue_depth.labels)
        self.answers = functools.cache(self.requests.labels)
        self.durations = functools.cache(self.request_duration.labels)
