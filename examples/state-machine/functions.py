#!/usr/bin/env python3
"""functions.py PORT-FILE API-SOCKET: the function of the state machine example, as a service that speaks the contract of
AWS Lambda: POST /2015-03-31/functions/NAME/invocations is answered at once by 202; the function then runs, and publishes
its answer to Triggerflow, with the key that it was given, so that it counts once however often it was started. (What a
Lambda function returns its destination publishes. The requests' signatures are not looked at here.)"""
import http.client
import http.server
import json
import socket
import sys
import threading
import uuid


def credit(customer, amount):
    return {"answer": "granted" if customer != "nobody" and amount < 1000 else "refused"}


FUNCTIONS = {"credit": credit}


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[2])


def run(name, payload):
    event = {"specversion": "1.0", "id": uuid.uuid4().hex, "source": "urn:example:" + name, "type": "lambda.success",
             "subject": payload["__TRIGGERFLOW_SUBJECT"], "triggerflowkey": payload["__TRIGGERFLOW_KEY"]}
    try:
        event["data"] = FUNCTIONS[name](**payload["__EVENT_DATA"])
    except Exception as error:
        event["type"] = "lambda.failure"
        event["data"] = {"errorType": type(error).__name__, "errorMessage": str(error)}
    connection = UnixConnection("localhost")
    connection.request("POST", "/workspace/state-machine/event", json.dumps(event),
                       {"Content-Type": "application/cloudevents+json"})
    connection.getresponse().read()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = self.path.split("/")[3]
        if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256 Credential=example/"):
            self.answer(403, {"message": "The security token included in the request is invalid."})
        elif name not in FUNCTIONS:
            self.answer(404, {"Type": "User", "Message": "Function not found: " + name})
        else:
            threading.Thread(target=run, args=(name, json.loads(body))).start()
            self.answer(202, None)

    def answer(self, status, body):
        text = json.dumps(body).encode() if body else b""
        self.send_response(status)
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
