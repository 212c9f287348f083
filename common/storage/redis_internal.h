/* What the files of the Redis back end share: the connection (redis.c), the scripts (redis_scripts.c), and
 * the calls that are built on both. Thread: one at a time for each struct redis_storage. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/redis.h"
#include "common/storage/redis.h"

#define CONNECT_NS (5 * CLOCK_S)
#define CALL_NS (10 * CLOCK_S)
#define WORKSPACES "triggerflow-workspaces"
#define USERS "triggerflow-auth"
#define KEY_MAX (STORAGE_NAME_MAX + 32)

enum redis_script {
    SCRIPT_CLAIM,
    SCRIPT_COMMIT,
    SCRIPT_LOG_APPEND,
    SCRIPT_CREATE,
    SCRIPT_REMOVE,
    SCRIPT_EDIT,
    N_SCRIPTS
};
enum { WATCH_TRIGGERS, WATCH_EVENT_SOURCES, N_WATCHED };

struct redis_storage {
    struct storage head;
    char *text[7]; /* what address and client_name point to */
    struct redis_address address;
    const char *client_name;
    struct redis *redis;     /* NULL: not connected */
    char sha[N_SCRIPTS][44]; /* "": not loaded on this connection yet */
    struct redis *watch;     /* NULL: nothing is watched */
    long long watch_id;      /* what the server calls it */
    int watch_fd;            /* an epoll of both connections; -1: not needed so far */
    bool tracking;           /* `redis` has its notifications redirected to `watch` */
    char watched[N_WATCHED][KEY_MAX];
    const char **argv; /* of the script under way, as lengths */
    size_t *lengths;
    size_t argc;
    size_t args_cap;
    struct buffer group_sizes; /* decimal numbers that argv points to */
};

/* ---- connection (redis.c) ---- */

/* Connects unless it is. */
int redis_storage_connected(struct redis_storage *s, struct error *err);
/* One command, connecting first, or on the connection there is: 0 with a reply that is no error, or -1.
 * `what` begins the error's message. */
int redis_storage_call(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                       const size_t *lengths, redisReply **ret_reply, struct error *err);
int redis_storage_call_connected(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                                 const size_t *lengths, redisReply **ret_reply, struct error *err);
/* Closes the connection when the server has left it. */
void redis_storage_drop_dead(struct redis_storage *s);
int redis_storage_unexpected(struct redis_storage *s, const char *what, struct error *err);

/* All fields of a hash. */
int redis_storage_scan(struct redis_storage *s, const char *key, storage_field field, void *data,
                       struct error *err);

/* The keys of a workspace: of a set, of the events and of their ids. An invalid name is ERROR_INVALID. */
int redis_storage_key(char key[KEY_MAX], const char *workspace, enum storage_set set, struct error *err);
int redis_storage_log_key(char key[KEY_MAX], const char *workspace, bool ids, struct error *err);

static inline bool redis_is_text(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS;
}
bool redis_is_array_of_text(const redisReply *reply);

void redis_reply_cleanup(redisReply **reply);
#define REPLY_AUTO __attribute__((cleanup(redis_reply_cleanup))) redisReply

/* ---- the calls of the vtable ---- */

int redis_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                        struct storage_claim *ret_claim, struct error *err);
int redis_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err);
int redis_storage_watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err);
int redis_storage_watch_read(struct storage *storage, struct error *err);
int redis_storage_log_append(struct storage *storage, const char *workspace, const char *writer,
                             const struct storage_log_group *group, uint64_t forget_ids, struct error *err);
int redis_storage_log_read(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                           storage_log_field field, void *data, struct error *err);
int redis_storage_log_ids(struct storage *storage, const char *workspace, storage_log_field field, void *data,
                          struct error *err);
int redis_storage_create(struct storage *storage, const char *workspace, const char *creation,
                         const struct storage_op *ops, size_t n_ops, struct error *err);
int redis_storage_remove(struct storage *storage, const char *workspace, struct error *err);
int redis_storage_edit(struct storage *storage, const char *workspace, const struct storage_op *ops,
                       size_t n_ops, int *ret_results, struct error *err);
int redis_storage_users(struct storage *storage, storage_field field, void *data, struct error *err);
int redis_storage_user_put(struct storage *storage, const char *user, const char *digest, struct error *err);
