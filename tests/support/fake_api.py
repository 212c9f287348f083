#!/usr/bin/env python3
"""A stand-in for the trigger API, for tests of its client: fake_api.py PORT-FILE

Answers who asks it (GET /workspace), and takes events as the real one does, but with trouble on the way: of every
eight requests one is told to come back (429), one is refused (503), one is taken and the connection cut before the
answer. GET /workspace/X/status tells what was counted. In the workspace `sick` everything is 503, in `picky` every
event whose subject is `bad` is refused.
"""
import base64
import hashlib
import hmac
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSWORDS = {"alice": "correct horse", "bob": "123456"}
lock = threading.Lock()
ids = set()
requests = {"n": 0, "repeated": 0}
order = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def answer(self, status, value, headers=()):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, text in headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def who(self):
        """The user, "" without credentials, None for bad ones."""
        given = self.headers.get("Authorization")
        if given is None:
            return ""
        user, _, digest = base64.b64decode(given.split()[1]).decode().partition(":")
        password = PASSWORDS.get(user, "")
        right = hmac.new(password.encode(), user.encode(), hashlib.sha3_256).hexdigest()
        return user if user in PASSWORDS and digest == right else None

    def do_GET(self):
        user = self.who()
        if user is None:
            self.answer(401, {"error": "Unauthorized"})
        elif self.path == "/workspace":
            self.answer(200, {"workspaces": [{"name": user or "nobody", "created": 1.5, "state": "running"}]})
        elif self.path.endswith("/status"):
            with lock:
                self.answer(200, {"name": "counted", "ids": len(ids), "repeated": requests["repeated"],
                                  "ordered": order == sorted(order)})
        else:
            self.answer(404, {"error": "Workspace X not found"})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        workspace = self.path.split("/")[2]
        if self.headers.get("Content-Type") != "application/cloudevents-batch+json":
            self.answer(415, {"error": "not a batch"})
            return
        events = json.loads(body)
        with lock:
            requests["n"] += 1
            turn = requests["n"] % 8
            if workspace == "sick" or turn == 3:
                self.answer(503, {"error": "the worker died"})
                return
            if turn == 5:
                self.answer(429, {"error": "too much waits"}, [("Retry-After", "1")])
                return
            for index, event in enumerate(events):
                if workspace == "picky" and event.get("subject") == "bad":
                    self.answer(400, {"error": "subject is bad", "index": index})
                    return
            known = sum(1 for event in events if event["id"] in ids)
            requests["repeated"] += known
            order.extend(event["data"] for event in events
                         if event["id"] not in ids and isinstance(event.get("data"), int))
            ids.update(event["id"] for event in events)
        if turn == 7:
            self.close_connection = True
            self.connection.close()
            return
        self.answer(202, {"accepted": len(events), "duplicates": known})


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", 0), Handler)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(str(server.server_port))
os.rename(sys.argv[1] + ".new", sys.argv[1])
server.serve_forever()
