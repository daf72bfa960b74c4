"""The same with the stock openai client. GENSERVE_URL names another server."""

import base64
import os
from pathlib import Path

from openai import OpenAI

url = os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000")

with OpenAI(base_url=f"{url}/v1", api_key="not needed") as client:
    print([model.id for model in client.models.list()])

    images = client.images.generate(model="fashion-gan", prompt="Ankle boot", n=2, extra_body={"seed": 5})
    for index, image in enumerate(images.data or []):
        Path(f"boot-{index}.png").write_bytes(base64.b64decode(image.b64_json or ""))

    drawn = client.images.generate(prompt="a large yellow cat on a green background", extra_body={"seed": 5})
    for image in drawn.data or []:
        Path("cat.png").write_bytes(base64.b64decode(image.b64_json or ""))

    speech = client.audio.speech.create(model="voice-wavenet", voice="default", input="good morning")
    speech.write_to_file("morning.wav")

    text = client.completions.create(
        model="shakespeare-gpt", prompt="JULIET.\n", max_tokens=40, temperature=0.8, seed=5
    )
    print(text.choices[0].text)

    for event in client.completions.create(
        model="shakespeare-gpt", prompt="JULIET.\n", max_tokens=40, temperature=0.8, seed=5, stream=True
    ):
        print(event.choices[0].text, end="", flush=True)
    print()
