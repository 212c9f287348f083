#include "common/storage/redis_scripts.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"

#define ARGS_KEEP 65536 /* argument slots kept from script to script */

/* All scripts: KEYS are triggerflow-workspaces, the sets in the order of enum storage_set, the events and
 * their ids; ARGV begins with the workspace and the format; what they return is a word and its details.
 *
 * Redis refuses a script's first write when it is out of memory, unless a write that needs none came before:
 * so a script puts before it deletes or trims. To see before anything is changed whether the user may do all
 * of it, a script first does nothing in each way: a field put as it is, or one deleted that is not there. */
#define SCRIPT_TYPES                                                                                       \
    "local kinds = {}\n"                                                                                   \
    "for i = 1, #KEYS do\n"                                                                                \
    "  kinds[i] = redis.call('TYPE', KEYS[i]).ok\n"                                                        \
    "  local wanted = i <= 9 and 'hash' or 'stream'\n"                                                     \
    "  if kinds[i] ~= wanted and kinds[i] ~= 'none' then return {'type', KEYS[i], kinds[i], wanted} end\n" \
    "end\n"                                                                                                \
    "local checkpoint = KEYS[5]\n"                                                                         \
    "local creation = redis.call('HGET', KEYS[1], ARGV[1])\n"

#define SCRIPT_STORED                              \
    SCRIPT_TYPES                                   \
    "if not creation then return {'absent'} end\n" \
    "local have = redis.call('HMGET', checkpoint, 'format', 'epoch', 'writer', 'creation')\n"

#define SCRIPT_FORMAT                                                                          \
    "if have[1] and not (tonumber(have[1]) and tonumber(have[1]) <= tonumber(ARGV[2])) then\n" \
    "  return {'format', have[1]}\n"                                                           \
    "end\n"

/* Whether a stored document has the uuid is seen by plain finds: decoding every document would cost ten times
 * as much. Only a document that holds the text otherwise, or may hold it escaped, is decoded. */
#define SCRIPT_SAME                                                                                 \
    "local find, sub = string.find, string.sub\n"                                                   \
    "local function same(document, uuid)\n"                                                         \
    "  if not document then return false end\n"                                                     \
    "  if uuid == '' then return true end\n"                                                        \
    "  local first, last = find(document, uuid, 1, true)\n"                                         \
    "  if not first and not find(document, '\\\\', 1, true) then return false end\n"                \
    "  while first do\n"                                                                            \
    "    if sub(document, last + 1, last + 1) == '\"' and (sub(document, first - 8, first - 1) == " \
    "'\"uuid\":\"' or\n"                                                                            \
    "        sub(document, first - 9, first - 1) == '\"uuid\": \"') then\n"                         \
    "      return true\n"                                                                           \
    "    end\n"                                                                                     \
    "    first, last = find(document, uuid, last + 1, true)\n"                                      \
    "  end\n"                                                                                       \
    "  local ok, value = pcall(cjson.decode, document)\n"                                           \
    "  return ok and type(value) == 'table' and value.uuid == uuid\n"                               \
    "end\n"

/* The changes of storage_edit and storage_create from ARGV[4] on: kind's letter and the number of the set's
 * key, field, uuid (u, x), value (p, n, u). */
