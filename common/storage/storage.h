/* Where workspaces live: one vtable, one file per back end, one line in registry.c.
 *
 * A workspace has *sets* of fields (key -> text). The first three are the original's layout and are shared
 * with other programs; the rest is ours. All changes of a running workflow are made by storage_commit, one
 * atomic transaction. A connection (struct storage) is used by one thread at a time and is never carried
 * across a fork.
 *
 * Writers and fencing: a workspace's checkpoint holds (format, epoch, writer). A worker that starts claims
 * the workspace (storage_claim), putting its own writer id there: from then on no commit of any earlier
 * worker succeeds. A commit of epoch n succeeds only when the stored (epoch, writer) is (n-1, ours) and the
 * workspace has the creation value that the claim returned; if it is (n, ours), an earlier attempt whose
 * answer was lost has succeeded, and the call says 0 again: so the same commit may be retried until it is
 * answered. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer;
struct config;
struct error;
struct storage;

#define STORAGE_FORMAT 1      /* of everything we store; a newer one is refused */
#define STORAGE_WRITER_MAX 33 /* hex of 128 random bits, and NUL */
#define STORAGE_NAME_MAX 200  /* bytes of a workspace's name */
#define STORAGE_OPS_SAFE                                                               \
    200000 /* changes that every back end takes in one commit; more may be ERROR_LIMIT \
            */

enum storage_set {
    STORAGE_TRIGGERS,       /* <ws>-triggers: trigger id -> JSON (shared with the original stack) */
    STORAGE_EVENT_SOURCES,  /* <ws>-event_sources: name -> JSON (shared) */
    STORAGE_GLOBAL_CONTEXT, /* <ws>-global_context: key -> JSON (shared) */
    STORAGE_CHECKPOINT,     /* <ws>-checkpoint: format, epoch, writer; position:<source>; fired:<uuid>; ... */
    STORAGE_OUTBOX,         /* <ws>-outbox: number -> action intent JSON */
    STORAGE_INTERNAL,       /* <ws>-internal: number -> pending internal event JSON */
    STORAGE_TIMERS,         /* <ws>-timers: id -> JSON */
    STORAGE_DEAD_LETTERS,   /* <ws>-dead_letters: number -> JSON */
    STORAGE_SETS
};

enum storage_op_kind {
    STORAGE_PUT,       /* sets the field */
    STORAGE_DELETE,    /* removes the field */
    STORAGE_PUT_IF,    /* sets the field only if it is stored with `uuid` (else it is left as it is) */
    STORAGE_DELETE_IF, /* removes it under the same condition */
    STORAGE_PUT_NEW,   /* storage_edit and storage_create only: sets the field unless it is stored */
};

/* One change. Text is borrowed until storage_commit returns. In one commit, all puts of a set
 * are applied before its deletions (a field put and deleted is gone), and of two puts of one key the last one
 * holds. The checkpoint's fields format, epoch, writer and creation belong to the storage. */
struct storage_op {
    enum storage_set set;
    enum storage_op_kind kind;
    const char *key;
    size_t key_len;
    const char *value; /* PUT, PUT_IF */
    size_t value_len;
    const char
        *uuid; /* ..._IF: the JSON member "uuid" that the stored document must contain; "" (length 0): any */
    size_t uuid_len;
};

struct storage_commit {
    const char *workspace;
    const char *creation; /* as storage_claim returned it */
    const char *writer;
    uint64_t epoch; /* n */
    const struct storage_op *ops;
    size_t n_ops;
    uint64_t log_consumed; /* groups of the event log up to this number are removed; 0: none */
};

/* A group of events in the event log: one row or entry, one sync. */
struct storage_log_group {
    uint64_t number;    /* counts up, with gaps; the first is 1 */
    const void *events; /* opaque: see worker/source/http.h. NULL when it was consumed (log_ids) */
    size_t events_len;
    const void *ids; /* what recognises the events' repetitions; outlives the events */
    size_t ids_len;
};

/* What storage_claim found. */
struct storage_claim {
    uint64_t epoch;    /* 0: never checkpointed by us */
    char creation[64]; /* the workspace's creation value */
    bool durable; /* false: what is committed may be lost in a crash of the storage (Redis without AOF) */
    char durability[32]; /* for the status: "always", "everysec", "no", "none" */
};

enum { STORAGE_ABSENT = 1, STORAGE_FENCED = 2, STORAGE_ROLLED_BACK = 3, STORAGE_EXISTS = 4 };

/* Called for each field; text is valid during the call only. A negative return ends the scan and is returned.
 */
typedef int (*storage_field)(void *data, const char *key, size_t key_len, const char *value,
                             size_t value_len);

typedef int (*storage_log_field)(void *data, const struct storage_log_group *group);

/* Process: supervisor and worker, after the fork. Errors of all calls: ERROR_UNAVAILABLE (retry later, on the
 * same handle: it reconnects by itself), ERROR_NO_SPACE (the disk is full or read-only, or the server is out
 * of memory: nothing was changed; retry when there is room), ERROR_REFUSED (password, permission, wrong type
 * of a key, cluster, newer format), ERROR_INVALID, ERROR_MEMORY. */
struct storage_type {
    const char *name;
    int (*open)(const struct config *config, const char *client_name, struct storage **ret_storage,
                struct error *err);
    void (*close)(struct storage *storage);

