"""Everything that can go wrong, with the HTTP status and the stable code that clients see.

GenserveError
├── RequestError                the request is at fault
│   ├── InvalidJSON             400 invalid_json
│   ├── InvalidField            400 invalid_field      (names the field)
│   ├── UnknownField            400 unknown_field      (names the field)
│   ├── InvalidPicture          400 invalid_picture    (truncated, broken)
│   ├── ModelNotFound           404 model_not_found    (field "model")
│   ├── NotAcceptable           406 not_acceptable
│   ├── BodyTooLarge            413 body_too_large
│   ├── PictureTooLarge         413 picture_too_large  (in pixels)
│   └── UnsupportedMediaType    415 unsupported_media_type
├── Overloaded                  429 overloaded         (Retry-After)
├── ComputeFailed               500 compute_failed     (this request's own computation failed)
├── KillsWorker                 500 kills_worker       (computing this request, alone, ended the worker)
├── DeadlineExceeded            504 deadline_exceeded  (not done in the time that the request had)
└── Unavailable                 503                    (Retry-After)
    ├── NotReady                503 not_ready          (loading)
    ├── Draining                503 draining           (shutting down)
    └── WorkerDied              503 worker_died        (the device worker ended while the request ran)
"""

from typing import ClassVar


class GenserveError(Exception):
    """Base of all errors with an HTTP face.

    Attributes:
        status: HTTP status.
        code: stable machine-readable code.
        title: the same for every occurrence of the code.
        detail: what happened this time.
        field: the request field at fault, if one is.
        retry_after: seconds after which trying again makes sense, if it does.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after = retry_after


class RequestError(GenserveError):
    """The request is at fault; sending it again unchanged can't succeed."""

    status, code, title = 400, "bad_request", "Bad request"


class InvalidJSON(RequestError):
    """The body is not JSON, or nests too deep."""

    code, title = "invalid_json", "The body is not valid JSON"


class InvalidField(RequestError):
    """A field's value is out of range, of the wrong type, or contradicts another field."""

    code, title = "invalid_field", "A field of the request is invalid"


class UnknownField(RequestError):
    """A field that this route does not know; nothing is silently ignored."""

    code, title = "unknown_field", "The request holds an unknown field"


class InvalidPicture(RequestError):
    """An uploaded picture is truncated, broken, or not what its beginning says."""

    code, title = "invalid_picture", "The picture can't be read"


class ModelNotFound(RequestError):
    """No model of that name and kind is served."""

    status, code, title = 404, "model_not_found", "No such model"


class NotAcceptable(RequestError):
    """None of the media types in Accept can be produced."""

    status, code, title = 406, "not_acceptable", "No acceptable media type"


class BodyTooLarge(RequestError):
    """The body is larger than the operator allows."""

    status, code, title = 413, "body_too_large", "The body is too large"


class PictureTooLarge(RequestError):
    """An uploaded picture has more pixels than the operator allows; it was not decoded."""

    status, code, title = 413, "picture_too_large", "The picture is too large"


class UnsupportedMediaType(RequestError):
    """The body, or a picture in it, is not declared as or not of a kind that this route reads."""

    status, code, title = 415, "unsupported_media_type", "The body's media type is not supported"


class Overloaded(GenserveError):
    """The queue is full, or the wait would be longer than the request has; nothing was queued."""

    status, code, title = 429, "overloaded", "Too much is waiting"


class ComputeFailed(GenserveError):
    """The network failed on this very request; its batch-mates are unaffected."""

    code, title = "compute_failed", "The model failed on this request"


class KillsWorker(GenserveError):
    """Computing this request, alone, ended the device worker; the same request is refused for a while."""

    code, title = "kills_worker", "The request ends the worker that computes it"


class DeadlineExceeded(GenserveError):
    """The answer, or a stream's first token, was not there in time; what was not computed yet was dropped."""

    status, code, title = 504, "deadline_exceeded", "The deadline has passed"


class Unavailable(GenserveError):
    """The service can't take work now."""

    status, code, title = 503, "unavailable", "The service is unavailable"


class NotReady(Unavailable):
    """Models are still being loaded."""

    code, title = "not_ready", "The models are being loaded"


class Draining(Unavailable):
    """The service is shutting down; work admitted before is being finished."""

    code, title = "draining", "The service is shutting down"


class WorkerDied(Unavailable):
    """The device worker ended while it held the request."""

    code, title = "worker_died", "The device worker ended"
