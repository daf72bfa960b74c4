"""Makes the README's picture rows from a running server: one picture a class. GENSERVE_URL names another server."""

import io
import os

import httpx
from PIL import Image

URL = os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000")
MODELS = ("fashion-gan", "fashion-vae")
SCALE, GAP = 3, 6

with httpx.Client(base_url=URL, timeout=60) as client:
    rows = []
    for model in MODELS:
        labels = client.get(f"/v1/models/{model}").raise_for_status().json()["genserve"]["labels"]
        asked = [{"model": model, "seed": label, "label": label, "scale": SCALE} for label in range(len(labels))]
        files = [client.post("/v1/images/generate", json=body).raise_for_status().content for body in asked]
        rows.append([Image.open(io.BytesIO(file)) for file in files])
width, height = (size + GAP for size in rows[0][0].size)
sheet = Image.new("L", (width * len(rows[0]) - GAP, height * len(rows) - GAP), 255)
for y, row in enumerate(rows):
    for x, picture in enumerate(row):
        sheet.paste(picture, (x * width, y * height))
sheet.save("pictures.png", optimize=True)
