/* The event log in Redis: the stream <ws>-events has an entry a group, whose id is <number>-0; <ws>-event_ids
 * has one of the same id with the group's writer and its events' ids, which outlives the events. Thread: one
 * at a time. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/redis_scripts.h"

#define APPEND_ARGS (SCRIPT_ARG + 7)
#define EVENTS_AT_ONCE 64            /* groups of one answer, whose events may be 2 MiB each */
#define IDS_AT_ONCE 1000             /* and their ids */
#define IDS_BYTES (4u * 1024 * 1024) /* an answer's ids */

/* ---- appending ---- */

static int append_outcome(struct redis_storage *s, const char *workspace,
                          const struct storage_log_group *group, const redisReply *reply, struct error *err)
{
    const char *peer = redis_peer(s->redis);
    const char *detail =
        reply->elements > 1 && redis_is_text(reply->element[1]) ? reply->element[1]->str : "";
    if (redis_script_says(reply, "appended", 0))
        return 0;
    if (redis_script_says(reply, "behind", 1))
        return error_set(err, ERROR_INVALID, "%s: workspace %s: group %" PRIu64 " comes after group %.20s",
                         peer, workspace, group->number, detail);
    if (redis_script_says(reply, "absent", 0))
        error_set(err, ERROR_FENCED, "%s: workspace %s is gone", peer, workspace);
    else if (redis_script_says(reply, "anew", 1))
        error_set(err, ERROR_FENCED, "%s: workspace %s was created anew at %.40s", peer, workspace, detail);
    else if (redis_script_says(reply, "writer", 1))
        error_set(err, ERROR_FENCED, "%s: workspace %s belongs to another writer, %.40s", peer, workspace,
                  detail);
    else
        return redis_script_refused(s, workspace, reply, err);
    return STORAGE_FENCED;
}

int redis_storage_log_append(struct storage *storage, const char *workspace, const char *writer,
                             const struct storage_log_group *group, uint64_t forget_ids, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    struct redis_script_keys keys;
    char what[KEY_MAX + 16];
    REPLY_AUTO *reply = NULL;
    assert(group->number > 0);
    snprintf(what, sizeof what, "append to %.*s", STORAGE_NAME_MAX, workspace);
    if (redis_script_reserve(s, APPEND_ARGS, 2, what, err) < 0 ||
        redis_script_keys(&keys, workspace, s->argv, s->lengths, err) < 0)
        return -1;
    redis_script_arg(s, workspace, strlen(workspace));
    redis_script_arg(s, SCRIPT_FORMAT_TEXT, strlen(SCRIPT_FORMAT_TEXT));
    redis_script_arg(s, writer, strlen(writer));
    redis_script_arg_number(s, group->number);
    redis_script_arg_number(s, forget_ids < group->number ? forget_ids : group->number);
    redis_script_arg(s, group->events, group->events_len);
    redis_script_arg(s, group->ids, group->ids_len);
    if (redis_script_run(s, SCRIPT_LOG_APPEND, what, s->argc, s->argv, s->lengths, &reply, err) < 0)
        return -1;
    return append_outcome(s, workspace, group, reply, err);
}

/* ---- reading ---- */

/* A walk through one of the streams. */
struct walk {
    const char *key;
    const char *name; /* of the field that is wanted */
    uint64_t from;    /* 0: past the last number there can be */
    size_t at_once;
    size_t bytes;  /* read so far */
    size_t groups; /* read so far */
    storage_log_field field;
    void *data;
};

/* The value of the entry's field, or NULL. */
static const redisReply *entry_value(const redisReply *entry, const char *name, uint64_t *ret_number)
{
    if (entry->type != REDIS_REPLY_ARRAY || entry->elements != 2 || !redis_is_text(entry->element[0]) ||
        !redis_is_array_of_text(entry->element[1]))
        return NULL;
    char *end = NULL;
    errno = 0;
    unsigned long long number = strtoull(entry->element[0]->str, &end, 10);
    if (errno || *end != '-')
        return NULL;
    *ret_number = number;
    const redisReply *fields = entry->element[1];
    for (size_t i = 0; i + 1 < fields->elements; i += 2)
        if (strcmp(fields->element[i]->str, name) == 0)
            return fields->element[i + 1];
    return NULL;
}

static int walk_entry(struct redis_storage *s, struct walk *w, const redisReply *entry, struct error *err)
{
    struct storage_log_group group = {.number = 0};
    const redisReply *value = entry_value(entry, w->name, &group.number);
    if (!value)
        return redis_storage_unexpected(s, w->key, err);
    if (strcmp(w->name, "ids") == 0) {
        group.ids = value->str;
        group.ids_len = value->len;
    } else {
        group.events = value->str;
        group.events_len = value->len;
    }
    w->from = group.number + 1;
    w->bytes += value->len;
    w->groups++;
    return w->field(w->data, &group);
}

/* One answer of about max_bytes, going by the average of the groups before. 0, 1 at the end. */
static int walk_step(struct redis_storage *s, struct walk *w, size_t max_bytes, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    char from[24];
    char count[24];
    size_t average = w->groups ? w->bytes / w->groups + 1 : max_bytes;
    size_t ask = average ? max_bytes / average : 1;
    ask = ask < 1 ? 1 : ask > w->at_once ? w->at_once : ask;
    snprintf(from, sizeof from, "%" PRIu64, w->from);
    snprintf(count, sizeof count, "%zu", ask);
    const char *const argv[] = {"XRANGE", w->key, from, "+", "COUNT", count};
    if (redis_storage_call(s, w->key, 6, argv, NULL, &reply, err) < 0)
        return -1;
    if (reply->type != REDIS_REPLY_ARRAY)
        return redis_storage_unexpected(s, w->key, err);
    for (size_t i = 0; i < reply->elements; i++) {
        int rc = walk_entry(s, w, reply->element[i], err);
        if (rc < 0)
            return rc;
    }
    return reply->elements < ask || w->from == 0;
}

int redis_storage_log_read(struct storage *storage, const char *workspace, uint64_t after, size_t max_bytes,
                           storage_log_field field, void *data, struct error *err)
{
    char key[KEY_MAX];
    struct walk w = {.key = key,
                     .name = "events",
                     .from = after + 1,
                     .at_once = EVENTS_AT_ONCE,
                     .field = field,
                     .data = data};
    if (redis_storage_log_key(key, workspace, false, err) < 0)
        return -1;
    int rc = after == UINT64_MAX ? 1 : 0;
    while (rc == 0 && (w.groups == 0 || w.bytes < max_bytes))
        rc = walk_step((struct redis_storage *)storage, &w, max_bytes - w.bytes, err);
    return rc < 0 ? rc : 0;
}

int redis_storage_log_ids(struct storage *storage, const char *workspace, storage_log_field field, void *data,
                          struct error *err)
{
    char key[KEY_MAX];
    struct walk w = {
        .key = key, .name = "ids", .from = 1, .at_once = IDS_AT_ONCE, .field = field, .data = data};
    if (redis_storage_log_key(key, workspace, true, err) < 0)
        return -1;
    int rc = 0;
    while (rc == 0)
        rc = walk_step((struct redis_storage *)storage, &w, IDS_BYTES, err);
    return rc < 0 ? rc : 0;
}
