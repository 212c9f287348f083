/* Workspaces in Redis, in the original stack's layout (hashes triggerflow-workspaces and <ws>-<set>), so that
 * its programs and ours share them; the event log is two streams, <ws>-events and <ws>-event_ids.
 *
 * One connection for calls, opened by the first call and again by the next call after it broke; a second one
 * only while a workspace is watched. What must be atomic is a Lua script (redis_scripts.c). Thread: one at a
 * time. */
#include "common/storage/redis.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "common/storage/redis_internal.h"

#define GET_CHUNK 1000                /* fields of one HMGET */
#define SCAN_COUNT_MAX 1000           /* fields of one HSCAN */
#define SCAN_BYTES (4u * 1024 * 1024) /* an answer above this makes the next HSCAN ask for less */

/* ---- connection ---- */

/* The server forgets what the connection has asked to be told of: wakes whoever polls the other one. */
static void drop(struct redis_storage *s)
{
    redis_free(s->redis);
    s->redis = NULL;
    s->tracking = false;
    if (s->watch)
        (void)shutdown(redis_fd(s->watch), SHUT_RDWR);
}

/* Whether a server that answers will not write now. Before Redis 7 an error within a script is wrapped. */
static bool says_no_room(const char *answer)
{
    static const char *const words[] = {"OOM ", "MISCONF ", "READONLY "};
    static const char wrapped[] = "ERR Error running script";
    if (strncmp(answer, wrapped, sizeof wrapped - 1) == 0) {
        const char *inner = strstr(answer, ": -");
        answer = inner ? inner + 3 : answer;
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (strncmp(answer, words[i], strlen(words[i])) == 0)
            return true;
    return false;
}

int redis_storage_call_connected(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                                 const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    if (redis_call(s->redis, CALL_NS, s->head.heartbeat, s->head.heartbeat_data, argc, argv, lengths,
                   ret_reply, &own) == 0)
        return 0;
    bool broken = redis_broken(s->redis);
    if (!broken && says_no_room(own.message))
        own.code = ERROR_NO_SPACE;
    if (broken)
        error_prefix(&own, "%s", what);
    else
        error_prefix(&own, "%s: %s", redis_peer(s->redis), what);
    if (broken)
        drop(s);
    if (err)
        *err = own;
    return -1;
}

/* A cluster spreads the keys of a workspace, which the scripts use together. A user who may not ask passes.
 */
static int refuse_cluster(struct redis_storage *s, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    if (redis_storage_call_connected(s, "INFO cluster", 2, (const char *[]){"INFO", "cluster"}, NULL, &reply,
                                     &own) < 0) {
        if (own.code == ERROR_REFUSED)
            return 0;
        if (err)
            *err = own;
        return -1;
    }
    bool cluster = reply->type == REDIS_REPLY_STRING && strstr(reply->str, "cluster_enabled:1");
    freeReplyObject(reply);
    if (!cluster)
        return 0;
    error_set(
        err, ERROR_REFUSED,
        "%s: a Redis Cluster cannot store workspaces: their keys span slots; use a single server (replicas "
        "are fine)",
        redis_peer(s->redis));
    drop(s);
    return -1;
}

/* Nothing is to be read on an idle connection, unless the server has gone away in the meantime. */
void redis_storage_drop_dead(struct redis_storage *s)
{
    void *stray = NULL;
    struct error ignored;
    if (!s->redis || redis_receive(s->redis, &stray, &ignored) == 1)
        return;
    if (stray)
        freeReplyObject(stray);
    drop(s);
}

int redis_storage_connected(struct redis_storage *s, struct error *err)
{
    redis_storage_drop_dead(s);
    if (s->redis)
        return 0;
    memset(s->sha, 0, sizeof s->sha);
    if (redis_connect(&s->address, s->client_name, CONNECT_NS, -1, &s->redis, err) < 0)
        return -1;
    return refuse_cluster(s, err);
}

int redis_storage_call(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                       const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    if (redis_storage_connected(s, err) < 0)
        return -1;
    return redis_storage_call_connected(s, what, argc, argv, lengths, ret_reply, err);
}

void redis_reply_cleanup(redisReply **reply)
{
    if (*reply)
        freeReplyObject(*reply);
}

int redis_storage_unexpected(struct redis_storage *s, const char *what, struct error *err)
{
    return error_set(err, ERROR_REFUSED, "%s: %s: unexpected answer",
                     s->redis ? redis_peer(s->redis) : "redis", what);
}

bool redis_is_array_of_text(const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY)
        return false;
    for (size_t i = 0; i < reply->elements; i++)
        if (!redis_is_text(reply->element[i]))
            return false;
    return true;
}

