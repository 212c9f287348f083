/* The Docker Engine API (https://docs.docker.com/engine/api/, without a version in the path: the engine's
 * newest) on its Unix socket: requests, and what its answers say. Thread: executor. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/executor/http_call.h"

struct buffer;
struct error;
struct json_value;
struct report;

#define ENGINE_TIMEOUT 30000000000ull /* ns, of a request that is answered at once */

struct engine {
    struct http_calls *calls;
    const char *socket;
    struct report *report;
    bool away; /* that was told */
};

/* Begins a request; path with its query, body JSON or NULL. Errors: as http_call_start. */
int engine_ask(struct engine *engine, const char *method, const char *path, const struct buffer *body,
               uint64_t timeout_ns, http_call_done done, void *data, struct http_call **ret_call,
               struct error *err);
/* The same for a POST without a body that is answered with its progress, of which the end is kept. */
int engine_follow(struct engine *engine, const char *path, uint64_t timeout_ns, http_call_done done,
                  void *data, struct http_call **ret_call, struct error *err);
/* What an answer says of an error, {"message"}, while doing this: ERROR_REFUSED when it is final, else
 * ERROR_UNAVAILABLE. */
void engine_explain(const struct http_answer *answer, const char *what, struct error *err);
/* Tells once that the engine is away, and once that it is back. */
void engine_note(struct engine *engine, const struct http_answer *answer);

/* A member of an object as plain text; false: it is none, empty, or longer. */
bool engine_text(const struct json_value *object, const char *member, char *out, size_t size);
/* A container's address in the first network that gives it one; and the port of this machine that leads to
 * its port 80. settings: NetworkSettings. */
bool engine_address(const struct json_value *settings, char *out, size_t size);
bool engine_port(const struct json_value *settings, char *out, size_t size);
