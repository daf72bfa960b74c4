#!/bin/sh
# Pictures, speech and text with curl; files go to the current folder. GENSERVE_URL names another server.
set -eu
url=${GENSERVE_URL:-http://127.0.0.1:8000}
json='Content-Type: application/json'

# Four bags on one sheet, each enlarged four times; the same seed gives the same bytes every time.
curl -sS --fail-with-body "$url/v1/images/generate" -H "$json" \
    -d '{"n": 4, "seed": 7, "label": "Bag", "scale": 4}' -o bags.png

# A walk between two seeds, one file a step.
curl -sS --fail-with-body "$url/v1/images/generate" -H "$json" -H 'Accept: application/zip' \
    -d '{"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 8}, "label": "Sneaker"}' -o walk.zip

# The same there and back again, as one moving picture.
curl -sS --fail-with-body "$url/v1/images/generate" -H "$json" -o walk.webp \
    -d '{"interpolate": {"from_seed": 1, "to_seed": 2, "steps": 8}, "label": "Sneaker", "scale": 4, "format": "webp-animation", "loop": "boomerang"}'

# What a caption says, and a voice that says something.
curl -sS --fail-with-body "$url/v1/images/generate" -H "$json" \
    -d '{"prompt": "a small red dog on a blue background", "seed": 7, "scale": 4}' -o dog.png
curl -sS --fail-with-body "$url/v1/audio/generate" -H "$json" \
    -d '{"prompt": "good morning", "seed": 7}' -o morning.wav

# Text in one piece, then as it is made.
curl -sS --fail-with-body "$url/v1/text/complete" -H "$json" \
    -d '{"prompt": "HAMLET.\n", "max_tokens": 40, "temperature": 0.8, "seed": 7}'
echo
curl -sS --fail-with-body -N "$url/v1/text/complete" -H "$json" \
    -d '{"prompt": "HAMLET.\n", "max_tokens": 40, "temperature": 0.8, "seed": 7, "stream": true}'