    /* All workspaces: key = name, value = creation value. */
    int (*workspaces)(struct storage *storage, storage_field field, void *data, struct error *err);
    /* 0 when the workspace is stored, STORAGE_ABSENT when not. */
    int (*workspace_exists)(struct storage *storage, const char *workspace, struct error *err);

    /* Takes the workspace over (see above). 0, or STORAGE_ABSENT. Checks the type of every key of the
     * workspace and the format. */
    int (*claim)(struct storage *storage, const char *workspace, const char *writer,
                 struct storage_claim *ret_claim, struct error *err);
    /* All fields of one set; a field may be reported more than once (the last report holds). */
    int (*load)(struct storage *storage, const char *workspace, enum storage_set set, storage_field field,
                void *data, struct error *err);
    /* The named fields of one set, those that exist, in the order given. */
    int (*get)(struct storage *storage, const char *workspace, enum storage_set set, const char *const *keys,
               size_t n_keys, storage_field field, void *data, struct error *err);
    /* 0 committed; STORAGE_FENCED: another writer, or the workspace is gone or was created anew;
     * STORAGE_ROLLED_BACK: still our writer (or none), but not the epoch before: the storage has lost data.
     * err->message says which. */
    int (*commit)(struct storage *storage, const struct storage_commit *commit, struct error *err);

    /* Asks to be told once of the next change of the workspace's triggers or event sources, by whomever it is
     * made (our own commits too): *ret_fd then becomes readable. It is one-shot: after a change there may be
     * nothing more to hear until watch is called again, which is cheap; so call watch first, and then read
     * what may have changed before. 0, or STORAGE_ABSENT when this storage cannot (poll instead). The storage
     * owns the descriptor, which is the same each time and stays open until close; one workspace is watched
     * at a time. */
    int (*watch)(struct storage *storage, const char *workspace, int *ret_fd, struct error *err);
    /* After it became readable: 0 something changed (or seems to: take it as a hint); STORAGE_ABSENT nothing
     * did; -1 the watch is lost, and changes with it: poll, and watch again. */
    int (*watch_read)(struct storage *storage, struct error *err);

    /* --- the event log: events that were published to the workspace itself. Thread: its event source's ---
     */

    /* Appends a group; it is durable when this returns 0. number must be above all that were ever appended.
     * The ids of groups below forget_ids are removed with it. Repeating a call that failed is safe. 0,
     * STORAGE_FENCED: the workspace has another writer, or is gone. */
    int (*log_append)(struct storage *storage, const char *workspace, const char *writer,
                      const struct storage_log_group *group, uint64_t forget_ids, struct error *err);
    /* Groups above `after` in order of their numbers, about max_bytes of them and at least one if there is
     * one. */
    int (*log_read)(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                    storage_log_field field, void *data, struct error *err);
    /* The ids that are kept, of consumed groups too, in order of their numbers; events are NULL. */
    int (*log_ids)(struct storage *storage, const char *workspace, storage_log_field field, void *data,
                   struct error *err);

    /* --- for the trigger API; workers do not call these --- */

    /* Creates a workspace with these fields, all or nothing: 0, or STORAGE_EXISTS. What is left over under
     * its name is removed first. creation: its creation value (unix seconds as text). */
    int (*create)(struct storage *storage, const char *workspace, const char *creation,
                  const struct storage_op *ops, size_t n_ops, struct error *err);
    /* Deletes a workspace and exactly what belongs to it: 0, or STORAGE_ABSENT. */
    int (*remove)(struct storage *storage, const char *workspace, struct error *err);
    /* Changes fields of any set but the checkpoint, outbox and internal ones, in one atomic step in which
     * each operation is judged by itself: ret_results[i] is 0 done, STORAGE_EXISTS (PUT_NEW of a stored
     * field) or STORAGE_ABSENT (DELETE of a field that is not stored, ..._IF that does not match). 0, or
     * STORAGE_ABSENT when the workspace is not stored. Operations apply in their order. */
    int (*edit)(struct storage *storage, const char *workspace, const struct storage_op *ops, size_t n_ops,
                int *ret_results, struct error *err);
    /* Users of the API: key = name, value = digest (COMPAT). */
    int (*users)(struct storage *storage, storage_field field, void *data, struct error *err);
    /* Sets a user's digest; NULL removes the user: 0, or STORAGE_ABSENT. */
    int (*user_put)(struct storage *storage, const char *user, const char *digest, struct error *err);
};

/* Common head of every back end's struct storage. */
struct storage {
    const struct storage_type *type;
    void (*heartbeat)(void *data); /* called about once a second while a call waits; may be NULL */
    void *heartbeat_data;
};

/* Opens the back end that config->storage_backend names; an unknown name is ERROR_INVALID and lists those
 * there are. Connects lazily: an absent server is reported by the first call. */
int storage_open(const struct config *config, const char *client_name, struct storage **ret_storage,
                 struct error *err);
void storage_close(struct storage *storage); /* NULL is fine */
/* Whether there is a back end of this name. Errors: ERROR_INVALID, with the names that there are. */
int storage_known(const char *name, struct error *err);

/* The part of a stored key or file name that belongs to the set ("triggers", "event_sources", ...). */
const char *storage_set_name(enum storage_set set);

/* Whether a workspace may have this name: [A-Za-z0-9._-]+, not "triggerflow", at most 200 bytes. */
bool storage_name_valid(const char *workspace);
