"""Makes the README's picture rows from a running server: seeds 0 to 15 of every model of seeds, a row a model.

GENSERVE_URL names another server.
"""

import io
import os

import httpx
from PIL import Image

URL = os.environ.get("GENSERVE_URL", "http://127.0.0.1:8000")
SEEDS, SCALE, GAP = range(16), 2, 4

with httpx.Client(base_url=URL, timeout=60) as client:
    models = client.get("/v1/models").raise_for_status().json()["data"]
    rows = []
    cards = {model["id"]: model["genserve"] for model in models}
    for name in [name for name, card in cards.items() if card["kind"] == "latent" and "codes" not in card]:
        asked = [{"model": name, "seed": seed, "scale": SCALE} for seed in SEEDS]
        files = [client.post("/v1/images/generate", json=body).raise_for_status().content for body in asked]
        rows.append([Image.open(io.BytesIO(file)) for file in files])
        print(name)
width, height = (size + GAP for size in rows[0][0].size)
sheet = Image.new("L", (width * len(SEEDS) - GAP, height * len(rows) - GAP), 255)
for y, row in enumerate(rows):
    for x, picture in enumerate(row):
        sheet.paste(picture, (x * width, y * height))
sheet.save("pictures.png", optimize=True)
