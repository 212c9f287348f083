/* Workspaces in Redis, in the original stack's layout (hashes triggerflow-workspaces and <ws>-<set>), so that
 * its programs and ours share them.
 *
 * One connection for calls, opened by the first call and again by the next call after it broke; a second one
 * only while a workspace is watched. What must be atomic is a Lua script that makes all its checks before its
 * first write, because Redis does not undo what a failing script has written. Thread: one at a time. */
#include "common/storage/redis.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/redis.h"

#define CONNECT_NS (5 * CLOCK_S)
#define CALL_NS (10 * CLOCK_S)
#define WORKSPACES "triggerflow-workspaces"
#define INVALIDATE "__redis__:invalidate"
#define KEY_MAX (STORAGE_NAME_MAX + 32)
#define GET_CHUNK 1000                /* fields of one HMGET */
#define SCAN_COUNT_MAX 1000           /* fields of one HSCAN */
#define SCAN_BYTES (4u * 1024 * 1024) /* an answer above this makes the next HSCAN ask for less */
#define OPS_CHUNK 1000                /* changes of one group: Lua's unpack takes 8,000 values at most */
#define ARGS_MAX 1000000              /* of one command: Redis takes 1,048,576 */
#define ARGS_KEEP 65536               /* argument slots kept from commit to commit */
#define ARGS_FIXED 18                 /* EVALSHA sha n, keys, and what stands before the groups */

enum { SCRIPT_CLAIM, SCRIPT_COMMIT, N_SCRIPTS };
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
    const char **argv; /* of the commit under way, as lengths */
    size_t *lengths;
    size_t argc;
    size_t args_cap;
    struct buffer group_sizes; /* decimal numbers that argv points to */
};

/* Both scripts: KEYS are triggerflow-workspaces and then the sets in the order of enum storage_set; what they
 * return is a word and its details. */
#define SCRIPT_TYPES                                                                   \
    "for i = 1, #KEYS do\n"                                                            \
    "  local kind = redis.call('TYPE', KEYS[i]).ok\n"                                  \
    "  if kind ~= 'hash' and kind ~= 'none' then return {'type', KEYS[i], kind} end\n" \
    "end\n"                                                                            \
    "local checkpoint = KEYS[5]\n"                                                     \
    "local creation = redis.call('HGET', KEYS[1], ARGV[1])\n"                          \
    "if not creation then return {'absent'} end\n"                                     \
    "local have = redis.call('HMGET', checkpoint, 'format', 'epoch', 'writer', 'creation')\n"

/* ARGV: workspace, format, writer. The HDEL of nothing shows whether the user may delete fields, before
 * anything is written; a commit then fails for no such reason half-way. */
static const char script_claim[] = SCRIPT_TYPES
    "if have[1] and not (tonumber(have[1]) and tonumber(have[1]) <= tonumber(ARGV[2])) then\n"
    "  return {'format', have[1]}\n"
    "end\n"
    "redis.call('HDEL', checkpoint, 'claim:probe')\n"
    "local epoch = have[2]\n"
    "if have[4] and have[4] ~= creation then\n"
    "  redis.call('DEL', checkpoint, KEYS[6], KEYS[7], KEYS[8])\n"
    "  epoch = false\n"
    "end\n"
    "redis.call('HSET', checkpoint, 'format', ARGV[2], 'writer', ARGV[3], 'creation', creation)\n"
    "return {'claimed', epoch or '0', creation}\n";

/* ARGV: workspace, format, writer, creation, epoch, epoch before, and then groups: number of the set's key in
 * KEYS, kind, n, and put:       n times key value delete:    n keys put_if:    n keys, n uuids, n times key
 * value delete_if: n keys, n uuids Whether a stored document has the uuid is seen by plain finds: decoding
 * every document would cost ten times as much. Only a document that holds the text otherwise, or may hold it
 * escaped, is decoded. */
