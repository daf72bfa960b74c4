"""Pictures as JSON and text as a stream, with httpx. GENSERVE_URL names another server."""

import base64
import json
import os
from pathlib import Path

import httpx

URL = os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000")

with httpx.Client(base_url=URL, timeout=60) as client:
    answer = client.post(
        "/v1/images/generate", json={"n": 3, "seed": 1, "label": "Sneaker"}, headers={"Accept": "application/json"}
    ).raise_for_status()
    for image in answer.json()["images"]:
        Path(f"sneaker-{image['seed']}.png").write_bytes(base64.b64decode(image["base64"]))
    print("made by", answer.headers["x-genserve-model"], "on", answer.headers["x-genserve-runtime"])

    refusal = client.post("/v1/images/generate", json={"label": "Spaceship"})
    print(refusal.status_code, refusal.json()["detail"])

    body = {"prompt": "ROMEO.\n", "max_tokens": 40, "temperature": 0.8, "seed": 3, "stop": "\n\n", "stream": True}
    with client.stream("POST", "/v1/text/complete", json=body) as stream:
        stream.raise_for_status()
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                print(json.loads(line.removeprefix("data: "))["text"], end="", flush=True)
    print()
