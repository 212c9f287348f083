/* From XADD to the start of an action: a trigger that always holds and emits to a second stream. Measured is
 * from XADD until a client that waits in XREAD BLOCK on the second stream wakes, so two hops through Redis
 * and the worker between them; less the median of one bare hop it is the time until the action has started.
 * The bare hop, XADD until a client that waits on the same stream wakes, and the round trip of a script that
 * does nothing (what a checkpoint costs at least) are measured in turn with it. Times are in microseconds.
 *
 * In turn with all that, a worker of the same kind that also invokes functions which hang, fail and flood:
 * the time until the action has started should be that of the one without them. The functions would be on
 * other machines; here their threads take what ours leave (nice 19). They and the traffic cost the machine
 * something all the same, and so the worker without them is measured again while another worker invokes such
 * functions as much: that much is the machine's, and only what is more is the worker's. */
#include "bench/bench.h"

#include <pthread.h>

#include "tests/support/function_server.h"

#define BLOCK 50 /* events of one kind, before the next kind's turn */
#define EVENTS_PER_RUN (10 * BLOCK)
#define MAX_EVENTS (BENCH_MAX_RUNS * EVENTS_PER_RUN)
#define GAP_US 1000 /* on average, between events */
#define WARM_UP 50
#define TARGET_P50_US 60
#define TARGET_P99_US 1000
#define TARGET_COMMITTED_US 150 /* on top of one round trip to the storage */

struct series {
    double us[MAX_EVENTS];
    size_t n;
};

struct client {
    redisContext *writer;
    redisContext *reader;
    uint64_t random;
};

struct route { /* events go in at one stream and come out at another */
    const char *in;
    const char *out;
    char last[48]; /* id of the last entry that came out */
};

static void flush(redisContext *redis)
{
    int done = 0;
    while (!done)
        if (redisBufferWrite(redis, &done) != REDIS_OK)
            bench_fail("redis: %s", redis->errstr);
}

static void random_gap(struct client *c)
{
    c->random = c->random * 6364136223846793005u + 1442695040888963407u; /* Knuth, MMIX */
    bench_nap_us(GAP_US / 2 + (long)(c->random >> 33) % GAP_US);
}

/* Remembers the id of the entry that an XREAD has returned; there must be just one. */
static void take_entry(struct route *route, const redisReply *reply)
{
    if (reply->type != REDIS_REPLY_ARRAY || reply->element[0]->element[1]->elements != 1)
        bench_fail("not one entry in %s", route->out);
    snprintf(route->last, sizeof route->last, "%s",
             reply->element[0]->element[1]->element[0]->element[0]->str);
}

/* Sends one event, and waits for it at the other end. */
static double send_event(struct client *c, struct route *route)
{
    redisAppendCommand(c->reader, "XREAD COUNT 2 BLOCK 30000 STREAMS %s %s", route->out, route->last);
    flush(c->reader);
    random_gap(c);
    uint64_t start = clock_now_ns();
    redisAppendCommand(c->writer,
                       "XADD %s * specversion 1.0 id %llx source urn:bench type " BENCH_EVENT_TYPE
                       " time 2024-01-01T00:00:00Z subject latency",
                       route->in, (unsigned long long)c->random);
    flush(c->writer);
    redisReply *reply = bench_reply(c->reader);
    double us = (double)(clock_now_ns() - start) / 1e3;
    take_entry(route, reply);
    freeReplyObject(reply);
    bench_drain(c->writer, 1);
    return us;
}

static double round_trip(struct client *c, const char *sha)
{
    random_gap(c);
    uint64_t start = clock_now_ns();
    redisAppendCommand(c->writer, "EVALSHA %s 0", sha);
    freeReplyObject(bench_reply(c->writer));
    return (double)(clock_now_ns() - start) / 1e3;
}

static void measure(struct client *c, struct route *route, struct series *series)
{
    for (int i = 0; i < BLOCK; i++)
        series->us[series->n++] = send_event(c, route);
}

static void store(struct bench *b, const char *workspace, const char *in, const char *out)
{
    bench_store_workspace(b, workspace);
    bench_store_source(b, workspace, "in", in, true);
    bench_store_source(b, workspace, "out", out, false);
    bench_store_trigger(b, workspace, "always", "latency", "TRUE", "",
                        "{\"name\":\"EMIT\",\"event_source\":\"out\",\"event\":{\"type\":\"started\"}}");
    bench_drain(b->redis, 1);
}

