/* A fan-out: 10,000 events that each invoke a function (HTTP_INVOKE) which takes 50 ms, 1,000 of them in
 * flight. The ideal rate is 1,000 / 50 ms. Measured is, at the function service, from the start of the first
 * invocation to the end of the last one; and the processor time of the worker over its whole life, start and
 * end included. The floor, measured in the same run, is a bare libcurl multi loop that makes the same calls
 * to the same service and nothing else. */
#include "bench/bench.h"

#include "common/loop.h"
#include "tests/support/function_server.h"
#include "worker/executor/http_call.h"

#define INVOCATIONS 10000
#define IN_FLIGHT 1000
#define FUNCTION_MS 50
#define TARGET_RATE 0.9
#define TARGET_CPU_S 1.0

static const double ideal_s = (double)INVOCATIONS / IN_FLIGHT * FUNCTION_MS / 1000;

struct span {
    uint64_t first_ns;
    uint64_t last_ns;
    uint64_t starts;
};

static void see_start(void *data, const char *function, const char *task, const char *key, unsigned starts,
                      uint64_t first_ns, uint64_t last_ns)
{
    struct span *s = data;
    (void)function;
    (void)task;
    (void)key;
    s->starts += starts;
    if (!s->first_ns || first_ns < s->first_ns)
        s->first_ns = first_ns;
    if (last_ns > s->last_ns)
        s->last_ns = last_ns;
}

/* From the first start to the end of the last run. */
static double elapsed(struct function_server *server)
{
    struct span s = {0};
    function_server_each(server, see_start, &s);
    if (s.starts != INVOCATIONS)
        bench_fail("%llu starts", (unsigned long long)s.starts);
    return bench_seconds(s.first_ns, s.last_ns) + FUNCTION_MS / 1000.0;
}

/* ---- the floor ---- */

struct floor_run {
    struct loop *loop;
    struct http_calls *calls;
    const char *url;
    unsigned begun;
    unsigned ended;
};

static void begin_call(struct floor_run *f);

static void floor_done(void *data, const struct http_answer *answer)
{
    struct floor_run *f = data;
    if (answer->status != 200)
        bench_fail("the floor's call was answered %u", answer->status);
    f->ended++;
    if (f->begun < INVOCATIONS)
        begin_call(f);
}

static void begin_call(struct floor_run *f)
{
    struct http_call_request request;
    struct error err;
    char key[16];
    http_call_request_init(&request);
    buffer_append_text(&request.url, f->url);
    buffer_append_text(&request.body, "{\"n\":1}");
    snprintf(key, sizeof key, "%u", f->begun++);
    if (http_call_header(&request, "Idempotency-Key", key, &err) < 0 ||
        http_call_start(f->calls, &request, floor_done, f, NULL, &err) < 0)
        bench_fail("%s", err.message);
    http_call_request_done(&request);
}

/* Returns the time; *ret_cpu: of this thread. */
static double run_floor(struct function_server *server, const char *url, double *ret_cpu)
{
    struct floor_run f = {.url = url};
    struct error err;
    struct timespec before, after;
    function_server_forget(server);
    if (!(f.loop = loop_new(&err)) || http_calls_new(f.loop, false, "", &f.calls, &err) < 0)
        bench_fail("%s", err.message);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    for (unsigned i = 0; i < IN_FLIGHT; i++)
        begin_call(&f);
    while (f.ended < INVOCATIONS)
        if (loop_run_once(f.loop, CLOCK_S, &err) < 0)
            bench_fail("%s", err.message);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    *ret_cpu = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) / 1e9;
    http_calls_free(f.calls);
    loop_free(f.loop);
    return elapsed(server);
}

/* ---- the worker ---- */

static double run_worker(struct bench *b, struct function_server *server, const char *url, double *ret_cpu)
{
    struct bench_worker w;
    char action[512];
    function_server_forget(server);
    bench_store_workspace(b, "fan");
    bench_store_source(b, "fan", "in", "fan-in", true);
    snprintf(action, sizeof action, "{\"name\":\"HTTP_INVOKE\",\"url\":\"%s\",\"max_in_flight\":%d}", url,
             IN_FLIGHT);
    bench_store_trigger(b, "fan", "fan", "join0", "TRUE", "", action);
    bench_drain(b->redis, 1);
    bench_load(b, "fan-in", INVOCATIONS, 1, 0);
    bench_worker_start(b, &w, "fan", "");
    bench_worker_await(b, &w, &w.arena->worker.executor_completed, INVOCATIONS, 2000);
    uint64_t retries = arena_get(&w.arena->worker.executor_retries);
    bench_worker_stop(b, &w);
    *ret_cpu = bench_cpu_seconds(&w.usage);
    if (retries || bench_do(b, "HLEN fan-outbox") || bench_do(b, "HLEN fan-dead_letters"))
        bench_fail("%llu retries, or invocations are left", (unsigned long long)retries);
    if (function_server_most_at_once(server) > IN_FLIGHT)
        bench_fail("%u in flight", function_server_most_at_once(server));
    return elapsed(server);
}

int main(int argc, char **argv)
{
    static struct bench b;
    double rate[BENCH_MAX_RUNS], cpu[BENCH_MAX_RUNS], floor_rate[BENCH_MAX_RUNS], floor_cpu[BENCH_MAX_RUNS];
    size_t runs = bench_runs();
    BUFFER_AUTO url = BUFFER_INIT;
    bench_worker_main(argc, argv);
    bench_open(&b, "fan_out", NULL);
    struct function_server *server = function_server_new();
    if (!server)
        bench_fail("no function service");
    function_server_behave(server, NULL, &(struct function_behaviour){.delay_ms = FUNCTION_MS});
    function_server_url(server, "/f/fan", &url);
    for (size_t i = 0; i < runs; i++) {
        floor_rate[i] = ideal_s / run_floor(server, buffer_text(&url), &floor_cpu[i]);
        rate[i] = ideal_s / run_worker(&b, server, buffer_text(&url), &cpu[i]);
    }
    double r = bench_median(rate, runs);
    double c = bench_median(cpu, runs);
    printf("bench fan_out invocations=%d in_flight=%d per_s=%.0f ideal_per_s=%.0f ratio=%.2f target=%.2f "
           "floor=%.2f\n",
           INVOCATIONS, IN_FLIGHT, r * INVOCATIONS / ideal_s, INVOCATIONS / ideal_s, r, TARGET_RATE,
           bench_median(floor_rate, runs));
    printf("bench fan_out_cpu worker_s=%.2f target=%.2f floor_s=%.2f\n", c, TARGET_CPU_S,
           bench_median(floor_cpu, runs));
    function_server_free(server);
    return 0;
}