static int key_of(char key[KEY_MAX], const char *workspace, const char *part, struct error *err)
{
    if (!storage_name_valid(workspace))
        return error_set(err, ERROR_INVALID, "\"%.*s\" is no name for a workspace", STORAGE_NAME_MAX,
                         workspace);
    snprintf(key, KEY_MAX, "%s-%s", workspace, part);
    return 0;
}

int redis_storage_key(char key[KEY_MAX], const char *workspace, enum storage_set set, struct error *err)
{
    return key_of(key, workspace, storage_set_name(set), err);
}

int redis_storage_log_key(char key[KEY_MAX], const char *workspace, bool ids, struct error *err)
{
    return key_of(key, workspace, ids ? "event_ids" : "events", err);
}

/* ---- reading ---- */

/* A scan in steps, so that a huge hash neither blocks the server nor fills memory. How much a step asks for
 * follows the size of the fields. */
int redis_storage_scan(struct redis_storage *s, const char *key, storage_field field, void *data,
                       struct error *err)
{
    char cursor[24] = "0";
    char count[12];
    char what[KEY_MAX + 8];
    int ask = 100;
    snprintf(what, sizeof what, "HSCAN %s", key);
    do {
        REPLY_AUTO *reply = NULL;
        snprintf(count, sizeof count, "%d", ask);
        if (redis_storage_call(s, what, 5, (const char *[]){"HSCAN", key, cursor, "COUNT", count}, NULL,
                               &reply, err) < 0)
            return -1;
        if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || !redis_is_text(reply->element[0]) ||
            reply->element[0]->len >= sizeof cursor || !redis_is_array_of_text(reply->element[1]) ||
            reply->element[1]->elements % 2)
            return redis_storage_unexpected(s, what, err);
        memcpy(cursor, reply->element[0]->str, reply->element[0]->len + 1);
        const redisReply *fields = reply->element[1];
        size_t bytes = 0;
        for (size_t i = 0; i < fields->elements; i += 2) {
            const redisReply *name = fields->element[i];
            const redisReply *value = fields->element[i + 1];
            bytes += name->len + value->len;
            int rc = field(data, name->str, name->len, value->str, value->len);
            if (rc < 0)
                return rc;
        }
        if (bytes > SCAN_BYTES)
            ask = ask > 2 ? ask / 2 : 1;
        else if (bytes < SCAN_BYTES / 4)
            ask = ask > SCAN_COUNT_MAX / 2 ? SCAN_COUNT_MAX : ask * 2;
    } while (strcmp(cursor, "0") != 0);
    return 0;
}

static int redis_workspaces(struct storage *storage, storage_field field, void *data, struct error *err)
{
    return redis_storage_scan((struct redis_storage *)storage, WORKSPACES, field, data, err);
}

static int redis_workspace_exists(struct storage *storage, const char *workspace, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    if (redis_storage_call(s, "HEXISTS " WORKSPACES, 3, (const char *[]){"HEXISTS", WORKSPACES, workspace},
                           NULL, &reply, err) < 0)
        return -1;
    if (reply->type != REDIS_REPLY_INTEGER)
        return redis_storage_unexpected(s, "HEXISTS " WORKSPACES, err);
    return reply->integer ? 0 : STORAGE_ABSENT;
}

