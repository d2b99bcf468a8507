"""A server that breaks HTTP in every way the http specs need. Usage: misbehave.py FOLDER

Prints one line of NAME=PORT pairs and serves until GET /quit, or until its parent is gone. Writes
good.pem (valid for localhost) and bundle.pem (every certificate used here) into FOLDER. The path
says what goes wrong; GET /log answers with all requests seen since the last /log, as JSON. A
request is logged before anything is done with it, so the log is complete when the client knows.
"""
import hashlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from urllib.parse import parse_qs, urlsplit

folder = sys.argv[1]
log, unread = [], 0  # requests; connections that have not sent their first one yet
log_changed = threading.Condition()
gates = {}  # "/deaf?gate=G" waits for "/wake?gate=G"
ports = {}


def certificate(name, alternative):
    path = os.path.join(folder, name)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=misbehave", "-addext", "subjectAltName=" + alternative,
         "-keyout", path + ".key", "-out", path + ".pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path + ".pem", path + ".key")
    return context


class Left(Exception):
    """The client closed the connection."""


class Connection:
    def __init__(self, sock, name, context):
        self.name, self.buffer, self.used_up = name, b"", False
        self.raw = socket.socket(fileno=os.dup(sock.fileno()))  # below TLS
        self.sock = context.wrap_socket(sock, server_side=True) if context else sock

    def fill(self):
        data = self.sock.recv(1 << 16)
        if not data:
            raise Left
        self.buffer += data

    def head(self):
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        first, *rest = head.decode("latin-1").split("\r\n")
        self.method, self.target, _ = first.split(" ", 2)
        self.headers = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
        self.left = int(self.headers.get("content-length", 0))
        self.entry = {"port": self.name, "method": self.method, "target": self.target,
                      "headers": self.headers, "size": 0}
        with log_changed:
            log.append(self.entry)

    def body(self, keep=False):
        digest, kept = hashlib.sha256(), []
        while self.left:
            if not self.buffer:
                self.fill()
            piece, self.buffer = self.buffer[:self.left], self.buffer[self.left:]
            self.left -= len(piece)
            self.entry["size"] += len(piece)
            digest.update(piece)
            if keep:
                kept.append(piece)
        self.entry["sha256"] = digest.hexdigest()
        return b"".join(kept)

    def send(self, text):
        self.sock.sendall(text if isinstance(text, bytes) else text.encode("latin-1"))

    def reply(self, body=b"hello", status="200 OK", headers="Content-Type: text/plain\r\n"):
        self.send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.raw.close()
        raise Left

    def stall(self):
        while True:
            self.fill()
            self.buffer = b""

    def answer(self):
        url = urlsplit(self.target)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        what = url.path.strip("/").split("/")[0].replace("-", "_")
        if self.name == "proxy":
            return self.proxy(url)
        if what == "deny":  # without waiting for the body
            self.reply(b"too large", "413 Payload Too Large", "Connection: close\r\n")
            self.sock.shutdown(socket.SHUT_WR)
            return self.stall()
        if what == "deaf":
            gates.setdefault(query.get("gate"), threading.Event()).wait()
        body = self.body(keep=what == "echo")
        if self.used_up:
            raise Left
        getattr(self, "do_" + what)(query, body)

    def do_ok(self, query, body):
        self.reply()

    def do_echo(self, query, body):
        self.reply(body)

    def do_log(self, query, body):
        with log_changed:
            log_changed.wait_for(lambda: unread == 0, timeout=5)
            text = json.dumps(log[:-1])
            log.clear()
        self.reply(text.encode())

    def do_wake(self, query, body):
        gates.setdefault(query.get("gate"), threading.Event()).set()
        self.reply()

    def do_quit(self, query, body):
        self.reply()
        os._exit(0)

    def do_once(self, query, body):
        """Keeps the connection alive, takes one more request on it in full, and closes unanswered."""
        self.reply()
        self.used_up = True

    def do_mull(self, query, body):
        """Takes the whole request, and thinks about it until "/wake"."""
        gates.setdefault(query.get("gate"), threading.Event()).wait()
        self.reply()

    def do_part(self, query, body):
        self.reply(b"world", "206 Partial Content", "Content-Range: bytes 6-10/11\r\n")

    def do_short_part(self, query, body):
        self.send("HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 6-10/11\r\n\r\nwo")
        raise Left

    def do_reset(self, query, body):
        self.reset()

    def do_half(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + "x" * 100)
        time.sleep(0.05)
        self.reset()

    def do_silent(self, query, body):
        raise Left

    def do_short(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + "x" * 100)
        raise Left

    def do_short_head(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Le")
        raise Left

    def do_short_chunked(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        raise Left

    def do_long(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello, and then some")

    def do_bad_chunk(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n")

    def do_garbage(self, query, body):
        self.send("who are you? " + self.headers.get("authorization", "") + "\r\n\r\n")
        raise Left

    def do_bad_length(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: " + self.headers.get("authorization", "") + "\r\n\r\n")
        raise Left

    def do_stall(self, query, body):
        self.stall()

    def do_stall_body(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n0123456789")
        self.stall()

    def do_slow(self, query, body):
        self.send("HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        for _ in range(40):
            time.sleep(0.05)
            self.send("x")

    def do_html(self, query, body):
        self.reply(b"<html>" + b"x" * int(query.get("size", 100)), "502 Bad Gateway", "Content-Type: text/html\r\n")

    def do_empty(self, query, body):
        self.reply(b"")

    def do_big(self, query, body):
        left = int(query["size"])
        self.send(f"HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n")
        block = bytes(range(256)) * 4096
        while left:
            self.send(block[:min(left, len(block))])
            left -= min(left, len(block))

    def do_interim(self, query, body):
        self.send("HTTP/1.1 100 Continue\r\nX-Trap: 100\r\n\r\nHTTP/1.1 103 Early Hints\r\nX-Trap: 103\r\n\r\n"
                  "HTTP/1.1 200 OK\r\nX-Twice: one\r\nx-twice: two\r\nTransfer-Encoding: chunked\r\n\r\n"
                  "5\r\nhello\r\n0\r\nX-Trap: trailer\r\n\r\n")

    def do_hop(self, query, body):
        to = query["to"].replace("KEY", self.headers.get("authorization", "").replace("Bearer ", ""))
        self.reply(b"over there", query.get("status", "302") + " Moved", f"Location: {to}\r\n")

    def do_tls_garbage(self, query, body):
        self.raw.sendall(b"this is no TLS record, not at all")
        raise Left

    def proxy(self, url):
        if self.method != "CONNECT":
            return self.reply(b"by proxy")
        if self.target.startswith("refused"):
            return self.reply(b"", "407 Proxy Authentication Required", "Proxy-Authenticate: Basic\r\n")
        self.send("HTTP/1.1 200 OK\r\nX-Trap: proxy\r\n\r\n")
        inner = socket.create_connection(("127.0.0.1", ports["tls"]))
        threading.Thread(target=self.pump, args=(inner, self.sock), daemon=True).start()
        self.pump(self.sock, inner)
        raise Left

    @staticmethod
    def pump(source, sink):
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass


def count_unread(change):
    global unread
    with log_changed:
        unread += change
        log_changed.notify_all()


def serve(sock, name, context):
    connection, counted = None, 1
    try:
        connection = Connection(sock, name, context)
        while True:
            connection.head()
            count_unread(-counted)
            counted = 0
            connection.answer()
    except (Left, OSError, ValueError, AttributeError):
        pass
    finally:
        count_unread(-counted)
        if connection:
            connection.raw.close()
            connection.sock.close()
        sock.close()


def slam(sock, name, context):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def cut_handshake(sock, name, context):
    sock.recv(1000)
    sock.close()


def no_tls(sock, name, context):
    sock.recv(1000)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    sock.close()


def listen(name, handler=serve, context=None):
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    ports[name] = listener.getsockname()[1]

    def loop():
        while True:
            sock, _ = listener.accept()
            if handler is serve:
                count_unread(1)
            threading.Thread(target=handler, args=(sock, name, context), daemon=True).start()
    threading.Thread(target=loop, daemon=True).start()


good = certificate("good", "DNS:localhost,DNS:tunnel.example,IP:127.0.0.1")
wrong = certificate("wrong", "DNS:elsewhere.example")
with open(os.path.join(folder, "bundle.pem"), "w") as bundle:
    for name in "good", "wrong":
        with open(os.path.join(folder, name + ".pem")) as one:
            bundle.write(one.read())
for name in "plain", "other", "proxy":
    listen(name)
listen("tls", context=good)
listen("wronghost", context=wrong)
listen("slam", slam)
listen("cut", cut_handshake)
listen("notls", no_tls)

deaf = socket.create_server(("127.0.0.1", 0), backlog=0)  # its queue is full: connects get no answer
ports["full"] = deaf.getsockname()[1]
fillers = [socket.socket() for _ in range(4)]
for filler in fillers:
    filler.setblocking(False)
    filler.connect_ex(deaf.getsockname())

print(" ".join(f"{name}={port}" for name, port in ports.items()), flush=True)
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.2)
