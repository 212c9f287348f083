/* Stored timers on an otherwise idle worker: how late they are. `counted`: until the counter of a trigger
 * that only counts its event has been committed, as a client sees it that looks every 0.1 ms.
 * `through_trigger`: until the event that another trigger emits for it comes out at a stream where a client
 * waits in XREAD BLOCK; counter and timer have been committed before. `published`: the same for a timer whose
 * event source is the stream. The floor is how late a thread wakes that sleeps (clock_nanosleep, wall clock)
 * until as many random times, measured in turn. Times are in microseconds. */
#include "bench/bench.h"

#include <errno.h>

#define TIMERS 1000
#define SPREAD_NS (4 * CLOCK_S)
#define LEAD_NS (CLOCK_S / 2) /* from storing them until the first is due */
#define TARGET_P99_US 10000

static uint64_t due[TIMERS];

static int compare_times(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;
    return *x < *y ? -1 : *x > *y;
}

static void choose_times(uint64_t from)
{
    static uint64_t random = 1;
    for (int i = 0; i < TIMERS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u; /* Knuth, MMIX */
        due[i] = from + (random >> 11) % SPREAD_NS;
    }
    qsort(due, TIMERS, sizeof due[0], compare_times);
}

static void report(const char *what, double *us, const char *more)
{
    double p50 = bench_percentile(us, TIMERS, 50);
    double p99 = bench_percentile(us, TIMERS, 99);
    printf("bench timers what=%s timers=%d p50_us=%.0f p99_us=%.0f max_us=%.0f%s\n", what, TIMERS, p50, p99,
           us[TIMERS - 1], more);
    fflush(stdout);
}

static double measure_floor(void)
{
    static double us[TIMERS];
    choose_times(clock_unix_ns() + CLOCK_S / 10);
    for (int i = 0; i < TIMERS; i++) {
        struct timespec at = {.tv_sec = (time_t)(due[i] / CLOCK_S), .tv_nsec = (long)(due[i] % CLOCK_S)};
        while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &at, NULL) == EINTR)
            continue;
        us[i] = (double)(clock_unix_ns() - due[i]) / 1e3;
    }
    report("floor", us, "");
    return bench_percentile(us, TIMERS, 99);
}

/* The timer's number, from the event's subject. */
static unsigned number_of(const redisReply *fields)
{
    for (size_t i = 0; i + 1 < fields->elements; i += 2)
        if (!strcmp(fields->element[i]->str, "subject"))
            return (unsigned)strtoul(fields->element[i + 1]->str, NULL, 10);
    bench_fail("an event without a subject has come out");
}

static void receive(struct bench *b, redisContext *reader, const char *stream, double *ret_us)
{
    char last[48] = "0";
    bool seen[TIMERS] = {false};
    (void)b;
    for (unsigned n = 0; n < TIMERS;) {
        redisAppendCommand(reader, "XREAD BLOCK 30000 STREAMS %s %s", stream, last);
        redisReply *reply = bench_reply(reader);
        uint64_t now = clock_unix_ns();
        if (reply->type != REDIS_REPLY_ARRAY)
            bench_fail("only %u of %d timers have come out", n, TIMERS);
        const redisReply *entries = reply->element[0]->element[1];
        for (size_t i = 0; i < entries->elements; i++, n++) {
            unsigned timer = number_of(entries->element[i]->element[1]);
            if (timer >= TIMERS || seen[timer])
                bench_fail("timer %u has come out twice", timer);
            seen[timer] = true;
            if (now < due[timer])
                bench_fail("timer %u has come out %llu ns early", timer,
                           (unsigned long long)(due[timer] - now));
            ret_us[n] = (double)(now - due[timer]) / 1e3;
            snprintf(last, sizeof last, "%s", entries->element[i]->element[0]->str);
        }
        freeReplyObject(reply);
    }
}

