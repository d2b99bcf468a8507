"""A server that answers as it was told, for api_server.lua. Prints its port and serves until GET
/quit, or until its parent is gone.

POST /script {"METHOD /target": [reply, ...]} replaces the script and forgets what was seen; GET /seen
tells what has been asked since, as JSON. Each request takes the next reply of its own list. A reply
is {"status", "headers", "body"}, or one that goes wrong: "drop" closes the connection unanswered,
"cut" sends that many bytes of the body it promised. "stays" keeps it for all further requests, and
"gate" holds it back until that many requests wait at gates. What is not in the script is answered
with 418.
"""
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

state = threading.Condition()
script, seen = {}, []
waiting, released, in_flight = 0, 0, 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    connections = 0

    def setup(self):
        super().setup()
        with state:
            Handler.connections += 1
            self.connection_number = Handler.connections

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=(), cut=None):
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in dict(headers).items()) + "\r\n"
        self.wfile.write(head.encode() + body[:cut])
        self.close_connection = self.close_connection or cut is not None

    def handle_one(self):
        global in_flight, script, seen
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/quit":
            self.answer(200, b"")
            os._exit(0)
        with state:
            if self.path == "/script":
                script, seen = json.loads(body), []
                return self.answer(200, b"")
            if self.path == "/seen":
                return self.answer(200, json.dumps(seen).encode())
            in_flight += 1
            seen.append({"method": self.command, "target": self.path, "body": body.decode("latin-1"),
                         "headers": {k.lower(): v for k, v in self.headers.items()},
                         "connection": self.connection_number, "in_flight": in_flight})
            replies = script.get(self.command + " " + self.path)
            if not replies:
                reply = {"status": 418, "body": "not in the script"}
            else:
                reply = replies[0] if replies[0].get("stays") else replies.pop(0)
            if "gate" in reply:
                self.wait_at_gate(reply["gate"])
            in_flight -= 1
        if reply.get("drop"):
            self.close_connection = True
        else:
            self.answer(reply.get("status", 200), reply.get("body", "").encode(), reply.get("headers") or {},
                        reply.get("cut"))

    def wait_at_gate(self, count):
        global waiting, released
        waiting += 1
        if waiting == count:
            waiting, released = 0, released + 1
            state.notify_all()
        else:
            turn = released
            state.wait_for(lambda: released > turn, timeout=20)

    do_GET = do_POST = do_DELETE = handle_one


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        pass  # a client that leaves is none


server = Server(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.2)
sys.exit(0)
