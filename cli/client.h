/* The trigger API's client: HTTP through libcurl, one connection kept open, or several calls at a time.
 *
 * The first call of a run finds out where the API is (endpoint.h). Thread: main. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <curl/curl.h>

struct buffer;
struct cli;
struct client;
struct json_object;

#define CLIENT_ANSWER_MAX (256u << 20)

void client_free(struct client *client); /* NULL is fine */

/* Appends a path: each of the segments (NULL-terminated) behind a slash, escaped. */
void client_path(struct buffer *out, ...) __attribute__((sentinel));
/* Appends "?name=value" or, after the first parameter, "&name=value", escaped. */
void client_query(struct buffer *path, const char *name, const char *value);

/* One call; body is borrowed (NULL: none). CLI_OK with *ret_answer (owned, may be NULL when it is null), else
 * an exit status, complained about: also when the API refuses. ret_answer may be NULL. */
int client_call(struct cli *cli, const char *method, const char *path, struct json_object *body,
                struct json_object **ret_answer);
/* The same, but what the API refuses is returned (*ret_status) and not complained about, except 401 and 403.
 */
int client_try(struct cli *cli, const char *method, const char *path, struct json_object *body,
               long *ret_status, struct json_object **ret_answer);
/* Complains about a refusal. Returns CLI_FAILED, or CLI_UNREACHABLE for 503 and bad gateways. */
int client_refused(struct cli *cli, long status, struct json_object *answer);

/* Many calls, several at a time. next fills in the i-th call and returns its body (owned by the callee; NULL:
 * none); done gets its answer, in any order, and returns CLI_OK to go on. */
struct client_calls {
    size_t n;
    unsigned in_flight;
    const char *method;
    struct json_object *(*next)(void *data, size_t i, struct buffer *ret_path);
    int (*done)(void *data, size_t i, long status, struct json_object *answer);
    void *data;
};
int client_many(struct cli *cli, const struct client_calls *calls);

/* --- for those who drive libcurl themselves --- */

/* The client of this run, made on first use. CLI_OK, or an exit status, complained about. */
int client_open(struct cli *cli, struct client **ret_client);
/* Sets up a handle for a call: everything but body and write function. */
int client_prepare(const struct client *client, CURL *curl, const char *method, const char *path);
/* Complains about a call that brought no answer. Returns the exit status. */
int client_unreachable(const struct client *client, CURLcode result);
