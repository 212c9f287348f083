/* A function service for tests and benches, over real HTTP, on a thread and a free loopback port of its own:
 *
 *     OpenWhisk   POST /api/v1/namespaces/NS/actions/[PKG/]NAME       202 {"activationId"}; Basic auth
 *     Lambda      POST /2015-03-31/functions/NAME/invocations         202 empty; Signature Version 4
 *     any other   ANY  /f/NAME                                        200 {"ok":true}
 *
 * It does what a function is told to (struct function_behaviour, or the member "behave" of a request's JSON
 * body, with the same names), counts the starts of each (function, task, key), and, if the payload names a
 * sink (__OW_TRIGGERFLOW.sink, __TRIGGERFLOW_EVENT_SOURCE: a RedisEventSource) or a sink is given here,
 * publishes the termination event to it, with the key as triggerflowkey. HTTP/1.1 with keep-alive.
 *
 * Thread: any, but new, free and (before the first request) the settings. What cannot be done is said on
 * standard error. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct function_server;
struct json_value;

enum function_mode {
    FUNCTION_ANSWERS,
    FUNCTION_HANGS,         /* reads the request and says nothing more */
    FUNCTION_DROPS,         /* reads the request and closes the connection */
    FUNCTION_TRUNCATES,     /* announces more of a body than comes */
    FUNCTION_FLOODS,        /* answers with a body without end */
    FUNCTION_FLOODS_HEADERS /* with headers without end */
};

struct function_behaviour {
    enum function_mode mode;
    unsigned status;     /* of the answer; 0: the contract's */
    unsigned delay_ms;   /* before the answer */
    unsigned run_ms;     /* after the start, until the termination event; published before an answer that is
                            due at the same time */
    unsigned fail_first; /* the first so many starts of each key do `mode`, `status` and `retry_after`; those
                            that come later answer as the contract says. 0: all do */
    const char *retry_after;  /* header; NULL: none. Borrowed, like the next two */
    const char *body;         /* of the answer; NULL: the contract's */
    const char *content_type; /* NULL: application/json */
    unsigned close_after;     /* closes the connection after so many answers; 0: never */
    bool publish;             /* the termination event, when it has succeeded */
    bool fails;               /* ... as a failure */
    bool no_key;              /* it does not echo the key */
    unsigned publish_times;   /* 0: once */
};

struct function_server *function_server_new(void); /* NULL: cannot */
void function_server_free(struct function_server *server);
unsigned function_server_port(const struct function_server *server);
/* Appends "http://127.0.0.1:PORT" and the path. */
void function_server_url(const struct function_server *server, const char *path, struct buffer *out);

/* What must be presented, else the answer is 401 or 403; NULL: nothing. */
void function_server_basic(struct function_server *server, const char *user_password);
void function_server_bearer(struct function_server *server, const char *token);
void function_server_sigv4(struct function_server *server, const char *access_key_id, const char *secret,
                           const char *session_token, const char *region, const char *service);

/* Of one function, or (NULL) of those that have none. Copied but for the texts. */
void function_server_behave(struct function_server *server, const char *function,
                            const struct function_behaviour *behaviour);
/* Where termination events go that name no sink: a Redis stream. */
void function_server_sink(struct function_server *server, int redis_port, const char *stream);
/* What functions compute: result gets JSON, the data of the termination event and the answer of /f/. Called
 * on the server's thread; when it writes nothing, nothing is published. Without one the result is the payload
 * without our metadata. Returns false: it fails. */
typedef bool (*function_compute)(void *data, const char *function, const struct json_value *payload,
                                 struct buffer *result);
void function_server_compute(struct function_server *server, function_compute compute, void *data);

/* --- what has happened --- */

/* Requests that came in whole (whether they were let in or not). */
uint64_t function_server_requests(struct function_server *server);
uint64_t function_server_refused(struct function_server *server); /* 401, 403 */
unsigned function_server_most_at_once(struct function_server *server);
unsigned function_server_connections(struct function_server *server); /* ever opened */
/* Starts that were let in: of a function (NULL: any), for a task (NULL: any), with a key (NULL: any). The
 * task is the subject in the metadata, else the header Ce-Subject, else "". */
uint64_t function_server_starts(struct function_server *server, const char *function, const char *task,
                                const char *key);
/* Different keys among those. */
uint64_t function_server_keys(struct function_server *server, const char *function, const char *task);
/* Keys that belong to more than one task (there must be none). */
uint64_t function_server_strayed_keys(struct function_server *server);
uint64_t function_server_published(struct function_server *server);
/* Calls see for each (function, task, key) in the order of their first starts; with the server stopped
 * meanwhile. first_ns: clock_now_ns() of the first start, last_ns of the last. */
void function_server_each(struct function_server *server,
                          void (*see)(void *data, const char *function, const char *task, const char *key,
                                      unsigned starts, uint64_t first_ns, uint64_t last_ns),
                          void *data);
/* The last request as it came: "METHOD PATH\nname: value\n...\n\nbody". */
void function_server_last(struct function_server *server, struct buffer *out);
void function_server_forget(struct function_server *server); /* all counts */