static int redis_load(struct storage *storage, const char *workspace, enum storage_set set,
                      storage_field field, void *data, struct error *err)
{
    char key[KEY_MAX];
    if (redis_storage_key(key, workspace, set, err) < 0)
        return -1;
    return redis_storage_scan((struct redis_storage *)storage, key, field, data, err);
}

static int redis_get(struct storage *storage, const char *workspace, enum storage_set set,
                     const char *const *keys, size_t n_keys, storage_field field, void *data,
                     struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    char key[KEY_MAX];
    char what[KEY_MAX + 8];
    const char *argv[2 + GET_CHUNK] = {"HMGET", key};
    if (redis_storage_key(key, workspace, set, err) < 0)
        return -1;
    snprintf(what, sizeof what, "HMGET %s", key);
    for (size_t done = 0; done < n_keys;) {
        REPLY_AUTO *reply = NULL;
        size_t n = n_keys - done < GET_CHUNK ? n_keys - done : GET_CHUNK;
        memcpy(argv + 2, keys + done, n * sizeof *argv);
        if (redis_storage_call(s, what, (int)n + 2, argv, NULL, &reply, err) < 0)
            return -1;
        if (reply->type != REDIS_REPLY_ARRAY || reply->elements != n)
            return redis_storage_unexpected(s, what, err);
        for (size_t i = 0; i < n; i++) {
            const redisReply *value = reply->element[i];
            if (value->type == REDIS_REPLY_NIL)
                continue;
            if (!redis_is_text(value))
                return redis_storage_unexpected(s, what, err);
            int rc = field(data, keys[done + i], strlen(keys[done + i]), value->str, value->len);
            if (rc < 0)
                return rc;
        }
        done += n;
    }
    return 0;
}

/* ---- opening ---- */

static void redis_close(struct storage *storage)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    redis_free(s->redis);
    redis_free(s->watch);
    if (s->watch_fd >= 0)
        close(s->watch_fd);
    for (size_t i = 0; i < sizeof s->text / sizeof s->text[0]; i++) {
        if (s->text[i])
            explicit_bzero(s->text[i], strlen(s->text[i]));
        free(s->text[i]);
    }
    free(s->argv);
    free(s->lengths);
    buffer_done(&s->group_sizes);
    free(s);
}

static int redis_open(const struct config *config, const char *client_name, struct storage **ret_storage,
                      struct error *err)
{
    const char *const from[] = {config->storage_host,          config->storage_username,
                                config->storage_password,      config->storage_tls_ca,
                                config->storage_tls_cert,      config->storage_tls_key,
                                client_name ? client_name : ""};
    struct redis_storage *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    s->watch_fd = -1;
    for (size_t i = 0; i < sizeof s->text / sizeof s->text[0]; i++) {
        s->text[i] = strdup(from[i]);
        if (!s->text[i]) {
            redis_close(&s->head);
            return error_set(err, ERROR_MEMORY, "out of memory for the storage");
        }
    }
    s->head.type = &storage_redis;
    s->address = (struct redis_address){.host = s->text[0],
                                        .port = (int)config->storage_port,
                                        .db = (int)config->storage_db,
                                        .username = s->text[1],
                                        .password = s->text[2],
                                        .tls = config->storage_tls,
                                        .tls_ca = s->text[3],
                                        .tls_cert = s->text[4],
                                        .tls_key = s->text[5]};
    s->client_name = s->text[6];
    *ret_storage = &s->head;
    return 0;
}

const struct storage_type storage_redis = {
    .name = "redis",
    .open = redis_open,
    .close = redis_close,
    .workspaces = redis_workspaces,
    .workspace_exists = redis_workspace_exists,
    .claim = redis_storage_claim,
    .load = redis_load,
    .get = redis_get,
    .commit = redis_storage_commit,
    .watch = redis_storage_watch,
    .watch_read = redis_storage_watch_read,
    .log_append = redis_storage_log_append,
    .log_read = redis_storage_log_read,
    .log_ids = redis_storage_log_ids,
    .create = redis_storage_create,
    .remove = redis_storage_remove,
    .edit = redis_storage_edit,
    .users = redis_storage_users,
    .user_put = redis_storage_user_put,
};
