/* Requests of the supervisor that change the workflow (common/ipc.h: patch, redrive, pause, resume). The main
 * thread passes them on; the checkpoint thread carries them out between two epochs and answers when the
 * checkpoint that contains them has committed. Those that cannot be carried out are answered at once. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct catalog;
struct cut;
struct injection;
struct requests;
struct storage;
struct worker;

/* What requests work on. Borrowed. */
struct request_scope {
    struct worker *worker;
    struct catalog *catalog;
    struct storage *storage;
    struct cut *cut;
    struct injection *injection;
};

struct requests *requests_new(const struct request_scope *scope); /* NULL: out of memory */
void requests_free(struct requests *requests);                    /* NULL is fine */

/* Whether a message of this kind is one. */
bool request_is(const char *kind, size_t len);
/* Takes one (copied). Thread: any. */
void requests_put(struct requests *requests, const char *packet, size_t len);
bool requests_waiting(struct requests *requests); /* Thread: any */

/* --- Thread: checkpoint --- */

/* Carries waiting requests out; what they change is committed with the next epoch, which is due when this
 * says so. *ret_reload: one names a trigger that is not known; it waits for a reload that begins now. */
bool requests_apply(struct requests *requests, bool *ret_reload);
/* The triggers were read again. */
void requests_reloaded(struct requests *requests);
/* The epoch has committed. */
void requests_committed(struct requests *requests);
/* The worker ends: what waits is answered with 503. */
void requests_refuse(struct requests *requests);