static const char script_commit[] = SCRIPT_TYPES
    "if creation ~= ARGV[4] then return {'anew', creation} end\n"
    "if have[1] and not (tonumber(have[1]) and tonumber(have[1]) <= tonumber(ARGV[2])) then\n"
    "  return {'format', have[1]}\n"
    "end\n"
    "local epoch, writer = have[2] or '0', have[3]\n"
    "if writer and writer ~= ARGV[3] then return {'writer', writer} end\n"
    "if writer and epoch == ARGV[5] then return {'committed'} end\n"
    "if not writer or epoch ~= ARGV[6] then return {'rolled_back', epoch} end\n"
    "local find, sub = string.find, string.sub\n"
    "local function same(document, uuid)\n"
    "  if not document then return false end\n"
    "  if uuid == '' then return true end\n"
    "  local first, last = find(document, uuid, 1, true)\n"
    "  if not first and not find(document, '\\\\', 1, true) then return false end\n"
    "  while first do\n"
    "    if sub(document, last + 1, last + 1) == '\"' and (sub(document, first - 8, first - 1) == "
    "'\"uuid\":\"' or\n"
    "        sub(document, first - 9, first - 1) == '\"uuid\": \"') then\n"
    "      return true\n"
    "    end\n"
    "    first, last = find(document, uuid, last + 1, true)\n"
    "  end\n"
    "  local ok, value = pcall(cjson.decode, document)\n"
    "  return ok and type(value) == 'table' and value.uuid == uuid\n"
    "end\n"
    "redis.call('HSET', checkpoint, 'epoch', ARGV[5])\n"
    "local at = 7\n"
    "while ARGV[at] do\n"
    "  local set, kind, n = tonumber(ARGV[at]), ARGV[at + 1], tonumber(ARGV[at + 2])\n"
    "  local key = KEYS[set]\n"
    "  at = at + 3\n"
    "  if kind == 'put' then\n"
    "    redis.call('HSET', key, unpack(ARGV, at, at + 2 * n - 1))\n"
    "    at = at + 2 * n\n"
    "  elseif kind == 'delete' then\n"
    "    redis.call('HDEL', key, unpack(ARGV, at, at + n - 1))\n"
    "    at = at + n\n"
    "  else\n"
    "    local stored = redis.call('HMGET', key, unpack(ARGV, at, at + n - 1))\n"
    "    local chosen, all, pairs_at = {}, true, at + 2 * n\n"
    "    for j = 1, n do\n"
    "      if same(stored[j], ARGV[at + n + j - 1]) then chosen[#chosen + 1] = j else all = false end\n"
    "    end\n"
    "    if kind == 'put_if' then\n"
    "      if all then\n"
    "        redis.call('HSET', key, unpack(ARGV, pairs_at, pairs_at + 2 * n - 1))\n"
    "      elseif #chosen > 0 then\n"
    "        local values = {}\n"
    "        for k, j in ipairs(chosen) do\n"
    "          values[2 * k - 1], values[2 * k] = ARGV[pairs_at + 2 * j - 2], ARGV[pairs_at + 2 * j - 1]\n"
    "        end\n"
    "        redis.call('HSET', key, unpack(values))\n"
    "      end\n"
    "      at = pairs_at + 2 * n\n"
    "    else\n"
    "      local keys = {}\n"
    "      for k, j in ipairs(chosen) do keys[k] = ARGV[at + j - 1] end\n"
    "      if #keys > 0 then redis.call('HDEL', key, unpack(keys)) end\n"
    "      at = pairs_at\n"
    "    end\n"
    "  end\n"
    "end\n"
    "return {'committed'}\n";

static const char *const scripts[N_SCRIPTS] = {script_claim, script_commit};

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

