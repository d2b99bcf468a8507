"""walk.py FOLDER OUT: the paths of all .jpg and .png files below a folder."""
import os
import sys

top, out_path = sys.argv[1:]
with open(out_path, "w", encoding="utf-8", errors="surrogateescape") as out:
    for folder, _, names in os.walk(top):
        for name in names:
            if name.lower().endswith((".jpg", ".png")):
                out.write(os.path.join(folder, name) + "\n")
