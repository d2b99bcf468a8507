"""index.py REQUESTS IDS OUT: finds out where every request is, then copies those that are named in IDS, one a line."""
import json
import sys

requests, ids, out_path = sys.argv[1:]
places, offset = {}, 0
with open(requests, "rb") as lines:
    for line in lines:
        places[json.loads(line)["custom_id"]] = offset, len(line)
        offset += len(line)
    with open(ids) as wanted, open(out_path, "wb") as out:
        for name in wanted:
            offset, length = places[name.rstrip("\n")]
            lines.seek(offset)
            out.write(lines.read(length))
