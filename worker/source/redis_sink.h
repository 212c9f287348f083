/* Publishing to a RedisEventSource's stream: XADD, pipelined over one connection. Thread: executor. */
#pragma once

struct error;
struct executor;
struct intent;
struct json_value;
struct sink;

int redis_sink_open(struct executor *executor, const char *name, const struct json_value *parameters,
                    struct sink **ret_sink, struct error *err);
void redis_sink_publish(struct sink *sink, struct intent *intent);
void redis_sink_close(struct sink *sink);
