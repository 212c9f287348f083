/* What orchestrating a DAG costs: a sequence of 1,000 tasks, and a fork into 1,000 tasks and their join, on
 * OpenWhisk functions that take no time and publish their terminations to a Redis stream; with the actions
 * started when they are committed (the default), and at once.
 *
 * A step of the sequence is measured at the function service, from the start of one function to the start of
 * the next: its termination event on its way through Redis into the worker, the join, the checkpoint, and the
 * invocation over HTTP. That is more than the time from the termination's publication to the next start: the
 * function's own turn (parsing, publishing) is in it. The floor, in the same run, is a client that does
 * nothing but wait for each termination in XREAD BLOCK and invoke the next function. */
#include "bench/bench.h"

#include "tests/support/function_server.h"

#define TASKS 1000
#define SUCCESS "event.triggerflow.termination.success"
#define TARGET_COMMITTED_US 800
#define TARGET_IMMEDIATE_US 400

struct starts {
    uint64_t
        first_ns[TASKS + 2]; /* by the task's number; the fork's first and last task are TASKS and above */
    size_t n;
};

static void see_start(void *data, const char *function, const char *task, const char *key, unsigned starts,
                      uint64_t first_ns, uint64_t last_ns)
{
    struct starts *s = data;
    (void)function;
    (void)key;
    (void)last_ns;
    unsigned number = (unsigned)strtoul(task + 1, NULL, 10);
    if (number >= TASKS + 2 || starts != 1)
        bench_fail("task %s was started %u times", task, starts);
    s->first_ns[number] = first_ns;
    s->n++;
}

static void look(struct function_server *server, struct starts *s, size_t expected)
{
    memset(s, 0, sizeof *s);
    function_server_each(server, see_start, s);
    if (s->n != expected)
        bench_fail("%zu tasks were started, not %zu", s->n, expected);
}

/* ---- the triggers ---- */

static void store_task(struct bench *b, const char *url, const char *id, const char *upstream,
                       const char *dependencies, const char *events)
{
    BUFFER_AUTO json = BUFFER_INIT;
    bool is_end = !strcmp(id, "__end__");
    buffer_printf(
        &json,
        "{\"id\":\"%s\",\"uuid\":\"uuid-%s\",\"workspace\":\"dag\",\"transient\":false,"
        "\"timestamp\":\"2024-01-01T00:00:00Z\",\"condition\":{\"name\":\"%s\"},\"action\":{\"name\":"
        "\"%s\"},\"context\":{\"subject\":\"%s\",\"dependencies\":{%s},\"result\":[],\"operator\":",
        id, id, upstream || *events ? "DAG_TASK_JOIN" : "TRUE", is_end ? "TERMINATE" : "IBM_CF_INVOKE", id,
        dependencies);
    if (is_end)
        buffer_append_text(&json, "null");
    else
        buffer_printf(&json,
                      "{\"url\":\"%s\",\"api_key\":\"u:p\",\"invoke_kwargs\":{},\"sink\":{\"class\":"
                      "\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"stream\":"
                      "\"dag-in\"}}}",
                      url, b->server.port);
    buffer_append_text(&json, "},\"activation_events\":[");
    if (upstream)
        buffer_printf(&json, "{\"type\":\"" SUCCESS "\",\"subject\":\"%s\"}", upstream);
    else if (*events)
        buffer_append_text(&json, events);
    else
        buffer_append_text(&json, "{\"type\":\"event.triggerflow.init\",\"subject\":\"__init__\"}");
    buffer_append_text(&json, "]}");
    redisAppendCommand(b->redis, "HSET dag-triggers %s %s", id, buffer_text(&json));
    bench_drain(b->redis, 1);
}

static void store_dependent(struct bench *b, const char *url, const char *id, const char *upstream)
{
    char dependencies[64];
    snprintf(dependencies, sizeof dependencies, "\"%s\":{\"join\":-1,\"counter\":0}", upstream);
    store_task(b, url, id, upstream, dependencies, "");
}

