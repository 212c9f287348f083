#include "tests/support/workspace.h"

#include <stdlib.h>
#include <string.h>
#include <json-c/json.h>

#include "tests/support/redis_server.h"

#define SHOWN 300 /* bytes of one dumped value */

static const char *const sets[] = {"triggers", "event_sources", "global_context", "checkpoint",
                                   "outbox",   "internal",      "timers",         "dead_letters"};

/* Takes the reply. */
static int done(redisReply *reply)
{
    int r = reply && reply->type != REDIS_REPLY_ERROR ? 0 : -1;
    if (reply && r < 0)
        fprintf(stderr, "redis: %s\n", reply->str);
    if (reply)
        freeReplyObject(reply);
    return r;
}

int workspace_create(struct workspace *workspace, struct redis_server *redis, const char *name)
{
    static unsigned created;
    *workspace = (struct workspace){.redis = redis};
    snprintf(workspace->name, sizeof workspace->name, "%s", name);
    snprintf(workspace->creation, sizeof workspace->creation, "17000%05u.25", ++created);
    if (workspace_delete(workspace) < 0)
        return -1;
    return done(redis_server_do(redis, "HSET triggerflow-workspaces %s %s", name, workspace->creation));
}

int workspace_delete(const struct workspace *workspace)
{
    int r = done(redis_server_do(workspace->redis, "HDEL triggerflow-workspaces %s", workspace->name));
    for (size_t i = 0; i < sizeof sets / sizeof sets[0]; i++)
        r |= done(redis_server_do(workspace->redis, "DEL %s-%s", workspace->name, sets[i]));
    return r;
}

int workspace_put_trigger(const struct workspace *workspace, const char *id, const char *document)
{
    return done(redis_server_do(workspace->redis, "HSET %s-triggers %s %s", workspace->name, id, document));
}

int workspace_trigger(const struct workspace *workspace, const char *id, const char *condition,
                      const char *action, const char *context, const char *activation, bool transient)
{
    char *document = NULL;
    if (asprintf(
            &document,
            "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"%s\",\"timestamp\":\"2020-10-20T13:00:00."
            "000000\",\"condition\":%s,\"action\":%s,\"context\":%s,\"activation_events\":[%s],"
            "\"transient\":%s}",
            id, id, workspace->name, condition, action, context, activation,
            transient ? "true" : "false") < 0)
        return -1;
    int r = workspace_put_trigger(workspace, id, document);
    free(document);
    return r;
}

int workspace_delete_trigger(const struct workspace *workspace, const char *id)
{
    return done(redis_server_do(workspace->redis, "HDEL %s-triggers %s", workspace->name, id));
}

int workspace_source(const struct workspace *workspace, const char *name, const char *stream,
                     const char *more)
{
    char document[512];
    snprintf(
        document, sizeof document,
        "{\"name\":\"%s\",\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,"
        "\"db\":0,\"password\":null,\"stream\":\"%s\"%s}}",
        name, workspace->redis->port, stream, more);
    return workspace_put_source(workspace, name, document);
}

int workspace_put_source(const struct workspace *workspace, const char *name, const char *document)
{
    return done(
        redis_server_do(workspace->redis, "HSET %s-event_sources %s %s", workspace->name, name, document));
}

int workspace_delete_source(const struct workspace *workspace, const char *name)
{
    return done(redis_server_do(workspace->redis, "HDEL %s-event_sources %s", workspace->name, name));
}

/* --- events --- */

static int append_event(redisContext *client, const char *stream, const struct publication *p)
{
    const struct {
        const char *name, *value;
    } attributes[] = {{"specversion", "1.0"}, {"id", p->id},           {"source", "urn:test"},
                      {"type", p->type},      {"subject", p->subject}, {"triggerflowkey", p->key},
                      {"data", p->data}};
    const char *argv[3 + 14] = {"XADD", stream, "*"};
    int n = 3;
    for (size_t i = 0; i < sizeof attributes / sizeof attributes[0]; i++)
        if (attributes[i].value) {
            argv[n++] = attributes[i].name;
            argv[n++] = attributes[i].value;
        }
    return redisAppendCommandArgv(client, n, argv, NULL) == REDIS_OK ? 0 : -1;
}

int workspace_publish(const struct workspace *workspace, const char *stream, const struct publication *events,
                      size_t n)
{
    redisReply *reply = redis_server_do(workspace->redis, "PING"); /* makes the connection */
    int r = done(reply);
    redisContext *client = workspace->redis->client;
    for (size_t i = 0; i < n && r == 0; i++)
        r = append_event(client, stream, &events[i]);
    for (size_t i = 0; i < n && r == 0; i++) {
        void *answer = NULL;
        r = redisGetReply(client, &answer) == REDIS_OK ? done(answer) : -1;
    }
    return r;
}

