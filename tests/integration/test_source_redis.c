/* RedisEventSource passes the conformance test for event sources; and once more with `trim`, with which the
 * stream holds only what is not yet in a checkpoint. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "common/buffer.h"
#include "tests/support/redis_server.h"
#include "tests/support/source_conformance.h"
#include "tests/support/source_driver.h"

static struct redis_server server;

static int start(int proxy_port, int *ret_port)
{
    (void)proxy_port;
    if (redis_server_run(&server, (const char *[]){"--appendonly", "yes", "--appendfsync", "always", NULL}) <
        0)
        return -1;
    *ret_port = server.port;
    return 0;
}

static void stop(void)
{
    if (server.dir[0])
        redis_server_done(&server);
}

static void write_document(const struct source_queue *queue, const char *more, struct buffer *out)
{
    buffer_printf(out,
                  "\"class\":\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,"
                  "\"db\":0,\"password\":null,\"stream\":\"%s\"%s}",
                  queue->port, queue->name, more);
}

static void document(const struct source_queue *queue, struct buffer *out)
{
    write_document(queue, "", out);
}

static void document_trim(const struct source_queue *queue, struct buffer *out)
{
    write_document(queue, ",\"trim\":true", out);
}

static long long entries(const struct source_queue *queue)
{
    redisReply *reply = redis_server_do(&server, "XLEN %s", queue->name);
    long long n = reply && reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
    if (reply)
        freeReplyObject(reply);
    return n;
}

static int take_answer(void)
{
    void *answer = NULL;
    if (redisGetReply(server.client, &answer) != REDIS_OK)
        return -1;
    redisReply *reply = answer;
    int r = reply->type == REDIS_REPLY_ERROR ? -1 : 0;
    freeReplyObject(reply);
    return r;
}

static int append(const char *stream, const struct source_event *e)
{
    const char *argv[3 + 14] = {"XADD", stream,   "*",       "specversion", "1.0",  "id",
                                e->id,  "source", e->source, "type",        e->type};
    int n = 11;
    const char *const more[] = {"subject", e->subject, "triggerflowkey", e->key, "data", e->data};
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i += 2)
        if (more[i + 1]) {
            argv[n++] = more[i];
            argv[n++] = more[i + 1];
        }
    return redisAppendCommandArgv(server.client, n, argv, NULL) == REDIS_OK ? 0 : -1;
}

static int publish(const struct source_queue *queue, const struct source_event *events, size_t n)
{
    redisReply *reply = redis_server_do(&server, "PING"); /* makes the connection */
    int r = reply ? 0 : -1;
    if (reply)
        freeReplyObject(reply);
    for (size_t i = 0; i < n && r == 0; i++)
        r = append(queue->name, &events[i]);
    for (size_t i = 0; i < n && r == 0; i++)
        r = take_answer();
    if (r < 0)
        fprintf(stderr, "redis: %s\n", server.client ? server.client->errstr : "not connected");
    return r;
}

static int publish_undecodable(const struct source_queue *queue)
{
    redisReply *reply =
        redis_server_do(&server, "XADD %s * nonsense %b", queue->name, "\xff\0\x01", (size_t)3);
    int r = reply && reply->type == REDIS_REPLY_STRING ? 0 : -1;
    if (reply)
        freeReplyObject(reply);
    return r;
}

static int server_kill(void)
{
    redis_server_kill(&server);
    return 0;
}

static int server_start(void)
{
    return redis_server_restart(&server);
}

static const char *const crash_points[] = {"delivered", NULL};

#define DRIVER                                                                                     \
    .ordered = true, .events = 100000, .crash_points = crash_points, .start = start, .stop = stop, \
    .publish = publish, .publish_undecodable = publish_undecodable, .server_kill = server_kill,    \
    .server_start = server_start

static const struct source_driver plain = {.name = "redis", .document = document, DRIVER};
static const struct source_driver trimmed = {
    .name = "redis-trim", .document = document_trim, .unacknowledged = entries, DRIVER};

int main(int argc, char **argv)
{
    int failed = source_conformance(&plain, argc, argv);
    return source_conformance(&trimmed, argc, argv) || failed;
}