#define SCRIPT_APPLY                                                                                   \
    SCRIPT_SAME                                                                                        \
    "local results = {}\n"                                                                             \
    "local function apply(at)\n"                                                                       \
    "  local kind, key, field = sub(ARGV[at], 1, 1), KEYS[tonumber(sub(ARGV[at], 2))], ARGV[at + 1]\n" \
    "  if kind == 'p' then\n"                                                                          \
    "    redis.call('HSET', key, field, ARGV[at + 2])\n"                                               \
    "    return 0, at + 3\n"                                                                           \
    "  elseif kind == 'n' then\n"                                                                      \
    "    if redis.call('HMGET', key, field)[1] then return 4, at + 3 end\n"                            \
    "    redis.call('HSET', key, field, ARGV[at + 2])\n"                                               \
    "    return 0, at + 3\n"                                                                           \
    "  elseif kind == 'd' then\n"                                                                      \
    "    return 1 - redis.call('HDEL', key, field), at + 2\n"                                          \
    "  end\n"                                                                                          \
    "  local next = at + (kind == 'u' and 4 or 3)\n"                                                   \
    "  if not same(redis.call('HMGET', key, field)[1], ARGV[at + 2]) then return 1, next end\n"        \
    "  if kind == 'u' then\n"                                                                          \
    "    redis.call('HSET', key, field, ARGV[at + 3])\n"                                               \
    "  else\n"                                                                                         \
    "    redis.call('HDEL', key, field)\n"                                                             \
    "  end\n"                                                                                          \
    "  return 0, next\n"                                                                               \
    "end\n"                                                                                            \
    "local at, n = 4, 0\n"                                                                             \
    "while ARGV[at] do\n"                                                                              \
    "  n = n + 1\n"                                                                                    \
    "  results[n], at = apply(at)\n"                                                                   \
    "end\n"

/* ARGV: workspace, format, writer. The HDEL and XTRIM of nothing show whether the user may do that, before
 * anything is written; a commit then fails for no such reason half-way. */
static const char script_claim[] = SCRIPT_STORED SCRIPT_FORMAT
    "redis.call('HDEL', checkpoint, 'claim:probe')\n"
    "if kinds[10] ~= 'none' then redis.call('XTRIM', KEYS[10], 'MINID', '0') end\n"
    "local epoch = have[2]\n"
    "if have[4] and have[4] ~= creation then\n"
    "  redis.call('DEL', checkpoint, KEYS[6], KEYS[7], KEYS[8], KEYS[10], KEYS[11])\n"
    "  epoch = false\n"
    "end\n"
    "redis.call('HSET', checkpoint, 'format', ARGV[2], 'writer', ARGV[3], 'creation', creation)\n"
    "return {'claimed', epoch or '0', creation}\n";

/* ARGV: workspace, format, writer, creation, epoch, epoch before, the least group of the log that stays (""),
 * and then groups: number of the set's key in KEYS, kind, n, and
 *   put:       n times key value
 *   delete:    n keys
 *   put_if:    n keys, n uuids, n times key value
 *   delete_if: n keys, n uuids */
static const char script_commit[] = SCRIPT_STORED
    "if creation ~= ARGV[4] then return {'anew', creation} end\n" SCRIPT_FORMAT
    "local epoch, writer = have[2] or '0', have[3]\n"
    "if writer and writer ~= ARGV[3] then return {'writer', writer} end\n"
    "if writer and epoch == ARGV[5] then return {'committed'} end\n"
    "if not writer or epoch ~= ARGV[6] then return {'rolled_back', epoch} end\n" SCRIPT_SAME
    "redis.call('HSET', checkpoint, 'epoch', ARGV[5])\n"
    "if ARGV[7] ~= '' then redis.call('XTRIM', KEYS[10], 'MINID', ARGV[7]) end\n"
    "local at = 8\n"
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

/* ARGV: workspace, format, writer, number, the least number whose ids stay, events, ids. The last entry of
 * the ids tells which group was appended last, and by whom; it is never trimmed. Numbers are compared as
 * text, because Lua's are not exact above 2^53. The first group finds out whether the user may trim. */
