/* The checker: judges triggers and event sources, and tries triggers on events, in a child process
 * (`triggerflow-worker --check`), since the worker's code alone knows conditions, actions and event sources,
 * and since what crashes on hostile input must not be the supervisor.
 *
 * The child is started when it is first needed and again after it has died; it reads requests from standard
 * input and writes answers to standard output, one JSON text a line each:
 *
 *     {"check":"triggers","triggers":[...]}                  {"results":[null or reason, ...]}
 *         "permits": {"exec_allow", "docker_images"}: what the configuration allows (worker/local/permit.h);
 * nothing without
 *     {"check":"event_source","event_source":{...}}          {"result":null or reason}: as one to be stored
 *     {"check":"target","event_source":{...}}                {"result":null or reason}: as one to publish to,
 *                                                            which may be internal, or only the name of a
 *                                                            stored one
 *     {"check":"test","trigger":{...},"event":{...}}         {"result":{...}} as docs/trigger-api.md has it.
 *         optional: "workspace", "creation" (the workspace's creation value), "firings" (the trigger's so
 *         far): with these the ids of events are those of the next firing; "global_context"
 *
 * or {"error":reason}: the request cannot be judged; for a test, the trigger or the event is none.
 *
 * A request that kills it, or is not answered within CHECKER_ANSWER_NS, is ERROR_REFUSED. Thread: any (one
 * request at a time; others wait). */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct buffer;
struct checker;
struct error;

#define CHECKER_ANSWER_NS 10000000000ull
#define CHECKER_REQUEST_MAX (8u << 20) /* bytes: longer ones are refused */
#define CHECKER_ANSWER_MAX (33u << 20) /* bytes: the child is killed for more */

/* worker_path: the program, copied. */
int checker_new(const char *worker_path, struct checker **ret_checker, struct error *err);
void checker_free(struct checker *checker); /* ends the child; NULL is fine */
/* Another time-out than CHECKER_ANSWER_NS. Before it is used. */
void checker_set_timeout(struct checker *checker, uint64_t answer_ns);

/* Sends a request (JSON without a line feed) and appends the answer, a validated JSON object. Errors:
 * ERROR_REFUSED (see above), ERROR_SYSTEM (it cannot be started), ERROR_MEMORY. */
int checker_ask(struct checker *checker, const char *request, size_t len, struct buffer *ret_answer,
                struct error *err);