static void store_sequence(struct bench *b, const char *url)
{
    char id[16] = "", before[16];
    for (unsigned i = 0; i < TASKS; i++) {
        memcpy(before, id, sizeof before);
        snprintf(id, sizeof id, "t%u", i);
        if (i)
            store_dependent(b, url, id, before);
        else
            store_task(b, url, id, NULL, "", "");
    }
    store_dependent(b, url, "__end__", id);
}

static void store_fork_join(struct bench *b, const char *url)
{
    char id[16], first[16], last[16];
    BUFFER_AUTO dependencies = BUFFER_INIT;
    BUFFER_AUTO events = BUFFER_INIT;
    snprintf(first, sizeof first, "t%u", TASKS);
    snprintf(last, sizeof last, "t%u", TASKS + 1);
    store_task(b, url, first, NULL, "", "");
    for (unsigned i = 0; i < TASKS; i++) {
        snprintf(id, sizeof id, "t%u", i);
        store_dependent(b, url, id, first);
        buffer_printf(&dependencies, "%s\"%s\":{\"join\":-1,\"counter\":0}", i ? "," : "", id);
        buffer_printf(&events, "%s{\"type\":\"" SUCCESS "\",\"subject\":\"%s\"}", i ? "," : "", id);
    }
    store_task(b, url, last, NULL, buffer_text(&dependencies), buffer_text(&events));
    store_dependent(b, url, "__end__", last);
}

/* ---- the floor ---- */

static void post(int fd, struct bench *b, const char *path, unsigned task)
{
    char body[512], request[1024], answer[1024];
    int n = snprintf(body, sizeof body,
                     "{\"__OW_TRIGGERFLOW\":{\"subject\":\"t%u\",\"key\":\"k%u\",\"sink\":{\"class\":"
                     "\"RedisEventSource\",\"parameters\":{\"host\":\"127.0.0.1\",\"port\":%d,\"stream\":"
                     "\"dag-in\"}}}}",
                     task, task, b->server.port);
    int m = snprintf(request, sizeof request,
                     "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
                     "%d\r\n\r\n%s",
                     path, n, body);
    bench_send(fd, request, (size_t)m);
    if (recv(fd, answer, sizeof answer, 0) <= 0 || strncmp(answer, "HTTP/1.1 202", 12))
        bench_fail("the floor's call was not answered 202");
}

static size_t steps_of(const struct starts *s, double *us)
{
    for (unsigned i = 1; i < TASKS; i++)
        us[i - 1] = (double)(s->first_ns[i] - s->first_ns[i - 1]) / 1e3;
    return TASKS - 1;
}

static void run_floor(struct bench *b, struct function_server *server, const char *path, double *us)
{
    static struct starts starts;
    char last[48] = "0";
    redisContext *reader = bench_connect(b);
    int fd = bench_dial((int)function_server_port(server));
    function_server_forget(server);
    bench_do(b, "DEL dag-in");
    for (unsigned i = 0; i < TASKS; i++) {
        int done = 0;
        redisAppendCommand(reader, "XREAD COUNT 2 BLOCK 30000 STREAMS dag-in %s", last);
        while (!done)
            if (redisBufferWrite(reader, &done) != REDIS_OK)
                bench_fail("redis: %s", reader->errstr);
        post(fd, b, path, i);
        redisReply *reply = bench_reply(reader);
        if (reply->type != REDIS_REPLY_ARRAY)
            bench_fail("no termination");
        snprintf(last, sizeof last, "%s", reply->element[0]->element[1]->element[0]->element[0]->str);
        freeReplyObject(reply);
    }
    close(fd);
    redisFree(reader);
    look(server, &starts, TASKS);
    steps_of(&starts, us);
}

/* ---- the worker ---- */

