/* How long a checkpoint takes: 200 trigger documents of about 500 bytes, each written only if its uuid is
 * still stored. Median of 5 rounds.
 *
 * In Redis the floor is one plain HSET of the same documents, on the same server; the server's own time is
 * from INFO commandstats, so neither the network nor this program is in it. In SQLite it is one bare
 * transaction that upserts the same rows into the same file; for a group of the event log, one write and
 * fdatasync of as many bytes. */
#include <fcntl.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

/* Other documents of the same size: SQLite does not write what is there already. */
static void change(struct documents *d)
{
    static unsigned n;
    n++;
    for (int i = 0; i < DOCUMENTS; i++) {
        char *note = strstr(d->text[i], "\"note\":\"");
        note[8] = (char)('0' + n % 10);
        note[9] = (char)('0' + n / 10 % 10);
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
            change(d);
            commit.epoch++;
            if (storage->type->commit(storage, &commit, err) != 0)
                return -1;
        }
        commit_ms[round] = (double)(clock_now_ns() - start) / 1e6 / COMMITS;
        commit_server_ms[round] = server_us(server, "evalsha") / 1e3 / COMMITS;
        start = clock_now_ns();
        for (int i = 0; i < COMMITS; i++) {
            change(d);
            if (plain_hset(server, d) < 0)
                return -1;
        }
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

static int bench_redis(struct documents *documents)
{
    static char backend[] = "redis";
    static char host[] = "127.0.0.1";
    static char none[] = "";
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
        rc = run(&server, storage, documents, &err);
    if (rc != 0)
        fprintf(stderr, "bench commit_redis: %s\n", err.message);
    storage_close(storage);
    redis_server_done(&server);
    return rc;
}

/* ---- SQLite ---- */

#define GROUPS 2000 /* in a round */
#define GROUP_BYTES 700

/* The least that is to be done in the file: a transaction of upserts. */
static int plain_upsert(sqlite3 *db, sqlite3_stmt *stmt, const struct documents *d)
{
    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return -1;
    for (int i = 0; i < DOCUMENTS; i++) {
        sqlite3_bind_text(stmt, 1, d->id[i], -1, SQLITE_STATIC);
        sqlite3_bind_text(stmt, 2, d->text[i], (int)d->ops[i].value_len, SQLITE_STATIC);
        if (sqlite3_step(stmt) != SQLITE_DONE)
            return -1;
        sqlite3_reset(stmt);
    }
    return sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK ? 0 : -1;
}

static int floor_rounds(const char *path, struct documents *d, int n, double *ret_ms)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    int rc = -1;
    if (sqlite3_open(path, &db) == SQLITE_OK &&
        sqlite3_exec(db, "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=2000", NULL, NULL, NULL) ==
            SQLITE_OK &&
        sqlite3_prepare_v2(db,
                           "INSERT INTO triggers(key, value) VALUES(?1, ?2)"
                           " ON CONFLICT(key) DO UPDATE SET value=excluded.value, sum=NULL",
                           -1, &stmt, NULL) == SQLITE_OK) {
        uint64_t start = clock_now_ns();
        rc = 0;
        for (int i = 0; i < n && rc == 0; i++) {
            change(d);
            rc = plain_upsert(db, stmt, d);
        }
        *ret_ms = (double)(clock_now_ns() - start) / 1e6 / n;
    }
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return rc;
}

static int commits(struct storage *storage, struct documents *d, uint64_t *epoch, int n, double *ret_ms,
                   struct error *err)
{
    struct storage_commit commit = {"bench", "1", "writer", 0, d->ops, DOCUMENTS, 0};
    uint64_t start = clock_now_ns();
    for (int i = 0; i < n; i++) {
        change(d);
        commit.epoch = ++*epoch;
        if (storage->type->commit(storage, &commit, err) != 0)
            return -1;
    }
    *ret_ms = (double)(clock_now_ns() - start) / 1e6 / n;
    return 0;
}

static int appends(struct storage *storage, uint64_t *number, double *ret_us, struct error *err)
{
    static char bytes[GROUP_BYTES];
    uint64_t start = clock_now_ns();
    for (int i = 0; i < GROUPS; i++) {
        struct storage_log_group group = {++*number, bytes, sizeof bytes, bytes, 40};
        if (storage->type->log_append(storage, "bench", "writer", &group, *number > 1000 ? *number - 1000 : 0,
                                      err) != 0)
            return -1;
    }
    *ret_us = (double)(clock_now_ns() - start) / 1e3 / GROUPS;
    return 0;
}

