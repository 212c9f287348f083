/* Clients that publish events over HTTP into one workspace, single (structured, binary) and in batches, and
 * repeat each request under the same ids until it is answered 2xx; some give up after the first try (`maybe`
 * events). Now and then a request that was answered is sent once more, and must be recognised. What was
 * published is counted, and with it what the contexts of the triggers must be in the end.
 *
 * Thread: main, but for the clients' own threads. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct http_load;

/* One HTTP call over a Unix socket; the status, 0 without an answer. content_type, body: NULL: none. The
 * answer is appended. Thread: any. */
long http_load_call(const char *socket_path, const char *method, const char *path, const char *body,
                    struct buffer *ret_answer);

/* The clients publish to /workspace/<workspace>/event. 0, or -1. */
int http_load_start(const char *socket_path, const char *workspace, unsigned clients, uint64_t seed,
                    struct http_load **ret_load);
/* No new requests; those begun are repeated until they are answered. Waits for that. False: not within
 * timeout_ns (the clients then are stopped all the same). */
bool http_load_stop(struct http_load *load, uint64_t timeout_ns);
void http_load_free(struct http_load *load); /* stopped; NULL is fine */

/* The workflow's triggers, as the body of POST /workspace/X/trigger. */
void http_load_triggers(struct buffer *out);
/* Compares the stored triggers with what was published. Returns the number of differences, and tells them on
 * standard error if `tell`. */
unsigned http_load_compare(const struct http_load *load, bool tell);

/* Events in requests answered 2xx; and what must not be: answers that no client should get, or repetitions
 * that were not recognised; the last one is in ret_text. */
uint64_t http_load_answered(const struct http_load *load);
unsigned http_load_wrong(const struct http_load *load, char ret_text[256]);