static const char script_log_append[] = SCRIPT_STORED SCRIPT_FORMAT
    "if have[4] ~= creation then return {'anew', creation} end\n"
    "if have[3] ~= ARGV[3] then return {'writer', have[3] or 'nobody'} end\n"
    "local number, last = ARGV[4], redis.call('XREVRANGE', KEYS[11], '+', '-', 'COUNT', 1)[1]\n"
    "if last then\n"
    "  local at = string.match(last[1], '^%d+')\n"
    "  if at == number and last[2][1] == 'writer' and last[2][2] == ARGV[3] then return {'appended'} end\n"
    "  if #number < #at or #number == #at and number <= at then return {'behind', at} end\n"
    "end\n"
    "if kinds[10] == 'none' then\n"
    "  redis.call('HSET', checkpoint, 'writer', ARGV[3])\n"
    "  redis.call('XTRIM', KEYS[10], 'MINID', '0')\n"
    "end\n"
    "local id = number .. '-0'\n"
    "redis.call('XADD', KEYS[10], id, 'events', ARGV[6])\n"
    "redis.call('XADD', KEYS[11], id, 'writer', ARGV[3], 'ids', ARGV[7])\n"
    "if ARGV[5] ~= '0' then redis.call('XTRIM', KEYS[11], 'MINID', ARGV[5]) end\n"
    "return {'appended'}\n";

/* ARGV: workspace, format, creation, changes. */
static const char script_create[] =
    SCRIPT_TYPES "if creation then return {'exists'} end\n"
                 "for i = 2, #KEYS do\n"
                 "  if kinds[i] ~= 'none' then redis.call('DEL', KEYS[i]) end\n"
                 "end\n"
                 "redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])\n" SCRIPT_APPLY "return {'created'}\n";

/* ARGV: workspace, format. What a refused DEL leaves over, the next create removes. */
static const char script_remove[] = SCRIPT_STORED SCRIPT_FORMAT "redis.call('HDEL', KEYS[1], ARGV[1])\n"
                                                                "redis.call('DEL', unpack(KEYS, 2))\n"
                                                                "return {'removed'}\n";

/* ARGV: workspace, format, whether it both puts and deletes ("1"), changes. A user who may do one of them
 * only is refused before anything is changed. */
static const char script_edit[] =
    SCRIPT_STORED SCRIPT_FORMAT "if ARGV[3] == '1' then\n"
                                "  redis.call('HSET', KEYS[1], ARGV[1], creation)\n"
                                "  redis.call('HDEL', checkpoint, 'edit:probe')\n"
                                "end\n" SCRIPT_APPLY "return {'edited', table.concat(results)}\n";

static const char *const scripts[N_SCRIPTS] = {
    [SCRIPT_CLAIM] = script_claim,   [SCRIPT_COMMIT] = script_commit, [SCRIPT_LOG_APPEND] = script_log_append,
    [SCRIPT_CREATE] = script_create, [SCRIPT_REMOVE] = script_remove, [SCRIPT_EDIT] = script_edit,
};
_Static_assert(STORAGE_FORMAT == 1 && STORAGE_SETS == 8 && STORAGE_ABSENT == 1 && STORAGE_EXISTS == 4,
               "as the scripts have them");

/* ---- arguments ---- */

int redis_script_keys(struct redis_script_keys *keys, const char *workspace, const char **argv,
                      size_t *lengths, struct error *err)
{
    argv[2] = "11";
    argv[3] = WORKSPACES;
    for (int set = 0; set < STORAGE_SETS; set++) {
        if (redis_storage_key(keys->sets[set], workspace, (enum storage_set)set, err) < 0)
            return -1;
        argv[4 + set] = keys->sets[set];
    }
    for (int i = 0; i < 2; i++) {
        if (redis_storage_log_key(keys->log[i], workspace, i == 1, err) < 0)
            return -1;
        argv[4 + STORAGE_SETS + i] = keys->log[i];
    }
    for (int i = 2; i < SCRIPT_ARG; i++)
        lengths[i] = strlen(argv[i]);
    return 0;
}
_Static_assert(SCRIPT_N_KEYS == 11, "the number of keys above");

