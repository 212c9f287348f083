/* What the trigger API changes in Redis: workspaces, their fields, users. Thread: one at a time. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/redis_scripts.h"

/* The letters of the scripts' changes, and the sets' numbers in KEYS. */
static const char *const changes[][STORAGE_SETS] = {
    [STORAGE_PUT] = {"p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"},
    [STORAGE_DELETE] = {"d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9"},
    [STORAGE_PUT_IF] = {"u2", "u3", "u4", "u5", "u6", "u7", "u8", "u9"},
    [STORAGE_DELETE_IF] = {"x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9"},
    [STORAGE_PUT_NEW] = {"n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"},
};

static bool deletes(const struct storage_op *op)
{
    return op->kind == STORAGE_DELETE || op->kind == STORAGE_DELETE_IF;
}

static void change_args(struct redis_storage *s, const struct storage_op *op)
{
    redis_script_arg(s, changes[op->kind][op->set], 2);
    redis_script_arg(s, op->key, op->key_len);
    if (op->kind == STORAGE_PUT_IF || op->kind == STORAGE_DELETE_IF)
        redis_script_arg(s, op->uuid, op->uuid_len);
    if (!deletes(op))
        redis_script_arg(s, op->value, op->value_len);
}

/* Runs one of the scripts with the workspace, the format, `third` (NULL: not) and the changes. */
static int run(struct redis_storage *s, enum redis_script script, const char *verb, const char *workspace,
               const char *third, const struct storage_op *ops, size_t n_ops, redisReply **ret_reply,
               struct error *err)
{
    struct redis_script_keys keys;
    char what[KEY_MAX + 16];
    snprintf(what, sizeof what, "%s %.*s", verb, STORAGE_NAME_MAX, workspace);
    if (redis_script_reserve(s, SCRIPT_ARG + 3 + 4 * n_ops, 0, what, err) < 0 ||
        redis_script_keys(&keys, workspace, s->argv, s->lengths, err) < 0)
        return -1;
    redis_script_arg(s, workspace, strlen(workspace));
    redis_script_arg(s, SCRIPT_FORMAT_TEXT, strlen(SCRIPT_FORMAT_TEXT));
    if (third)
        redis_script_arg(s, third, strlen(third));
    for (size_t i = 0; i < n_ops; i++)
        change_args(s, &ops[i]);
    int rc = s->argc > SCRIPT_ARGS_MAX
                 ? error_set(err, ERROR_LIMIT, "%s: %zu changes need %zu arguments, more than %d", what,
                             n_ops, s->argc, SCRIPT_ARGS_MAX)
                 : redis_script_run(s, script, what, s->argc, s->argv, s->lengths, ret_reply, err);
    redis_script_release(s);
    return rc;
}

int redis_storage_create(struct storage *storage, const char *workspace, const char *creation,
                         const struct storage_op *ops, size_t n_ops, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    if (run(s, SCRIPT_CREATE, "create", workspace, creation, ops, n_ops, &reply, err) < 0)
        return -1;
    if (redis_script_says(reply, "created", 0))
        return 0;
    if (redis_script_says(reply, "exists", 0))
        return STORAGE_EXISTS;
    return redis_script_refused(s, workspace, reply, err);
}

int redis_storage_remove(struct storage *storage, const char *workspace, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    if (run(s, SCRIPT_REMOVE, "remove", workspace, NULL, NULL, 0, &reply, err) < 0)
        return -1;
    if (redis_script_says(reply, "removed", 0))
        return 0;
    if (redis_script_says(reply, "absent", 0))
        return STORAGE_ABSENT;
    return redis_script_refused(s, workspace, reply, err);
}

int redis_storage_edit(struct storage *storage, const char *workspace, const struct storage_op *ops,
                       size_t n_ops, int *ret_results, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    size_t n_deletes = 0;
    for (size_t i = 0; i < n_ops; i++) {
        assert(ops[i].set != STORAGE_CHECKPOINT && ops[i].set != STORAGE_OUTBOX &&
               ops[i].set != STORAGE_INTERNAL);
        n_deletes += deletes(&ops[i]);
    }
    const char *mixed = n_deletes && n_deletes < n_ops ? "1" : "0";
    if (run(s, SCRIPT_EDIT, "edit", workspace, mixed, ops, n_ops, &reply, err) < 0)
        return -1;
    if (redis_script_says(reply, "absent", 0))
        return STORAGE_ABSENT;
    if (!redis_script_says(reply, "edited", 1) || !redis_is_text(reply->element[1]) ||
        reply->element[1]->len != n_ops)
        return redis_script_refused(s, workspace, reply, err);
    for (size_t i = 0; i < n_ops; i++)
        ret_results[i] = reply->element[1]->str[i] - '0';
    return 0;
}

/* ---- users ---- */

int redis_storage_users(struct storage *storage, storage_field field, void *data, struct error *err)
{
    return redis_storage_scan((struct redis_storage *)storage, USERS, field, data, err);
}

int redis_storage_user_put(struct storage *storage, const char *user, const char *digest, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    const char *const argv[] = {digest ? "HSET" : "HDEL", USERS, user, digest};
    if (redis_storage_call(s, digest ? "HSET " USERS : "HDEL " USERS, digest ? 4 : 3, argv, NULL, &reply,
                           err) < 0)
        return -1;
    if (reply->type != REDIS_REPLY_INTEGER)
        return redis_storage_unexpected(s, USERS, err);
    return digest || reply->integer ? 0 : STORAGE_ABSENT;
}
