/* How long it takes to start a workflow with 200 stored triggers: from POST /workspace/X to a running
 * supervisor until its answer 201 (which comes when the worker is ready), and from the exec of
 * triggerflow-worker until it logs state=running. Floors, measured in turn with them: GET /healthz over the
 * same connection, and fork, exec and exit of /bin/true. Times are in milliseconds; medians. */
#include "bench/bench.h"

#define TRIGGERS 200
#define STARTS_PER_RUN 5
#define MAX_STARTS (BENCH_MAX_RUNS * STARTS_PER_RUN)
#define TARGET_REQUEST_MS 8
#define TARGET_EXEC_MS 40

static double since_ms(uint64_t start_ns)
{
    return (double)(clock_now_ns() - start_ns) / 1e6;
}

static void store(struct bench *b, const char *workspace)
{
    char id[24];
    bench_store_workspace(b, workspace);
    bench_store_source(b, workspace, "stream", "events", true);
    for (unsigned i = 0; i < TRIGGERS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        bench_store_trigger(b, workspace, id, id, "JOIN", "\"join\":1000", "{\"name\":\"PASS\"}");
    }
    bench_drain(b->redis, TRIGGERS);
}

/* ---- through the supervisor ---- */

static double health_ms(const struct bench_supervisor *s)
{
    BUFFER_AUTO body = BUFFER_INIT;
    uint64_t start = clock_now_ns();
    int status = bench_http(s->http, "GET", "/healthz", &body);
    double ms = since_ms(start);
    if (status != 200)
        bench_fail("/healthz answers %d", status);
    return ms;
}

static double request_ms(const struct bench_supervisor *s, const char *path)
{
    BUFFER_AUTO body = BUFFER_INIT;
    char triggers[32];
    uint64_t start = clock_now_ns();
    int status = bench_http(s->http, "POST", path, &body);
    double ms = since_ms(start);
    if (status != 201)
        bench_fail("POST %s answers %d: %s", path, status, buffer_text(&body));
    status = bench_http(s->http, "GET", path, &body);
    snprintf(triggers, sizeof triggers, "\"triggers\":%d,", TRIGGERS);
    if (status != 200 || !strstr(buffer_text(&body), "\"state\":\"running\"") ||
        !strstr(buffer_text(&body), triggers))
        bench_fail("%s is not running after its start: %d %s", path, status, buffer_text(&body));
    if ((status = bench_http(s->http, "DELETE", path, &body)) != 200)
        bench_fail("DELETE %s answers %d", path, status);
    return ms;
}

static void through_supervisor(struct bench *b)
{
    static double ms[MAX_STARTS], floor_ms[MAX_STARTS];
    struct bench_supervisor s;
    size_t n = bench_runs() * STARTS_PER_RUN;
    bench_supervisor_start(b, &s, "log: {level: warn}");
    store(b, "start"); /* not earlier: the supervisor starts what is stored */
    request_ms(&s, "/workspace/start");
    for (size_t i = 0; i < n; i++) {
        floor_ms[i] = health_ms(&s);
        ms[i] = request_ms(&s, "/workspace/start");
    }
    bench_supervisor_stop(b, &s);
    double median = bench_median(ms, n);
    double floor = bench_median(floor_ms, n);
    printf("bench start what=request triggers=%d starts=%zu ms=%.2f p99_ms=%.2f target=%d floor_ms=%.2f "
           "ratio=%.1f\n",
           TRIGGERS, n, median, bench_percentile(ms, n, 99), TARGET_REQUEST_MS, floor, median / floor);
}

/* ---- by itself ---- */

static double true_ms(struct bench *b)
{
    struct rusage usage;
    const char *argv[] = {"/bin/true", NULL};
    uint64_t start = clock_now_ns();
    pid_t pid = bench_launch(b, 2, argv);
    int status;
    if (wait4(pid, &status, 0, &usage) != pid || status != 0)
        bench_fail("/bin/true does not run");
    bench_forget(b, pid);
    return since_ms(start);
}

/* Until the program's log has the text. */
static void await_text(int fd, const char *text)
{
    BUFFER_AUTO seen = BUFFER_INIT;
    while (!strstr(buffer_text(&seen), text)) {
        char *to = buffer_reserve(&seen, 4096);
        ssize_t n = to ? read(fd, to, 4096) : -1;
        if (n <= 0)
            bench_fail("the worker's log ends without %s: %s", text, buffer_text(&seen));
        seen.len += (size_t)n;
    }
}

static double exec_ms(struct bench *b, const char *program, const char *config)
{
    int log[2];
    struct rusage usage;
    const char *argv[] = {program, "--config", config, "alone", NULL};
    if (pipe2(log, O_CLOEXEC) < 0)
        bench_fail("pipe2");
    uint64_t start = clock_now_ns();
    pid_t pid = bench_launch(b, log[1], argv);
    close(log[1]);
    await_text(log[0], "state=running");
    double ms = since_ms(start);
    bench_stop_process(b, pid, &usage);
    close(log[0]);
    return ms;
}

static void alone(struct bench *b)
{
    static double ms[MAX_STARTS], floor_ms[MAX_STARTS];
    char program[PATH_MAX], config[128];
    size_t n = bench_runs() * STARTS_PER_RUN;
    store(b, "alone");
    bench_program("triggerflow-worker", program);
    snprintf(config, sizeof config, "%s/alone.yaml", b->dir);
    bench_write_config(b, config, 0, "");
    exec_ms(b, program, config);
    for (size_t i = 0; i < n; i++) {
        floor_ms[i] = true_ms(b);
        ms[i] = exec_ms(b, program, config);
    }
    double median = bench_median(ms, n);
    double floor = bench_median(floor_ms, n);
    printf("bench start what=exec triggers=%d starts=%zu ms=%.2f p99_ms=%.2f target=%d floor_ms=%.2f "
           "ratio=%.1f\n",
           TRIGGERS, n, median, bench_percentile(ms, n, 99), TARGET_EXEC_MS, floor, median / floor);
}

int main(void)
{
    static struct bench b;
    bench_open(&b, "start", NULL);
    through_supervisor(&b);
    alone(&b);
    return 0;
}