static void run_worker(struct bench *b, struct function_server *server, const char *url, bool sequence,
                       bool immediate, struct starts *ret_starts)
{
    struct bench_worker w;
    function_server_forget(server);
    bench_do(b, "DEL dag-in");
    bench_store_workspace(b, "dag");
    bench_store_source(b, "dag", "in", "dag-in", true);
    if (sequence)
        store_sequence(b, url);
    else
        store_fork_join(b, url);
    bench_worker_start(b, &w, "dag",
                       immediate ? "worker: {action_start: immediate}" : "worker: {action_start: committed}");
    bench_worker_await_reading(b, &w);
    bench_do(b, "XADD dag-in * specversion 1.0 id i source urn:bench type event.triggerflow.init subject "
                "__init__");
    bench_worker_await(b, &w, &w.arena->worker.finished, 1, 1000);
    bench_worker_stop(b, &w);
    if (bench_do(b, "HLEN dag-dead_letters") || bench_do(b, "HLEN dag-outbox"))
        bench_fail("there are dead letters, or invocations are left");
    look(server, ret_starts, sequence ? TASKS : TASKS + 2);
}

static void report_sequence(const char *start, double *us, size_t n, double floor_p50, double target)
{
    double p50 = bench_percentile(us, n, 50);
    printf("bench dag what=sequence action_start=%s steps=%zu step_p50_us=%.0f target=%.0f step_p99_us=%.0f "
           "floor_p50_us=%.0f over_floor_p50_us=%.0f ratio=%.2f\n",
           start, n, p50, target, bench_percentile(us, n, 99), floor_p50, p50 - floor_p50, p50 / floor_p50);
}

/* From the first task's start until all 1,000 have started, and from the last start of those until the join's
 * task has. */
static void fork_times(const struct starts *s, double *ret_fork_us, double *ret_join_us)
{
    uint64_t last = 0;
    for (unsigned i = 0; i < TASKS; i++)
        last = s->first_ns[i] > last ? s->first_ns[i] : last;
    *ret_fork_us = (double)(last - s->first_ns[TASKS]) / 1e3;
    *ret_join_us = (double)(s->first_ns[TASKS + 1] - last) / 1e3;
}

int main(int argc, char **argv)
{
    static struct bench b;
    static double us[2][BENCH_MAX_RUNS * TASKS], floor_us[BENCH_MAX_RUNS * TASKS];
    static double fork_us[2][BENCH_MAX_RUNS], join_us[2][BENCH_MAX_RUNS];
    static struct starts starts;
    static const char *const names[] = {"committed", "immediate"};
    static const double targets[] = {TARGET_COMMITTED_US, TARGET_IMMEDIATE_US};
    static const char path[] = "/api/v1/namespaces/_/actions/f";
    BUFFER_AUTO url = BUFFER_INIT;
    size_t runs = bench_runs();
    size_t n = 0;
    bench_worker_main(argc, argv);
    bench_open(&b, "dag", NULL);
    struct function_server *server = function_server_new();
    if (!server)
        bench_fail("no function service");
    function_server_behave(server, NULL, &(struct function_behaviour){.publish = true});
    function_server_url(server, path, &url);
    for (size_t run = 0; run < runs; run++) {
        run_floor(&b, server, path, floor_us + n);
        for (int i = 0; i < 2; i++) {
            run_worker(&b, server, buffer_text(&url), true, i, &starts);
            steps_of(&starts, us[i] + n);
            run_worker(&b, server, buffer_text(&url), false, i, &starts);
            fork_times(&starts, &fork_us[i][run], &join_us[i][run]);
        }
        n += TASKS - 1;
    }
    function_server_free(server);
    double floor_p50 = bench_percentile(floor_us, n, 50);
    for (int i = 0; i < 2; i++) {
        report_sequence(names[i], us[i], n, floor_p50, targets[i]);
        double fork = bench_median(fork_us[i], runs);
        printf("bench dag what=fork_join action_start=%s tasks=%d fork_ms=%.1f per_task_us=%.0f "
               "target=%.0f join_step_us=%.0f\n",
               names[i], TASKS, fork / 1e3, fork / TASKS, targets[i], bench_median(join_us[i], runs));
    }
    return 0;
}