/* The call itself, on the connection there is. 0 with a reply that is no error, or -1. */
static int call_connected(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                          const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    int rc = redis_call(s->redis, CALL_NS, s->head.heartbeat, s->head.heartbeat_data, argc, argv, lengths,
                        ret_reply, err);
    if (rc == 0)
        return 0;
    if (redis_broken(s->redis)) {
        drop(s);
        return error_prefix(err, "%s", what);
    }
    return error_prefix(err, "%s: %s", redis_peer(s->redis), what);
}

/* A cluster spreads the keys of a workspace, which the scripts use together. A user who may not ask passes.
 */
static int refuse_cluster(struct redis_storage *s, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    if (call_connected(s, "INFO cluster", 2, (const char *[]){"INFO", "cluster"}, NULL, &reply, &own) < 0) {
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
static void drop_dead(struct redis_storage *s)
{
    void *stray = NULL;
    struct error ignored;
    if (!s->redis || redis_receive(s->redis, &stray, &ignored) == 1)
        return;
    if (stray)
        freeReplyObject(stray);
    drop(s);
}

static int connected(struct redis_storage *s, struct error *err)
{
    drop_dead(s);
    if (s->redis)
        return 0;
    memset(s->sha, 0, sizeof s->sha);
    if (redis_connect(&s->address, s->client_name, CONNECT_NS, -1, &s->redis, err) < 0)
        return -1;
    return refuse_cluster(s, err);
}

static int call(struct redis_storage *s, const char *what, int argc, const char *const *argv,
                const size_t *lengths, redisReply **ret_reply, struct error *err)
{
    if (connected(s, err) < 0)
        return -1;
    return call_connected(s, what, argc, argv, lengths, ret_reply, err);
}

static void reply_cleanup(redisReply **reply)
{
    if (*reply)
        freeReplyObject(*reply);
}
#define REPLY_AUTO __attribute__((cleanup(reply_cleanup))) redisReply

static int unexpected(struct redis_storage *s, const char *what, struct error *err)
{
    return error_set(err, ERROR_REFUSED, "%s: %s: unexpected answer",
                     s->redis ? redis_peer(s->redis) : "redis", what);
}

static bool is_text(const redisReply *reply)
{
    return reply->type == REDIS_REPLY_STRING || reply->type == REDIS_REPLY_STATUS;
}

static bool is_array_of_text(const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY)
        return false;
    for (size_t i = 0; i < reply->elements; i++)
        if (!is_text(reply->element[i]))
            return false;
    return true;
}

static int set_key(char key[KEY_MAX], const char *workspace, enum storage_set set, struct error *err)
{
    if (!storage_name_valid(workspace))
        return error_set(err, ERROR_INVALID, "\"%.*s\" is no name for a workspace", STORAGE_NAME_MAX,
                         workspace);
    snprintf(key, KEY_MAX, "%s-%s", workspace, storage_set_name(set));
    return 0;
}

/* ---- reading ---- */

/* A scan in steps, so that a huge hash neither blocks the server nor fills memory. How much a step asks for
 * follows the size of the fields. */
static int scan(struct redis_storage *s, const char *key, storage_field field, void *data, struct error *err)
{
    char cursor[24] = "0";
    char count[12];
    char what[KEY_MAX + 8];
    int ask = 100;
    snprintf(what, sizeof what, "HSCAN %s", key);
    do {
        REPLY_AUTO *reply = NULL;
        snprintf(count, sizeof count, "%d", ask);
        if (call(s, what, 5, (const char *[]){"HSCAN", key, cursor, "COUNT", count}, NULL, &reply, err) < 0)
            return -1;
        if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 2 || !is_text(reply->element[0]) ||
            reply->element[0]->len >= sizeof cursor || !is_array_of_text(reply->element[1]) ||
            reply->element[1]->elements % 2)
            return unexpected(s, what, err);
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
    return scan((struct redis_storage *)storage, WORKSPACES, field, data, err);
}

static int redis_workspace_exists(struct storage *storage, const char *workspace, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    REPLY_AUTO *reply = NULL;
    if (call(s, "HEXISTS " WORKSPACES, 3, (const char *[]){"HEXISTS", WORKSPACES, workspace}, NULL, &reply,
             err) < 0)
        return -1;
    if (reply->type != REDIS_REPLY_INTEGER)
        return unexpected(s, "HEXISTS " WORKSPACES, err);
    return reply->integer ? 0 : STORAGE_ABSENT;
}

static int redis_load(struct storage *storage, const char *workspace, enum storage_set set,
                      storage_field field, void *data, struct error *err)
{
    char key[KEY_MAX];
    if (set_key(key, workspace, set, err) < 0)
        return -1;
    return scan((struct redis_storage *)storage, key, field, data, err);
}

static int redis_get(struct storage *storage, const char *workspace, enum storage_set set,
                     const char *const *keys, size_t n_keys, storage_field field, void *data,
                     struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    char key[KEY_MAX];
    char what[KEY_MAX + 8];
    const char *argv[2 + GET_CHUNK] = {"HMGET", key};
    if (set_key(key, workspace, set, err) < 0)
        return -1;
    snprintf(what, sizeof what, "HMGET %s", key);
    for (size_t done = 0; done < n_keys;) {
        REPLY_AUTO *reply = NULL;
        size_t n = n_keys - done < GET_CHUNK ? n_keys - done : GET_CHUNK;
        memcpy(argv + 2, keys + done, n * sizeof *argv);
        if (call(s, what, (int)n + 2, argv, NULL, &reply, err) < 0)
            return -1;
        if (reply->type != REDIS_REPLY_ARRAY || reply->elements != n)
            return unexpected(s, what, err);
        for (size_t i = 0; i < n; i++) {
            const redisReply *value = reply->element[i];
            if (value->type == REDIS_REPLY_NIL)
                continue;
            if (!is_text(value))
                return unexpected(s, what, err);
            int rc = field(data, keys[done + i], strlen(keys[done + i]), value->str, value->len);
            if (rc < 0)
                return rc;
        }
        done += n;
    }
    return 0;
}

/* ---- scripts ---- */

static int script_load(struct redis_storage *s, int script, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    if (call_connected(s, "SCRIPT LOAD", 3, (const char *[]){"SCRIPT", "LOAD", scripts[script]}, NULL, &reply,
                       err) < 0)
        return -1;
    if (!is_text(reply) || reply->len == 0 || reply->len >= sizeof s->sha[script])
        return unexpected(s, "SCRIPT LOAD", err);
    memcpy(s->sha[script], reply->str, reply->len + 1);
    return 0;
}

/* Runs a script; argv[0] and argv[1] (with their lengths) are filled here. The reply is an array that starts
 * with a word. A server that has forgotten the script (restart, SCRIPT FLUSH) is given it again. */
static int script_run(struct redis_storage *s, int script, const char *what, int argc, const char **argv,
                      size_t *lengths, redisReply **ret_reply, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    int rc = -1;
    for (int attempt = 0; attempt < 2; attempt++) {
        if (connected(s, err) < 0 || (!s->sha[script][0] && script_load(s, script, err) < 0))
            return -1;
        argv[0] = "EVALSHA";
        argv[1] = s->sha[script];
        lengths[0] = strlen(argv[0]);
        lengths[1] = strlen(argv[1]);
        rc = call_connected(s, what, argc, argv, lengths, &reply, &own);
        if (rc == 0 || !strstr(own.message, ": NOSCRIPT"))
            break;
        s->sha[script][0] = '\0';
    }
    if (rc < 0) {
        if (err)
            *err = own;
        return -1;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1 || !is_text(reply->element[0])) {
        freeReplyObject(reply);
        return unexpected(s, what, err);
    }
    *ret_reply = reply;
    return 0;
}

static bool says(const redisReply *reply, const char *word, size_t details)
{
    return strcmp(reply->element[0]->str, word) == 0 && reply->elements == 1 + details;
}

/* What both scripts may refuse. */
static int script_refused(struct redis_storage *s, const char *workspace, const redisReply *reply,
                          struct error *err)
{
    const char *peer = redis_peer(s->redis);
    if (says(reply, "type", 2) && is_array_of_text(reply))
        return error_set(err, ERROR_REFUSED, "%s: key %s is a %s, not a hash", peer, reply->element[1]->str,
                         reply->element[2]->str);
    if (says(reply, "format", 1) && is_array_of_text(reply))
        return error_set(err, ERROR_REFUSED,
                         "%s: workspace %s: format %.20s is newer than this program's (%d)", peer, workspace,
                         reply->element[1]->str, STORAGE_FORMAT);
    return unexpected(s, workspace, err);
}

/* ---- claim ---- */

/* Whether a crash of the server loses what it has answered (https://redis.io/docs/management/persistence/). A
 * user who may not ask gets "unknown". */
static int durability(struct redis_storage *s, struct storage_claim *claim, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    struct error own = {.code = ERROR_NONE};
    const char *appendonly = NULL;
    const char *appendfsync = NULL;
    if (call(s, "CONFIG GET append*", 3, (const char *[]){"CONFIG", "GET", "append*"}, NULL, &reply, &own) <
            0 &&
        own.code != ERROR_REFUSED) {
        if (err)
            *err = own;
        return -1;
    }
    if (reply && is_array_of_text(reply)) {
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

static int fill_keys(char keys[STORAGE_SETS][KEY_MAX], const char *workspace, const char **argv,
                     size_t *lengths, struct error *err)
{
    argv[0] = "9";
    argv[1] = WORKSPACES;
    for (int set = 0; set < STORAGE_SETS; set++) {
        if (set_key(keys[set], workspace, (enum storage_set)set, err) < 0)
            return -1;
        argv[2 + set] = keys[set];
    }
    for (int i = 0; i < 2 + STORAGE_SETS; i++)
        lengths[i] = strlen(argv[i]);
    return 0;
}
_Static_assert(STORAGE_SETS == 8, "the scripts' number of keys");

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

static int redis_claim(struct storage *storage, const char *workspace, const char *writer,
                       struct storage_claim *ret_claim, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    char keys[STORAGE_SETS][KEY_MAX];
    const char *argv[15];
    size_t lengths[15];
    char format[12];
    char what[KEY_MAX + 8];
    struct storage_claim claim = {.epoch = 0};
    REPLY_AUTO *reply = NULL;
    if (fill_keys(keys, workspace, argv + 2, lengths + 2, err) < 0)
        return -1;
    snprintf(format, sizeof format, "%d", STORAGE_FORMAT);
    snprintf(what, sizeof what, "claim %s", workspace);
    argv[12] = workspace;
    argv[13] = format;
    argv[14] = writer;
    for (int i = 12; i < 15; i++)
        lengths[i] = strlen(argv[i]);
    if (script_run(s, SCRIPT_CLAIM, what, 15, argv, lengths, &reply, err) < 0)
        return -1;
    if (says(reply, "absent", 0))
        return STORAGE_ABSENT;
    if (!says(reply, "claimed", 2) || !is_array_of_text(reply))
        return script_refused(s, workspace, reply, err);
    if (!parse_epoch(reply->element[1]->str, &claim.epoch))
        return error_set(err, ERROR_REFUSED, "%s: %s: epoch \"%.40s\" is no number", redis_peer(s->redis),
                         keys[STORAGE_CHECKPOINT], reply->element[1]->str);
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

static void arg(struct redis_storage *s, const char *text, size_t len)
{
    s->argv[s->argc] = text;
    s->lengths[s->argc++] = len;
}

/* One group of the commit script, at most OPS_CHUNK changes of one set and kind. */
static void group_args(struct redis_storage *s, const struct storage_op *ops, const uint32_t *order, size_t n)
{
    static const char *const kinds[] = {"put", "delete", "put_if", "delete_if"};
    static const char *const sets[] = {"2", "3", "4", "5", "6", "7", "8", "9"};
    const struct storage_op *first = &ops[order[0]];
    bool conditional = first->kind == STORAGE_PUT_IF || first->kind == STORAGE_DELETE_IF;
    bool put = first->kind == STORAGE_PUT_IF || first->kind == STORAGE_PUT;
    size_t at = s->group_sizes.len;
    buffer_append_u64(&s->group_sizes, n); /* the room is reserved: nothing moves */
    arg(s, sets[first->set], 1);
    arg(s, kinds[first->kind], strlen(kinds[first->kind]));
    arg(s, s->group_sizes.data + at, s->group_sizes.len - at);
    for (size_t i = 0; i < n && (conditional || !put); i++)
        arg(s, ops[order[i]].key, ops[order[i]].key_len);
    for (size_t i = 0; i < n && conditional; i++)
        arg(s, ops[order[i]].uuid, ops[order[i]].uuid_len);
    for (size_t i = 0; i < n && put; i++) {
        arg(s, ops[order[i]].key, ops[order[i]].key_len);
        arg(s, ops[order[i]].value, ops[order[i]].value_len);
    }
}

static int args_reserve(struct redis_storage *s, size_t n_ops, struct error *err)
{
    size_t groups = n_ops / OPS_CHUNK + STORAGE_SETS * 4;
    size_t need = ARGS_FIXED + 3 * groups + 4 * n_ops;
    buffer_reset(&s->group_sizes, SIZE_MAX);
    if (!buffer_reserve(&s->group_sizes, groups * 4))
        goto fail;
    s->argc = 0;
    if (need <= s->args_cap)
        return 0;
    const char **argv = realloc(s->argv, need * sizeof *argv);
    if (argv)
        s->argv = argv;
    size_t *lengths = realloc(s->lengths, need * sizeof *lengths);
    if (lengths)
        s->lengths = lengths;
    if (!argv || !lengths)
        goto fail;
    s->args_cap = need;
    return 0;
fail:
    buffer_done(&s->group_sizes);
    return error_set(err, ERROR_MEMORY, "no memory for a commit of %zu changes", n_ops);
}

static void args_release(struct redis_storage *s)
{
    if (s->args_cap <= ARGS_KEEP)
        return;
    free(s->argv);
    free(s->lengths);
    s->argv = NULL;
    s->lengths = NULL;
    s->args_cap = 0;
    buffer_done(&s->group_sizes);
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
    const char *detail = reply->elements > 1 && is_text(reply->element[1]) ? reply->element[1]->str : "";
    if (says(reply, "committed", 0))
        return 0;
    if (says(reply, "absent", 0)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s is gone", peer, workspace);
        return STORAGE_FENCED;
    }
    if (says(reply, "anew", 1)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s was created anew at %.40s (ours: %s)", peer, workspace,
                  detail, commit->creation);
        return STORAGE_FENCED;
    }
    if (says(reply, "writer", 1)) {
        error_set(err, ERROR_FENCED, "%s: workspace %s belongs to another writer, %.40s", peer, workspace,
                  detail);
        return STORAGE_FENCED;
    }
    if (says(reply, "rolled_back", 1)) {
        error_set(err, ERROR_FENCED,
                  "%s: workspace %s: epoch %.20s is stored, not %llu: the storage has lost data", peer,
                  workspace, detail, (unsigned long long)commit->epoch - 1);
        return STORAGE_ROLLED_BACK;
    }
    return script_refused(s, workspace, reply, err);
}

static int redis_commit(struct storage *storage, const struct storage_commit *commit, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    char keys[STORAGE_SETS][KEY_MAX];
    char what[KEY_MAX + 8];
    char format[12];
    char epoch[2][24];
    REPLY_AUTO *reply = NULL;
    assert(commit->epoch > 0);
    if (args_reserve(s, commit->n_ops, err) < 0 ||
        fill_keys(keys, commit->workspace, s->argv + 2, s->lengths + 2, err) < 0)
        return -1;
    snprintf(what, sizeof what, "commit %s", commit->workspace);
    snprintf(format, sizeof format, "%d", STORAGE_FORMAT);
    snprintf(epoch[0], sizeof epoch[0], "%llu", (unsigned long long)commit->epoch);
    snprintf(epoch[1], sizeof epoch[1], "%llu", (unsigned long long)commit->epoch - 1);
    const char *const fixed[] = {commit->workspace, format,   commit->writer,
                                 commit->creation,  epoch[0], epoch[1]};
    s->argc = ARGS_FIXED - sizeof fixed / sizeof fixed[0];
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++)
        arg(s, fixed[i], strlen(fixed[i]));
    int rc = ops_args(s, commit->ops, commit->n_ops, err);
    if (rc == 0 && s->argc > ARGS_MAX)
        rc = error_set(err, ERROR_LIMIT,
                       "a commit of %zu changes to workspace %s needs %zu arguments, more than %d",
                       commit->n_ops, commit->workspace, s->argc, ARGS_MAX);
    if (rc == 0)
        rc = script_run(s, SCRIPT_COMMIT, what, (int)s->argc, s->argv, s->lengths, &reply, err);
    args_release(s);
    return rc < 0 ? rc : commit_outcome(s, commit, reply, err);
}

/* ---- watching ----
 * Client-side caching of chosen keys (https://redis.io/docs/manual/client-side-caching/, OPTIN): the server
 * remembers the keys of the one command that follows CLIENT CACHING YES, existing or not, until the first of
 * anybody's changes to each, and tells of that on the second connection, as RESP2 needs. That costs a write
 * to any other key nothing; broadcast mode makes every write walk all prefixes that anybody watches. What our
 * other commands and the scripts read is not remembered.
 *
 * The server forgets all of it when the first connection closes, which a server with `timeout` does to idle
 * ones: so the caller's descriptor is an epoll that tells of that, too. */

static int watch_call(struct redis_storage *s, struct redis *redis, int argc, const char *const *argv,
                      redisReply **ret_reply, struct error *err)
{
    if (redis_call(redis, CALL_NS, s->head.heartbeat, s->head.heartbeat_data, argc, argv, NULL, ret_reply,
                   err) < 0)
        return redis_broken(redis) ? -1 : error_prefix(err, "%s: %s", redis_peer(redis), argv[0]);
    return 0;
}

static void watch_close(struct redis_storage *s)
{
    redis_free(s->watch);
    s->watch = NULL;
    s->tracking = false;
}

/* The connection's end is always told of. */
static int watch_poll(struct redis_storage *s, const struct redis *redis, uint32_t events, struct error *err)
{
    if (s->watch_fd < 0)
        s->watch_fd = epoll_create1(EPOLL_CLOEXEC);
    if (s->watch_fd < 0)
        return error_set_errno(err, errno, "watching the storage");
    struct epoll_event event = {.events = events | EPOLLRDHUP};
    if (epoll_ctl(s->watch_fd, EPOLL_CTL_ADD, redis_fd(redis), &event) < 0 && errno != EEXIST)
        return error_set_errno(err, errno, "watching the storage");
    return 0;
}

/* Opens the second connection, unless it is there and lives. What it still holds is older than what the
 * caller reads next. */
static int watch_open(struct redis_storage *s, struct error *err)
{
    REPLY_AUTO *id = NULL;
    REPLY_AUTO *subscribed = NULL;
    int rc = s->watch ? 0 : -1;
    while (rc == 0) {
        void *old = NULL;
        struct error ignored;
        rc = redis_receive(s->watch, &old, &ignored);
        if (rc == 0)
            freeReplyObject(old);
    }
    if (rc > 0)
        return 0;
    watch_close(s);
    if (redis_connect(&s->address, s->client_name, CONNECT_NS, -1, &s->watch, err) < 0 ||
        watch_call(s, s->watch, 2, (const char *[]){"CLIENT", "ID"}, &id, err) < 0 ||
        watch_call(s, s->watch, 2, (const char *[]){"SUBSCRIBE", INVALIDATE}, &subscribed, err) < 0)
        return -1;
    s->watch_id = id->integer;
    return watch_poll(s, s->watch, EPOLLIN, err);
}

static int watch_track(struct redis_storage *s, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    char id[24];
    if (s->tracking)
        return 0;
    snprintf(id, sizeof id, "%lld", s->watch_id);
    const char *const track[] = {"CLIENT", "TRACKING", "ON", "REDIRECT", id, "OPTIN"};
    if (call_connected(s, "CLIENT TRACKING", 6, track, NULL, &reply, err) < 0)
        return -1;
    s->tracking = true;
    return watch_poll(s, s->redis, 0, err);
}

/* HLEN, because it needs no permission that the rest does not. */
static int watch_arm(struct redis_storage *s, struct error *err)
{
    for (int i = 0; i < N_WATCHED; i++) {
        REPLY_AUTO *caching = NULL;
        REPLY_AUTO *len = NULL;
        if (call_connected(s, "CLIENT CACHING", 3, (const char *[]){"CLIENT", "CACHING", "YES"}, NULL,
                           &caching, err) < 0 ||
            call_connected(s, "HLEN", 2, (const char *[]){"HLEN", s->watched[i]}, NULL, &len, err) < 0)
            return -1;
    }
    return 0;
}

static int redis_watch(struct storage *storage, const char *workspace, int *ret_fd, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    struct error own = {.code = ERROR_NONE};
    if (set_key(s->watched[WATCH_TRIGGERS], workspace, STORAGE_TRIGGERS, err) < 0 ||
        set_key(s->watched[WATCH_EVENT_SOURCES], workspace, STORAGE_EVENT_SOURCES, err) < 0)
        return -1;
    bool reached = connected(s, &own) == 0;
    if (reached && watch_open(s, &own) == 0 && watch_track(s, &own) == 0 && watch_arm(s, &own) == 0) {
        *ret_fd = s->watch_fd;
        return 0;
    }
    watch_close(s);
    if (reached && own.code == ERROR_REFUSED) /* older than Redis 6, or not permitted */
        return STORAGE_ABSENT;
    if (err)
        *err = own;
    return -1;
}

/* Whether one notification, ["message", channel, [keys] or nil (everything was flushed)], is of a watched
 * key. */
static bool watch_concerns(const struct redis_storage *s, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements != 3)
        return false;
    const redisReply *keys = reply->element[2];
    if (keys->type != REDIS_REPLY_ARRAY)
        return keys->type == REDIS_REPLY_NIL;
    for (size_t k = 0; k < keys->elements; k++)
        for (int i = 0; i < N_WATCHED; i++)
            if (is_text(keys->element[k]) && strcmp(keys->element[k]->str, s->watched[i]) == 0)
                return true;
    return false;
}

static int redis_watch_read(struct storage *storage, struct error *err)
{
    struct redis_storage *s = (struct redis_storage *)storage;
    bool changed = false;
    if (!s->watch)
        return error_set(err, ERROR_UNAVAILABLE, "nothing is watched");
    drop_dead(s);
    for (;;) {
        void *reply = NULL;
        int rc = redis_receive(s->watch, &reply, err);
        if (rc < 0)
            return error_prefix(err, "watching %s", s->watched[WATCH_TRIGGERS]);
        if (rc > 0)
            return changed ? 0 : STORAGE_ABSENT;
        changed |= watch_concerns(s, reply);
        freeReplyObject(reply);
    }
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
    .claim = redis_claim,
    .load = redis_load,
    .get = redis_get,
    .commit = redis_commit,
    .watch = redis_watch,
    .watch_read = redis_watch_read,
};
