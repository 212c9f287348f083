#!/bin/sh
# Stores the workflow "first": ten events with the type task.done and the subject orders are joined, then an
# event is published to the stream first-results, and the workflow ends. REDIS_PORT names the Redis (default 6379).
set -eu
port=${REDIS_PORT:-6379}
redis() { redis-cli -p "$port" "$@" >/dev/null; }

redis DEL first-triggers first-event_sources first-events first-results

redis HSET first-event_sources \
    events '{"name":"events","class":"RedisEventSource",
             "parameters":{"host":"127.0.0.1","port":'"$port"',"stream":"first-events"}}' \
    results '{"name":"results","class":"RedisEventSource",
              "parameters":{"host":"127.0.0.1","port":'"$port"',"stream":"first-results","consume":false}}'

redis HSET first-triggers \
    announce '{"id":"announce","uuid":"first-announce",
               "activation_events":[{"type":"task.done","subject":"orders"}],
               "condition":{"name":"JOIN"},"context":{"join":10},
               "action":{"name":"EMIT","event_source":"results","event":{"type":"orders.done"}}}' \
    end '{"id":"end","uuid":"first-end",
          "activation_events":[{"type":"task.done","subject":"orders"}],
          "condition":{"name":"JOIN"},"context":{"join":10},
          "action":{"name":"TERMINATE"}}'

# The entry that makes it a workspace, with its time of creation. Last, so that the workflow is whole when it is found.
redis HSET triggerflow-workspaces first "$(date +%s.%N)"
echo "stored the workflow first in Redis on port $port"