int workspace_publish_one(const struct workspace *workspace, const char *stream, const char *id,
                          const char *type, const char *subject, const char *data)
{
    struct publication event = {.id = id, .type = type, .subject = subject, .data = data};
    return workspace_publish(workspace, stream, &event, 1);
}

/* --- what is stored --- */

char *workspace_get(const struct workspace *workspace, const char *set, const char *field)
{
    redisReply *reply = redis_server_do(workspace->redis, "HGET %s-%s %s", workspace->name, set, field);
    char *text = reply && reply->type == REDIS_REPLY_STRING ? strdup(reply->str) : NULL;
    if (reply)
        freeReplyObject(reply);
    return text;
}

static long long number(redisReply *reply)
{
    long long n = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    if (reply)
        freeReplyObject(reply);
    return n;
}

long long workspace_count(const struct workspace *workspace, const char *set)
{
    return number(redis_server_do(workspace->redis, "HLEN %s-%s", workspace->name, set));
}

long long workspace_stream_length(const struct workspace *workspace, const char *stream)
{
    return number(redis_server_do(workspace->redis, "XLEN %s", stream));
}

long long workspace_context(const struct workspace *workspace, const char *trigger, const char *member)
{
    char *text = workspace_get(workspace, "triggers", trigger);
    struct json_object *root = text ? json_tokener_parse(text) : NULL;
    struct json_object *value = NULL;
    long long n = -1;
    if (root && json_object_object_get_ex(root, "context", &value) &&
        json_object_object_get_ex(value, member, &value))
        n = json_object_get_int64(value);
    json_object_put(root);
    free(text);
    return n;
}

int workspace_dead_letters(const struct workspace *workspace, const char *reason)
{
    char wanted[96];
    int n = 0;
    redisReply *reply = redis_server_do(workspace->redis, "HVALS %s-dead_letters", workspace->name);
    snprintf(wanted, sizeof wanted, "{\"reason\":\"%s\"", reason);
    for (size_t i = 0; reply && reply->type == REDIS_REPLY_ARRAY && i < reply->elements; i++)
        n += strncmp(reply->element[i]->str, wanted, strlen(wanted)) == 0;
    if (reply)
        freeReplyObject(reply);
    return n;
}

bool workspace_settled(const struct workspace *workspace, const char *source, const char *stream)
{
    /* One script: these are one moment's. */
    static const char script[] = "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)\n"
                                 "local position = redis.call('HGET', KEYS[2], ARGV[1])\n"
                                 "local left = redis.call('HLEN', KEYS[3]) + redis.call('HLEN', KEYS[4])\n"
                                 "if left > 0 then return 0 end\n"
                                 "if not last[1] then return 1 end\n"
                                 "if not position then return 0 end\n"
                                 "return cjson.decode(position).id == last[1][1] and 1 or 0";
    const char *ws = workspace->name;
    return number(redis_server_do(workspace->redis,
                                  "EVAL %s 4 %s %s-checkpoint %s-outbox %s-internal position:%s", script,
                                  stream, ws, ws, ws, source)) == 1;
}

static void dump_hash(const struct workspace *workspace, const char *set)
{
    redisReply *reply = redis_server_do(workspace->redis, "HGETALL %s-%s", workspace->name, set);
    for (size_t i = 0; reply && reply->type == REDIS_REPLY_ARRAY && i + 1 < reply->elements && i < 400;
         i += 2)
        fprintf(stderr, "%s %s: %.*s\n", set, reply->element[i]->str, SHOWN, reply->element[i + 1]->str);
    if (reply)
        freeReplyObject(reply);
}

void workspace_dump(const struct workspace *workspace, const char *stream)
{
    fprintf(stderr, "--- workspace %s, stream %s of %lld entries, %lld dead letters\n", workspace->name,
            stream, workspace_stream_length(workspace, stream), workspace_count(workspace, "dead_letters"));
    redisReply *last = redis_server_do(workspace->redis, "XREVRANGE %s + - COUNT 1", stream);
    if (last && last->type == REDIS_REPLY_ARRAY && last->elements)
        fprintf(stderr, "last entry: %s\n", last->element[0]->element[0]->str);
    if (last)
        freeReplyObject(last);
    dump_hash(workspace, "checkpoint");
    dump_hash(workspace, "outbox");
    dump_hash(workspace, "internal");
}
