"""transfer.py upload FILE | download OUT, by Python's own http.client: a form with a file, and a file back."""
import http.client
import json
import os
import shutil
import sys
import urllib.parse

BLOCK = 1 << 18
what, path = sys.argv[1:]
url = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"])
server = http.client.HTTPConnection(url.hostname, url.port, blocksize=BLOCK)
if what == "download":
    server.request("GET", url.path + "/files/file-1/content")
    with open(path, "wb") as out:
        shutil.copyfileobj(server.getresponse(), out, BLOCK)
else:
    before = ('--cut\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--cut\r\nContent-Disposition: '
              'form-data; name="file"; filename="up.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n').encode()
    after = b"\r\n--cut--\r\n"

    def body():
        yield before
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                yield block
        yield after

    server.request("POST", url.path + "/files", body(), {
        "Content-Type": "multipart/form-data; boundary=cut",
        "Content-Length": str(len(before) + os.path.getsize(path) + len(after))})
    json.load(server.getresponse())["id"]