/* Timers come in the order of their times: the first n are those counted. */
static void watch_counter(struct bench *b, const struct bench_worker *w, double *ret_us)
{
    uint64_t commits = 0;
    uint64_t start = clock_now_ns();
    for (long long n = 0, counted = 0; counted < TIMERS;) {
        uint64_t at = arena_get(&w->arena->worker.commits);
        if (at == commits) {
            bench_nap_us(100);
            bench_worker_check(b, w, start, "the counter");
            continue;
        }
        commits = at;
        counted = bench_counter(b, "timers", "count");
        uint64_t now = clock_unix_ns();
        for (; n < counted; n++)
            ret_us[n] = (double)(now - due[n]) / 1e3;
    }
}

static void measure(struct bench *b, const struct bench_worker *w, redisContext *reader, const char *what,
                    const char *type, const char *event_source, const char *stream, double floor)
{
    static double us[TIMERS];
    char more[96];
    choose_times(clock_unix_ns() + LEAD_NS);
    for (int i = 0; i < TIMERS; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        buffer_printf(&text,
                      "{\"at\":%llu,\"event_source\":%s,\"event\":{\"type\":\"%s\",\"subject\":\"%d\"}}",
                      (unsigned long long)due[i], event_source, type, i);
        redisAppendCommand(b->redis, "HSET timers-timers %s%d %s", what, i, buffer_text(&text));
    }
    bench_drain(b->redis, TIMERS);
    kill(w->pid, SIGHUP); /* read them */
    if (stream)
        receive(b, reader, stream, us);
    else
        watch_counter(b, w, us);
    double p99 = bench_percentile(us, TIMERS, 99);
    snprintf(more, sizeof more, " target_p99=%d ratio=%.1f", TARGET_P99_US, p99 / floor);
    report(what, us, more);
}

static void run(struct bench *b)
{
    struct bench_worker worker;
    redisContext *reader = bench_connect(b);
    bench_store_workspace(b, "timers");
    bench_store_source(b, "timers", "fired", "fired", false);
    bench_store_source(b, "timers", "direct", "direct", false);
    bench_do(b, "HSET timers-triggers t %s",
             "{\"id\":\"t\",\"uuid\":\"t\",\"condition\":{\"name\":\"COUNTER_THRESHOLD\"},\"context\":{"
             "\"threshold\":1},\"activation_events\":[{\"type\":\"timeout\",\"subject\":\"*\"}],\"action\":{"
             "\"name\":\"EMIT\",\"event_source\":\"fired\",\"event\":{\"type\":\"fired\"}}}");
    bench_do(
        b, "HSET timers-triggers count %s",
        "{\"id\":\"count\",\"uuid\":\"count\",\"condition\":{\"name\":\"JOIN\"},\"context\":{\"join\":100000}"
        ","
        "\"activation_events\":[{\"type\":\"count\",\"subject\":\"*\"}],\"action\":{\"name\":\"PASS\"}}");
    bench_worker_start(b, &worker, "timers", "");
    double floor = measure_floor();
    measure(b, &worker, reader, "counted", "count", "{}", NULL, floor);
    measure(b, &worker, reader, "through_trigger", "timeout", "{}", "fired", floor);
    measure(b, &worker, reader, "published", "timeout", "{\"name\":\"direct\"}", "direct", floor);
    bench_worker_await(b, &worker, &worker.arena->worker.executor_completed, 2 * TIMERS, 1000);
    if (bench_counter(b, "timers", "t") != TIMERS || bench_do(b, "EXISTS timers-timers") ||
        bench_do(b, "HLEN timers-dead_letters"))
        bench_fail("the counter is %lld, or something is left", bench_counter(b, "timers", "t"));
    bench_worker_stop(b, &worker);
    redisFree(reader);
}

int main(int argc, char **argv)
{
    static struct bench b;
    bench_worker_main(argc, argv);
    bench_open(&b, "timers", NULL);
    run(&b);
    return 0;
}
