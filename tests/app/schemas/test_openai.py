"""What may be asked of a picture in OpenAI's shape."""

import pytest
from pydantic import ValidationError

from app.schemas.openai import OpenAIImageRequest


@pytest.mark.parametrize(
    ("field", "neutral", "other"),
    [
        ("response_format", "b64_json", "url"),
        ("output_format", "png", "jpeg"),
        ("quality", "auto", "hd"),
        ("background", "auto", "transparent"),
        ("moderation", "auto", "low"),
        ("stream", False, True),
        ("partial_images", 0, 2),
        ("output_compression", 100, 50),
    ],
)
def test_openai_fields_only_at_their_neutral_value(field, neutral, other):
    """What would change the picture and can't is refused, not ignored."""
    OpenAIImageRequest.model_validate({field: neutral})
    OpenAIImageRequest.model_validate({field: None})
    with pytest.raises(ValidationError):
        OpenAIImageRequest.model_validate({field: other})
