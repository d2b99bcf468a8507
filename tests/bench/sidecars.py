"""sidecars.py RESULTS FOLDER: the text of every answer to FOLDER/<custom_id>.txt."""
import json
import os
import sys

results, top = sys.argv[1:]
made = set()
with open(results, "rb") as lines:
    for line in lines:
        try:
            result = json.loads(line)
            text = result["response"]["body"]["choices"][0]["message"]["content"]
        except (ValueError, KeyError):
            continue
        if text is None:
            continue
        path = os.path.join(top, result["custom_id"] + ".txt")
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        with open(path, "w", encoding="utf-8", newline="") as out:
            out.write(text)
