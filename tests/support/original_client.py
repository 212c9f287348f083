#!/usr/bin/env python3
"""Sends to a trigger API exactly what the original's Python client sends, and expects what it expects.

The client uses requests with Basic authentication (user, hex of HMAC-SHA3-256(key = password, message = user))
and a JSON body with every call, `{}` where there is nothing to say. Usage: ENDPOINT USER PASSWORD
"""
import base64
import hashlib
import hmac
import http.client
import json
import sys
import urllib.parse

EVENT = {"specversion": "1.0", "id": "6f3f0f0e", "source": "urn:host:x", "type": "event.triggerflow.test",
         "subject": "join0", "time": "2020-10-20T13:00:00.000000Z", "extensions": {}}


class Client:
    def __init__(self, endpoint, user, password):
        digest = hmac.new(password.encode(), user.encode(), hashlib.sha3_256).hexdigest()
        self.address = endpoint
        self.authorization = "Basic " + base64.b64encode(f"{user}:{digest}".encode()).decode()
        self.workspace = None

    def call(self, method, path, body, params=None):
        if params:
            path += "?" + urllib.parse.urlencode(params)
        connection = http.client.HTTPConnection(self.address, timeout=60)
        data = json.dumps(body)
        connection.request(method, "/" + path, data, {
            "User-Agent": "python-requests/2.24.0", "Accept-Encoding": "gzip, deflate", "Accept": "*/*",
            "Connection": "keep-alive", "Content-Type": "application/json", "Authorization": self.authorization})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text)

    def must(self, status, *args, **kwargs):
        got, body = self.call(*args, **kwargs)
        assert got == status, (args, got, body)
        return body

    def create_workspace(self, name, source, global_context):
        self.workspace = name
        return self.call("POST", "workspace", {"workspace_name": name, "global_context": global_context,
                                               "event_source": source})

    def path(self, *rest):
        return "/".join(["workspace", self.workspace, *rest])


def trigger(trigger_id, condition, action, context, transient=True, events=(EVENT,)):
    return {"id": trigger_id, "condition": {"name": condition}, "action": {"name": action}, "context": context,
            "context_parser": None, "activation_events": list(events), "transient": transient}


def redis_source(name):
    return {"name": name, "class": "RedisEventSource",
            "parameters": {"host": "127.0.0.1", "port": 1, "db": 0, "password": None, "stream": name}}


def event_sources(client):
    client.must(201, "POST", client.path("eventsource"), {"event_source": redis_source("second")},
                params={"overwrite": False})
    client.must(409, "POST", client.path("eventsource"), {"event_source": redis_source("second")},
                params={"overwrite": False})
    client.must(201, "POST", client.path("eventsource"), {"event_source": redis_source("second")},
                params={"overwrite": True})
    assert sorted(client.must(200, "GET", client.path("eventsource"), {})) == ["first", "second"]
    assert client.must(200, "GET", client.path("eventsource", "second"), {})["second"] == redis_source("second")
    client.must(200, "DELETE", client.path("eventsource", "second"), {})


def triggers(client):
    sent = trigger("join0", "JOIN", "TERMINATE", {"join": 1000}, False)
    answer = client.must(200, "POST", client.path("trigger"), {"triggers": [sent]})
    assert len(answer["accepted_triggers"]) == 1, answer
    stored = answer["accepted_triggers"].pop()
    assert stored.pop("uuid") and stored.pop("workspace") == client.workspace and stored.pop("timestamp")
    assert stored == sent
    got = client.must(200, "GET", client.path("trigger", "join0"), {})["join0"]
    assert {name: got[name] for name in sent} == sent
    answer = client.must(200, "POST", client.path("trigger"), {"triggers": [sent]})
    assert answer["rejected_triggers"].pop()["reason"] == "Trigger join0 already exists"
    # What the cached client compiles: many at once, some without an id or events.
    many = [trigger(f"t{i}", "TRUE", "PASS", {}, events=()) for i in range(200)]
    many.append(trigger(None, "FUNCTION_JOIN", "PASS", {"subject": "x"}))
    answer = client.must(200, "POST", client.path("trigger"), {"triggers": many})
    assert len(answer["accepted_triggers"]) == 201 and not answer["rejected_triggers"], answer
    named = client.must(200, "GET", client.path("trigger"), {})
    assert len(named) == 202
    for name in named:
        client.must(200, "DELETE", client.path("trigger", name), {})
    assert client.must(200, "GET", client.path("trigger"), {}) == []
    assert client.must(404, "GET", client.path("trigger", "join0"), {})["error"] == "Trigger join0 not found"


def main(endpoint, user, password):
    client = Client(endpoint, user, password)
    status, body = client.create_workspace("original", redis_source("first"), {"secret": {"a": [1, None]}})
    assert status == 201 and body == {"message": "Created workspace original"}, (status, body)
    status, body = client.create_workspace("original", redis_source("first"), {})
    assert status == 400 and body["err_code"] == 2 and body["error"], (status, body)
    event_sources(client)
    triggers(client)
    client.must(201, "POST", client.path("timeout"), {
        "event_source": redis_source("first"), "event": EVENT, "seconds": 3600.5})
    body = client.must(200, "GET", "workspace/original", {})
    assert body == {"triggers": [], "event_sources": ["first"], "global_context": {"secret": {"a": [1, None]}}}
    client.must(200, "DELETE", "workspace/original", {})
    client.must(404, "GET", "workspace/original", {})
    wrong = Client(endpoint, user, password + "x")
    assert wrong.call("GET", "workspace/original", {})[0] == 401
    print("all as expected")


if __name__ == "__main__":
    main(*sys.argv[1:])