/* As many bytes as an append writes: two pages and their headers. */
static int plain_sync(const char *dir, double *ret_us)
{
    static char page[2 * 4120];
    char path[96];
    snprintf(path, sizeof path, "%s/floor", dir);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    uint64_t start = 0;
    int rc = fd < 0 ? -1 : 0;
    for (int i = -100; i < GROUPS && rc == 0; i++) { /* the first make the room */
        if (i == 0)
            start = clock_now_ns();
        off_t at = (i + 100) % 100 * (off_t)sizeof page;
        rc = pwrite(fd, page, sizeof page, at) == (ssize_t)sizeof page ? fdatasync(fd) : -1;
    }
    *ret_us = (double)(clock_now_ns() - start) / 1e3 / GROUPS;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* The checkpoint thread, while the event source appends. */
struct together {
    const struct config *config;
    struct documents *documents;
    uint64_t epoch;
    double ms;
    _Atomic bool stop;
    int rc;
};

static void *commit_beside(void *data)
{
    struct together *t = data;
    struct storage *storage = NULL;
    struct error err;
    double ms = 0;
    int n = 0;
    double sum = 0;
    t->rc = storage_open(t->config, "bench", &storage, &err);
    while (t->rc == 0 && !atomic_load(&t->stop)) {
        t->rc = commits(storage, t->documents, &t->epoch, 1, &ms, &err);
        sum += ms;
        n++;
        usleep(10000); /* checkpoint_interval */
    }
    t->ms = n ? sum / n : 0;
    storage_close(storage);
    return NULL;
}

static int append_beside_commits(struct storage *storage, struct together *t, uint64_t *number,
                                 double *ret_us, struct error *err)
{
    pthread_t thread;
    atomic_store(&t->stop, false);
    if (pthread_create(&thread, NULL, commit_beside, t) != 0)
        return -1;
    int rc = appends(storage, number, ret_us, err);
    atomic_store(&t->stop, true);
    pthread_join(thread, NULL);
    return rc < 0 ? rc : t->rc;
}

static int run_sqlite(struct storage *storage, const struct config *config, const char *dir,
                      struct documents *d, struct error *err)
{
    double commit_ms[ROUNDS], floor_ms[ROUNDS], append_us[ROUNDS], sync_us[ROUNDS], beside_us[ROUNDS],
        beside_ms[ROUNDS];
    struct storage_claim claim;
    char path[128];
    uint64_t number = 0;
    struct together t = {.config = config, .documents = d};
    snprintf(path, sizeof path, "%s/state/workspaces/bench.db", dir);
    if (storage->type->create(storage, "bench", "1", NULL, 0, err) != 0 ||
        storage->type->claim(storage, "bench", "writer", &claim, err) != 0)
        return -1;
    fill(d, 0);
    for (int round = 0; round < ROUNDS; round++)
        if (floor_rounds(path, d, COMMITS, &floor_ms[round]) < 0 ||
            commits(storage, d, &t.epoch, COMMITS, &commit_ms[round], err) < 0 ||
            plain_sync(dir, &sync_us[round]) < 0 || appends(storage, &number, &append_us[round], err) < 0 ||
            append_beside_commits(storage, &t, &number, &beside_us[round], err) < 0)
            return -1;
        else
            beside_ms[round] = t.ms;
    double total = median(commit_ms);
    double floor_total = median(floor_ms);
    double append = median(append_us);
    double sync = median(sync_us);
    printf("bench commit_sqlite documents=%d bytes=%zu ms=%.3f floor_ms=%.3f ratio=%.2f\n", DOCUMENTS,
           d->ops[0].value_len, total, floor_total, total / floor_total);
    printf("bench log_append_sqlite bytes=%d us=%.0f floor_us=%.0f ratio=%.2f\n", GROUP_BYTES, append, sync,
           append / sync);
    printf("bench log_append_sqlite_beside_commits us=%.0f commit_ms=%.3f\n", median(beside_us),
           median(beside_ms));
    return 0;
}

static int bench_sqlite(struct documents *documents)
{
    static char backend[] = "sqlite";
    char dir[] = "/tmp/triggerflow-bench-XXXXXX";
    char state[64];
    char command[80];
    struct storage *storage = NULL;
    struct error err = {.code = ERROR_NONE};
    if (!mkdtemp(dir)) {
        perror("mkdtemp");
        return -1;
    }
    snprintf(state, sizeof state, "%s/state", dir);
    struct config config = {
        .storage_backend = backend, .state_directory = state, .trigger_refresh_ns = 5 * (int64_t)CLOCK_S};
    int rc = storage_open(&config, "bench", &storage, &err);
    if (rc == 0)
        rc = run_sqlite(storage, &config, dir, documents, &err);
    if (rc != 0)
        fprintf(stderr, "bench commit_sqlite: %s\n", err.message);
    storage_close(storage);
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) == 0 ? rc : -1;
}

int main(void)
{
    static struct documents documents;
    int redis = bench_redis(&documents);
    int sqlite = bench_sqlite(&documents);
    return redis == 0 && sqlite == 0 ? 0 : 1;
}
