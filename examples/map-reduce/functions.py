#!/usr/bin/env python3
"""functions.py PORT-FILE API-SOCKET: the functions of the map-reduce example, as a service that speaks the contract
of OpenWhisk: POST /api/v1/namespaces/NS/actions/NAME is answered at once by 202 and an activationId; the function
then runs, and publishes its termination event to Triggerflow, with the key that it was given, so that it counts once
however often it was started."""
import base64
import collections
import http.client
import http.server
import json
import socket
import sys
import threading
import uuid

TEXT = """the quick brown fox jumps over the lazy dog and the dog sleeps on
a map is many functions and a reduce is one function and the map is first"""


def split(pages):
    words = TEXT.split()
    size = -(-len(words) // pages)
    return {"pages": [" ".join(words[i:i + size]) for i in range(0, len(words), size)]}


def count(page):
    return {"words": collections.Counter(page.split())}


def add(counts):
    total = collections.Counter()
    for words in counts:
        total.update(words)
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0]))[:5])


FUNCTIONS = {"split": split, "count": count, "sum": add}


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[2])


def run(name, arguments):
    ours = arguments.pop("__OW_TRIGGERFLOW")
    event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "urn:example:" + name, "subject": ours["subject"],
             "triggerflowkey": ours["key"], "type": "event.triggerflow.termination.success"}
    try:
        event["data"] = FUNCTIONS[name](**arguments)
    except Exception as error:
        event["type"] = "event.triggerflow.termination.failure"
        event["data"] = {"error": repr(error)}
    connection = UnixConnection("localhost")
    connection.request("POST", "/workspace/map-reduce/event", json.dumps(event),
                       {"Content-Type": "application/cloudevents+json"})
    connection.getresponse().read()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    password = "Basic " + base64.b64encode(b"example:password").decode()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.rsplit("/", 1)[1]
        if self.headers["Authorization"] != self.password:
            self.answer(401, {"error": "the supplied authentication is invalid"})
        elif name not in FUNCTIONS:
            self.answer(404, {"error": "the requested resource does not exist"})
        else:
            threading.Thread(target=run, args=(name, json.loads(body))).start()
            self.answer(202, {"activationId": uuid.uuid4().hex})

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.write(f"{server.server_port}\n")
    server.serve_forever()