int redis_script_reserve(struct redis_storage *s, size_t argc, size_t n_numbers, const char *what,
                         struct error *err)
{
    buffer_reset(&s->group_sizes, SIZE_MAX);
    s->argc = SCRIPT_ARG;
    if (n_numbers && !buffer_reserve(&s->group_sizes, n_numbers * 20))
        goto fail;
    if (argc <= s->args_cap)
        return 0;
    const char **argv = realloc(s->argv, argc * sizeof *argv);
    if (argv)
        s->argv = argv;
    size_t *lengths = realloc(s->lengths, argc * sizeof *lengths);
    if (lengths)
        s->lengths = lengths;
    if (!argv || !lengths)
        goto fail;
    s->args_cap = argc;
    return 0;
fail:
    buffer_done(&s->group_sizes);
    return error_set(err, ERROR_MEMORY, "%s: no memory for %zu arguments", what, argc);
}

void redis_script_arg(struct redis_storage *s, const char *text, size_t len)
{
    assert(s->argc < s->args_cap);
    s->argv[s->argc] = text ? text : "";
    s->lengths[s->argc++] = len;
}

void redis_script_arg_number(struct redis_storage *s, uint64_t number)
{
    size_t at = s->group_sizes.len;
    buffer_append_u64(&s->group_sizes, number); /* the room is reserved: nothing moves */
    redis_script_arg(s, s->group_sizes.data + at, s->group_sizes.len - at);
}

void redis_script_release(struct redis_storage *s)
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

/* ---- sending ---- */

static int script_load(struct redis_storage *s, int script, struct error *err)
{
    REPLY_AUTO *reply = NULL;
    if (redis_storage_call_connected(s, "SCRIPT LOAD", 3, (const char *[]){"SCRIPT", "LOAD", scripts[script]},
                                     NULL, &reply, err) < 0)
        return -1;
    if (!redis_is_text(reply) || reply->len == 0 || reply->len >= sizeof s->sha[script])
        return redis_storage_unexpected(s, "SCRIPT LOAD", err);
    memcpy(s->sha[script], reply->str, reply->len + 1);
    return 0;
}

int redis_script_run(struct redis_storage *s, enum redis_script script, const char *what, size_t argc,
                     const char **argv, size_t *lengths, redisReply **ret_reply, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    redisReply *reply = NULL;
    int rc = -1;
    for (int attempt = 0; attempt < 2; attempt++) {
        if (redis_storage_connected(s, err) < 0 || (!s->sha[script][0] && script_load(s, script, err) < 0))
            return -1;
        argv[0] = "EVALSHA";
        argv[1] = s->sha[script];
        lengths[0] = strlen(argv[0]);
        lengths[1] = strlen(argv[1]);
        rc = redis_storage_call_connected(s, what, (int)argc, argv, lengths, &reply, &own);
        if (rc == 0 || !strstr(own.message, ": NOSCRIPT"))
            break;
        s->sha[script][0] = '\0';
    }
    if (rc < 0) {
        if (err)
            *err = own;
        return -1;
    }
    if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 1 || !redis_is_text(reply->element[0])) {
        freeReplyObject(reply);
        return redis_storage_unexpected(s, what, err);
    }
    *ret_reply = reply;
    return 0;
}

bool redis_script_says(const redisReply *reply, const char *word, size_t details)
{
    return strcmp(reply->element[0]->str, word) == 0 && reply->elements == 1 + details;
}

int redis_script_refused(struct redis_storage *s, const char *workspace, const redisReply *reply,
                         struct error *err)
{
    const char *peer = redis_peer(s->redis);
    if (redis_script_says(reply, "type", 3) && redis_is_array_of_text(reply))
        return error_set(err, ERROR_REFUSED, "%s: key %s is a %s, not a %s", peer, reply->element[1]->str,
                         reply->element[2]->str, reply->element[3]->str);
    if (redis_script_says(reply, "format", 1) && redis_is_array_of_text(reply))
        return error_set(err, ERROR_REFUSED,
                         "%s: workspace %s: format %.20s is newer than this program's (%d)", peer, workspace,
                         reply->element[1]->str, STORAGE_FORMAT);
    return redis_storage_unexpected(s, workspace, err);
}
