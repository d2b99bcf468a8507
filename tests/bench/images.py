"""images.py IMAGES PREFIX: a request for every image, in files PREFIX1.jsonl, PREFIX2.jsonl, ... of at most 200 MB."""
import base64
import json
import os
import sys

images, prefix = sys.argv[1:]
paths = sorted(os.path.join(folder, name) for folder, _, names in os.walk(images) for name in names
               if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp", ".gif")))
part, size, count, out = 0, 0, 0, None
for path in paths:
    with open(path, "rb") as file:
        url = "data:image/jpeg;base64," + base64.b64encode(file.read()).decode()
    line = json.dumps({
        "custom_id": path, "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "Transcribe the page.\nAnswer with \"strict\" JSON – nothing else."},
            {"type": "image_url", "image_url": {"url": url}}]}]},
    }, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    if out is None or count == 50000 or size + len(line) > 200000000:
        if out:
            out.close()
        part, size, count = part + 1, 0, 0
        out = open(f"{prefix}{part}.jsonl", "wb")
    out.write(line)
    size, count = size + len(line), count + 1
