/* A worker's two writes to its workspace in Redis: claim and commit. Thread: one at a time. */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/redis_scripts.h"

#define OPS_CHUNK 1000              /* changes of one group: Lua's unpack takes 8,000 values at most */
#define ARGS_FIXED (SCRIPT_ARG + 7) /* what stands before the groups */

/* ---- claim ---- */

/* Whether a crash of the server loses what it has answered (https://redis.io/docs/management/persistence/). A
 * user who may not ask gets "unknown". */
static int durability(struct redis_storage *s, struct storage_claim *claim, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    struct error own = {.code = ERROR_NONE};
    const char *appendonly = NULL;
    const char *appendfsync = NULL;
    if (redis_storage_call(s, "CONFIG GET append*", 3, (const char *[]){"CONFIG", "GET", "append*"}, NULL,
                           &reply, &own) < 0 &&
        own.code != ERROR_REFUSED) {
        if (err)
            *err = own;
        return -1;
    }
    if (reply && redis_is_array_of_text(reply)) {
        for (size_t i = 0; i + 1 < reply->elements; i += 2) {
            if (strcmp(reply->element[i]->str, "appendonly") == 0)
                appendonly = reply->element[i + 1]->str;
            else if (strcmp(reply->element[i]->str, "appendfsync") == 0)
                appendfsync = reply->element[i + 1]->str;
        }
    }
    claim->durable = !appendonly || strcmp(appendonly, "no") != 0;
    const char *word = !claim->durable ? "none" : appendonly && appendfsync ? appendfsync : "unknown";
    snprintf(claim->durability, sizeof claim->durability, "%s", word);
    return 0;
}

static bool parse_epoch(const char *text, uint64_t *ret_epoch)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || text[0] < '0' || text[0] > '9')
        return false;
    *ret_epoch = value;
    return true;
}

int redis_storage_claim(struct storage *storage, const char *workspace, const char *writer,
                        struct storage_claim *ret_claim, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    struct redis_script_keys keys;
    const char *argv[SCRIPT_ARG + 3];
    size_t lengths[SCRIPT_ARG + 3];
    char what[KEY_MAX + 8];
    struct storage_claim claim = {.epoch = 0};
    REPLY_AUTO *reply = NULL;
    if (redis_script_keys(&keys, workspace, argv, lengths, err) < 0)
        return -1;
    snprintf(what, sizeof what, "claim %s", workspace);
    argv[SCRIPT_ARG] = workspace;
    argv[SCRIPT_ARG + 1] = SCRIPT_FORMAT_TEXT;
    argv[SCRIPT_ARG + 2] = writer;
    for (int i = SCRIPT_ARG; i < SCRIPT_ARG + 3; i++)
        lengths[i] = strlen(argv[i]);
    if (redis_script_run(s, SCRIPT_CLAIM, what, SCRIPT_ARG + 3, argv, lengths, &reply, err) < 0)
        return -1;
    if (redis_script_says(reply, "absent", 0))
        return STORAGE_ABSENT;
    if (!redis_script_says(reply, "claimed", 2) || !redis_is_array_of_text(reply))
        return redis_script_refused(s, workspace, reply, err);
    if (!parse_epoch(reply->element[1]->str, &claim.epoch))
        return error_set(err, ERROR_REFUSED, "%s: %s: epoch \"%.40s\" is no number", redis_peer(s->redis),
                         keys.sets[STORAGE_CHECKPOINT], reply->element[1]->str);
    if (reply->element[2]->len >= sizeof claim.creation ||
        strlen(reply->element[2]->str) != reply->element[2]->len)
        return error_set(err, ERROR_REFUSED, "%s: " WORKSPACES ": the creation value of %s is no time",
                         redis_peer(s->redis), workspace);
    memcpy(claim.creation, reply->element[2]->str, reply->element[2]->len + 1);
    if (durability(s, &claim, err) < 0)
        return -1;
    *ret_claim = claim;
    return 0;
}

/* ---- commit ---- */

/* One group of the commit script, at most OPS_CHUNK changes of one set and kind. */
static void group_args(struct redis_storage *s, const struct storage_op *ops, const uint32_t *order, size_t n)
{
    static const char *const kinds[] = {"put", "delete", "put_if", "delete_if"};
    static const char *const sets[] = {"2", "3", "4", "5", "6", "7", "8", "9"};
    const struct storage_op *first = &ops[order[0]];
    bool conditional = first->kind == STORAGE_PUT_IF || first->kind == STORAGE_DELETE_IF;
    bool put = first->kind == STORAGE_PUT_IF || first->kind == STORAGE_PUT;
    redis_script_arg(s, sets[first->set], 1);
    redis_script_arg(s, kinds[first->kind], strlen(kinds[first->kind]));
    redis_script_arg_number(s, n);
    for (size_t i = 0; i < n && (conditional || !put); i++)
        redis_script_arg(s, ops[order[i]].key, ops[order[i]].key_len);
    for (size_t i = 0; i < n && conditional; i++)
        redis_script_arg(s, ops[order[i]].uuid, ops[order[i]].uuid_len);
    for (size_t i = 0; i < n && put; i++) {
        redis_script_arg(s, ops[order[i]].key, ops[order[i]].key_len);
        redis_script_arg(s, ops[order[i]].value, ops[order[i]].value_len);
    }
}