/* Every event fired once, and came out once. */
static void verify(struct bench *b, struct bench_worker *w, const char *workspace, struct route *route,
                   size_t n)
{
    bench_worker_await(b, w, &w->arena->worker.executor_completed, n, 1000);
    if (arena_get(&w->arena->worker.fired_committed) != n ||
        arena_get(&w->arena->worker.executor_started) != n ||
        bench_do(b, "XLEN %s", route->out) != (long long)n)
        bench_fail("%s: %llu fired and %lld came out instead of %zu", workspace,
                   (unsigned long long)arena_get(&w->arena->worker.fired_committed),
                   bench_do(b, "XLEN %s", route->out), n);
    if (bench_do(b, "HLEN %s-dead_letters", workspace))
        bench_fail("%s: there are dead letters", workspace);
    bench_worker_stop(b, w);
}

/* ---- beside bad functions ---- */

static const struct bad {
    const char *name;
    struct function_behaviour behaviour;
} bad[] = {
    {"hang", {.mode = FUNCTION_HANGS}}, {"error", {.status = 500}}, {"flood", {.mode = FUNCTION_FLOODS}}};

#define N_BAD (sizeof bad / sizeof bad[0])
#define BAD_AT_FIRST 300 /* events for each of them */
#define BAD_PER_BLOCK 10

/* A worker that invokes bad functions; those of each kind are on a host of their own. */
struct bad_functions {
    const char *workspace;
    struct function_server *servers[N_BAD];
};

static void send_bad(struct bench *b, const struct bad_functions *functions, unsigned n)
{
    static unsigned number;
    for (unsigned i = 0; i < n; i++)
        redisAppendCommand(b->redis,
                           "XADD %s-in * specversion 1.0 id bad-%u source urn:bench type bad subject s",
                           functions->workspace, number++);
    bench_drain(b->redis, n);
}

/* Their threads inherit the priority of who makes them. */
static void *serve_bad(void *data)
{
    struct bad_functions *functions = data;
    struct sched_param usual = {.sched_priority = 0};
    (void)pthread_setschedparam(pthread_self(), SCHED_OTHER, &usual); /* who runs this may have another */
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), 19);
    for (size_t i = 0; i < N_BAD; i++) {
        if (!(functions->servers[i] = function_server_new()))
            bench_fail("no function service");
        function_server_behave(functions->servers[i], NULL, &bad[i].behaviour);
    }
    return NULL;
}

static void store_bad(struct bench *b, struct bad_functions *functions)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve_bad, functions) || pthread_join(thread, NULL))
        bench_fail("no thread");
    for (size_t i = 0; i < N_BAD; i++)
        bench_do(b,
                 "HSET %s-triggers %s "
                 "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"%s\",\"transient\":false,"
                 "\"condition\":{\"name\":\"TRUE\"},\"action\":{\"name\":\"HTTP_INVOKE\",\"url\":\"http://"
                 "127.0.0.1:%d/"
                 "f/"
                 "x\",\"retries\":1000},\"context\":{},\"activation_events\":[{\"specversion\":\"1.0\","
                 "\"type\":\"bad\","
                 "\"subject\":\"s\"}]}",
                 functions->workspace, bad[i].name, bad[i].name, bad[i].name, functions->workspace,
                 (int)function_server_port(functions->servers[i]));
}

static void await_bad(struct bench *b, struct bench_worker *w, const struct bad_functions *functions)
{
    uint64_t start = clock_now_ns();
    send_bad(b, functions, BAD_AT_FIRST);
    for (size_t i = 0; i < N_BAD; i++)
        while (function_server_requests(functions->servers[i]) < BAD_AT_FIRST) {
            bench_nap_us(1000);
            bench_worker_check(b, w, start, "the bad functions");
        }
}

/* Its own events came out once each; the hanging ones are left to the next life. */
static void verify_bad(struct bench *b, struct bench_worker *w, struct bad_functions *functions, size_t n)
{
    uint64_t start = clock_now_ns();
    while (bench_do(b, "XLEN %s-out", functions->workspace) < (long long)n) {
        bench_nap_us(1000);
        bench_worker_check(b, w, start, "the events beside bad functions");
    }
    if (bench_do(b, "XLEN %s-out", functions->workspace) != (long long)n ||
        bench_do(b, "HLEN %s-dead_letters", functions->workspace))
        bench_fail("%s: more came out than went in, or there are dead letters", functions->workspace);
    bench_worker_stop(b, w);
    printf("bench latency what=%s_bad_functions rss_mib=%.1f\n", functions->workspace,
           (double)w->usage.ru_maxrss / 1024);
    for (size_t i = 0; i < N_BAD; i++)
        function_server_free(functions->servers[i]);
}

static void report(const char *what, struct series *s, struct series *hop, double limit_p50, double limit_p99)
{
    double hop_p50 = bench_percentile(hop->us, hop->n, 50);
    double hop_p99 = bench_percentile(hop->us, hop->n, 99);
    double end_to_end = bench_percentile(s->us, s->n, 50);
    double p50 = end_to_end - hop_p50;
    double p99 = bench_percentile(s->us, s->n, 99) - hop_p50;
    printf("bench latency what=%s events=%zu end_to_end_p50_us=%.0f p50_us=%.0f p99_us=%.0f "
           "over_hop_p50_us=%.0f "
           "target=%.0f over_hop_p99_us=%.0f target=%.0f ratio=%.2f\n",
           what, s->n, end_to_end, p50, p99, p50 - hop_p50, limit_p50, p99 - hop_p99, limit_p99,
           p50 / hop_p50);
}

