/* How long a checkpoint takes in Redis: 200 trigger documents of about 500 bytes, each written only if its
 * uuid is still stored, against the floor: one plain HSET of the same documents, on the same server. Median
 * of 5 rounds. The server's own time is from INFO commandstats, so neither the network nor this program is in
 * it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/storage/storage.h"
#include "tests/support/redis_server.h"

#define DOCUMENTS 200
#define COMMITS 200 /* in a round */
#define ROUNDS 5
#define PADDING 190

struct documents {
    char id[DOCUMENTS][24];
    char uuid[DOCUMENTS][40];
    char text[DOCUMENTS][1024];
    struct storage_op ops[DOCUMENTS];
};

static int compare(const void *a, const void *b)
{
    const double *x = a;
    const double *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double values[ROUNDS])
{
    qsort(values, ROUNDS, sizeof *values, compare);
    return values[ROUNDS / 2];
}

static void fill(struct documents *d, int counter)
{
    for (int i = 0; i < DOCUMENTS; i++) {
        snprintf(d->id[i], sizeof d->id[i], "trigger-%05d", i);
        snprintf(d->uuid[i], sizeof d->uuid[i], "%08x-1111-4222-8333-%012x", (unsigned)i * 2654435761u,
                 (unsigned)i);
        int n =
            snprintf(d->text[i], sizeof d->text[i],
                     "{\"id\":\"%s\",\"condition\":{\"name\":\"JOIN\"},\"action\":{\"name\":\"TERMINATE\"},"
                     "\"context\":{\"join\":1000,\"counter\":%d,\"note\":\"%0*d\"},\"activation_events\":"
                     "[{\"specversion\":\"1.0\",\"type\":\"event.triggerflow.test\",\"subject\":\"%s\"}],"
                     "\"transient\":false,\"uuid\":\"%s\",\"workspace\":\"bench\",\"timestamp\":\"t\"}",
                     d->id[i], counter, PADDING, 0, d->id[i], d->uuid[i]);
        d->ops[i] = (struct storage_op){.set = STORAGE_TRIGGERS,
                                        .kind = STORAGE_PUT_IF,
                                        .key = d->id[i],
                                        .key_len = strlen(d->id[i]),
                                        .value = d->text[i],
                                        .value_len = (size_t)n,
                                        .uuid = d->uuid[i],
                                        .uuid_len = strlen(d->uuid[i])};
    }
}

/* Microseconds that the server has spent in a command since the statistics were reset. */
static double server_us(struct redis_server *server, const char *command)
{
    char name[64];
    double us = 0;
    redisReply *reply = redis_server_do(server, "INFO commandstats");
    snprintf(name, sizeof name, "cmdstat_%s:", command);
    const char *line = reply && reply->str ? strstr(reply->str, name) : NULL;
    const char *at = line ? strstr(line, "usec=") : NULL;
    if (at)
        us = strtod(at + 5, NULL);
    freeReplyObject(reply);
    freeReplyObject(redis_server_do(server, "CONFIG RESETSTAT"));
    return us;
}

static int plain_hset(struct redis_server *server, const struct documents *d)
{
    const char *argv[2 + 2 * DOCUMENTS] = {"HSET", "plain"};
    for (int i = 0; i < DOCUMENTS; i++) {
        argv[2 + 2 * i] = d->id[i];
        argv[3 + 2 * i] = d->text[i];
    }
    redisReply *reply = redisCommandArgv(server->client, 2 + 2 * DOCUMENTS, argv, NULL);
    if (!reply)
        return -1;
    freeReplyObject(reply);
    return 0;
}

static int run(struct redis_server *server, struct storage *storage, struct documents *d, struct error *err)
{
    struct storage_claim claim;
    double commit_ms[ROUNDS];
    double commit_server_ms[ROUNDS];
    double floor_ms[ROUNDS];
    double floor_server_ms[ROUNDS];
    freeReplyObject(redis_server_do(server, "HSET triggerflow-workspaces bench 1"));
    if (storage->type->claim(storage, "bench", "writer", &claim, err) != 0)
        return -1;
    fill(d, 0);
    for (int i = 0; i < DOCUMENTS; i++)
        freeReplyObject(redis_server_do(server, "HSET bench-triggers %s %s", d->id[i], d->text[i]));
    struct storage_commit commit = {"bench", claim.creation, "writer", 0, d->ops, DOCUMENTS, 0};
    for (int round = 0; round < ROUNDS; round++) {
        (void)server_us(server, "");
        uint64_t start = clock_now_ns();
        for (int i = 0; i < COMMITS; i++) {
            commit.epoch++;
            if (storage->type->commit(storage, &commit, err) != 0)
                return -1;
        }
        commit_ms[round] = (double)(clock_now_ns() - start) / 1e6 / COMMITS;
        commit_server_ms[round] = server_us(server, "evalsha") / 1e3 / COMMITS;
        start = clock_now_ns();
        for (int i = 0; i < COMMITS; i++)
            if (plain_hset(server, d) < 0)
                return -1;
        floor_ms[round] = (double)(clock_now_ns() - start) / 1e6 / COMMITS;
        floor_server_ms[round] = server_us(server, "hset") / 1e3 / COMMITS;
    }
    double total = median(commit_ms);
    double in_server = median(commit_server_ms);
    double floor_total = median(floor_ms);
    double floor_in_server = median(floor_server_ms);
    printf("bench commit_redis documents=%d bytes=%zu ms=%.3f floor_ms=%.3f ratio=%.2f\n", DOCUMENTS,
           d->ops[0].value_len, total, floor_total, total / floor_total);
    printf("bench commit_redis_server documents=%d ms=%.3f floor_ms=%.3f ratio=%.2f\n", DOCUMENTS, in_server,
           floor_in_server, in_server / floor_in_server);
    return 0;
}

int main(void)
{
    static char backend[] = "redis";
    static char host[] = "127.0.0.1";
    static char none[] = "";
    static struct documents documents;
    struct redis_server server;
    struct storage *storage = NULL;
    struct error err = {.code = ERROR_NONE};
    if (!redis_server_available()) {
        printf("bench commit_redis skipped: no redis-server\n");
        return 0;
    }
    int rc = redis_server_run(&server, NULL);
    struct config config = {.storage_backend = backend,
                            .storage_host = host,
                            .storage_port = server.port,
                            .storage_username = none,
                            .storage_password = none,
                            .storage_tls_ca = none,
                            .storage_tls_cert = none,
                            .storage_tls_key = none};
    if (rc == 0)
        rc = storage_open(&config, "bench", &storage, &err);
    if (rc == 0)
        rc = run(&server, storage, &documents, &err);
    if (rc != 0)
        fprintf(stderr, "bench commit_redis: %s\n", err.message);
    storage_close(storage);
    redis_server_done(&server);
    return rc == 0 ? 0 : 1;
}