/* Appends the changes grouped by set and kind, in their order within a group. */
static int ops_args(struct redis_storage *s, const struct storage_op *ops, size_t n_ops, struct error *err)
{
    size_t start[STORAGE_SETS * 4 + 1] = {0};
    size_t next[STORAGE_SETS * 4];
    if (n_ops == 0)
        return 0;
    uint32_t *order = malloc(n_ops * sizeof *order);
    if (!order)
        return error_set(err, ERROR_MEMORY, "no memory for a commit of %zu changes", n_ops);
    for (size_t i = 0; i < n_ops; i++)
        start[(size_t)ops[i].set * 4 + ops[i].kind + 1]++;
    for (size_t bucket = 0; bucket < STORAGE_SETS * 4; bucket++) {
        next[bucket] = start[bucket];
        start[bucket + 1] += start[bucket];
    }
    for (size_t i = 0; i < n_ops; i++)
        order[next[(size_t)ops[i].set * 4 + ops[i].kind]++] = (uint32_t)i;
    for (size_t bucket = 0; bucket < STORAGE_SETS * 4; bucket++)
        for (size_t at = start[bucket]; at < start[bucket + 1]; at += OPS_CHUNK) {
            size_t left = start[bucket + 1] - at;
            group_args(s, ops, order + at, left < OPS_CHUNK ? left : OPS_CHUNK);
        }
    free(order);
    return 0;
}

static int commit_outcome(struct redis_storage *s, const struct storage_commit *commit,
                          const redisReply *reply, struct error *err)
{
    const char *peer = redis_peer(s->redis);
    const char *workspace = commit->workspace;
    const char *detail =
        reply->elements > 1 && redis_is_text(reply->element[1]) ? reply->element[1]->str : "";
    if (redis_script_says(reply, "committed", 0))
        return 0;
    if (redis_script_says(reply, "absent", 0)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s is gone", peer, workspace);
        return STORAGE_FENCED;
    }
    if (redis_script_says(reply, "anew", 1)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s was created anew at %.40s (ours: %s)", peer, workspace,
                  detail, commit->creation);
        return STORAGE_FENCED;
    }
    if (redis_script_says(reply, "writer", 1)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s belongs to another writer, %.40s", peer, workspace,
                  detail);
        return STORAGE_FENCED;
    }
    if (redis_script_says(reply, "rolled_back", 1)) {
        error_set(err, ERROR_FENCED,
                  "%s: workspace %s: epoch %.20s is stored, not %llu: the storage has lost data", peer,
                  workspace, detail, (unsigned long long)commit->epoch - 1);
        return STORAGE_ROLLED_BACK;
    }
    return redis_script_refused(s, workspace, reply, err);
}

static int commit_args(struct redis_storage *s, const struct storage_commit *commit, struct error *err)
{
    const char *const fixed[] = {commit->workspace, SCRIPT_FORMAT_TEXT, commit->writer, commit->creation};
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        redis_script_arg(s, fixed[i], strlen(fixed[i]));
    redis_script_arg_number(s, commit->epoch);
    redis_script_arg_number(s, commit->epoch - 1);
    if (commit->log_consumed == 0)
        redis_script_arg(s, "", 0);
    else
        redis_script_arg_number(s, commit->log_consumed + 1);
    if (ops_args(s, commit->ops, commit->n_ops, err) < 0)
        return -1;
    if (s->argc > SCRIPT_ARGS_MAX)
        return error_set(err, ERROR_LIMIT,
                         "a commit of %zu changes to workspace %s needs %zu arguments, more than %d",
                         commit->n_ops, commit->workspace, s->argc, SCRIPT_ARGS_MAX);
    return 0;
}

int redis_storage_commit(struct storage *storage, const struct storage_commit *commit, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    struct redis_script_keys keys;
    char what[KEY_MAX + 8];
    REPLY_AUTO *reply = NULL;
    size_t groups = commit->n_ops / OPS_CHUNK + STORAGE_SETS * 4;
    assert(commit->epoch > 0 && commit->log_consumed < UINT64_MAX);
    snprintf(what, sizeof what, "commit %.*s", STORAGE_NAME_MAX, commit->workspace);
    if (redis_script_reserve(s, ARGS_FIXED + 3 * groups + 4 * commit->n_ops, groups + 3, what, err) < 0 ||
        redis_script_keys(&keys, commit->workspace, s->argv, s->lengths, err) < 0)
        return -1;
    int rc = commit_args(s, commit, err);
    if (rc >= 0)
        rc = redis_script_run(s, SCRIPT_COMMIT, what, s->argc, s->argv, s->lengths, &reply, err);
    redis_script_release(s);
    return rc < 0 ? rc : commit_outcome(s, commit, reply, err);
}