static void run(struct bench *b)
{
    static struct series hop, trip, immediate, committed, beside, elsewhere;
    struct route bare = {"bare", "bare", "0"};
    struct route now = {"now-in", "now-out", "0"};
    struct route later = {"later-in", "later-out", "0"};
    struct route near = {"beside-in", "beside-out", "0"};
    struct bad_functions here = {.workspace = "beside"};
    struct bad_functions there = {.workspace = "other"};
    struct client c = {.writer = bench_connect(b), .reader = bench_connect(b), .random = clock_unix_ns()};
    struct bench_worker now_worker, later_worker, near_worker, other_worker;
    store(b, "now", now.in, now.out);
    store(b, "later", later.in, later.out);
    store(b, "beside", near.in, near.out);
    store(b, "other", "other-in", "other-out");
    store_bad(b, &here);
    store_bad(b, &there);
    bench_worker_start(b, &now_worker, "now", "worker: {action_start: immediate}");
    bench_worker_start(b, &later_worker, "later", "worker: {action_start: committed}");
    bench_worker_start(b, &near_worker, "beside", "supervisor: {stop_timeout: 2s}");
    bench_worker_start(b, &other_worker, "other", "supervisor: {stop_timeout: 2s}");
    bench_worker_await_reading(b, &near_worker);
    bench_worker_await_reading(b, &other_worker);
    await_bad(b, &near_worker, &here);
    await_bad(b, &other_worker, &there);
    bench_worker_await_reading(b, &now_worker);
    bench_worker_await_reading(b, &later_worker);
    redisReply *sha = bench_ask(b, "SCRIPT LOAD %s", "return 1");
    for (int i = 0; i < WARM_UP; i++) {
        send_event(&c, &bare);
        send_event(&c, &now);
        send_event(&c, &later);
        send_event(&c, &near);
    }
    for (size_t i = 0; i < bench_runs() * EVENTS_PER_RUN / BLOCK; i++) {
        measure(&c, &bare, &hop);
        measure(&c, &now, &immediate);
        for (int j = 0; j < BLOCK; j++)
            trip.us[trip.n++] = round_trip(&c, sha->str);
        measure(&c, &later, &committed);
        send_bad(b, &there, BAD_PER_BLOCK);
        measure(&c, &later, &elsewhere);
        send_bad(b, &here, BAD_PER_BLOCK);
        measure(&c, &near, &beside);
    }
    freeReplyObject(sha);
    redisFree(c.writer);
    redisFree(c.reader);
    verify(b, &now_worker, "now", &now, immediate.n + WARM_UP);
    verify(b, &later_worker, "later", &later, committed.n + elsewhere.n + WARM_UP);
    verify_bad(b, &near_worker, &here, beside.n + WARM_UP);
    verify_bad(b, &other_worker, &there, 0);
    double hop_p50 = bench_percentile(hop.us, hop.n, 50);
    double trip_p50 = bench_percentile(trip.us, trip.n, 50);
    printf("bench latency what=bare_hop events=%zu p50_us=%.0f p99_us=%.0f\n", hop.n, hop_p50,
           bench_percentile(hop.us, hop.n, 99));
    printf("bench latency what=storage_round_trip calls=%zu p50_us=%.0f p99_us=%.0f\n", trip.n, trip_p50,
           bench_percentile(trip.us, trip.n, 99));
    report("action_immediate", &immediate, &hop, TARGET_P50_US, TARGET_P99_US);
    report("action_committed", &committed, &hop, TARGET_P50_US + trip_p50 + TARGET_COMMITTED_US,
           TARGET_P99_US + bench_percentile(trip.us, trip.n, 99) + TARGET_COMMITTED_US);
    report("action_committed_beside_another_worker_with_bad_functions", &elsewhere, &hop,
           TARGET_P50_US + trip_p50 + TARGET_COMMITTED_US,
           TARGET_P99_US + bench_percentile(trip.us, trip.n, 99) + TARGET_COMMITTED_US);
    report("action_committed_beside_bad_functions", &beside, &hop,
           TARGET_P50_US + trip_p50 + TARGET_COMMITTED_US,
           TARGET_P99_US + bench_percentile(trip.us, trip.n, 99) + TARGET_COMMITTED_US);
}

int main(int argc, char **argv)
{
    static struct bench b;
    bench_worker_main(argc, argv);
    bench_open(&b, "latency", NULL);
    run(&b);
    return 0;
}
