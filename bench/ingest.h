/* What the benchmarks of event sources share: a worker that counts a backlog with JOINS joins, what is
 * measured of it, and the printing. As in bench.h, all of it is static. */
#pragma once

#include "bench/bench.h"

#define JOINS 200
#define IDLE_S 3 /* how long a worker is watched that has nothing to do */

/* One worker. */
struct ingest_result {
    double seconds;            /* from the first reading until the last join has fired */
    double seconds_from_start; /* of the process, likewise */
    double cpu_seconds;
    double idle_cpu_ms; /* in a second */
    double rss_mib;
    uint64_t commits;
    uint64_t documents;
};

/* All workers of a line that is printed. */
struct ingest_figures {
    double rate[BENCH_MAX_RUNS], floor_rate[BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS], rss[BENCH_MAX_RUNS];
    double cpu[BENCH_MAX_RUNS], idle[BENCH_MAX_RUNS];
    size_t n;
    struct ingest_result last;
};

/* Messages that the broker still has. */
typedef long long (*ingest_left)(void *data);

/* Makes the workspace `ingest` new, with the joins over so many events, and without an event source. */
static inline void ingest_store(struct bench *b, size_t events)
{
    char id[24], context[64];
    bench_store_workspace(b, "ingest");
    snprintf(context, sizeof context, "\"join\":%zu", events / JOINS);
    for (unsigned i = 0; i < JOINS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        bench_store_trigger(b, "ingest", id, id, "JOIN", context, "{\"name\":\"PASS\"}");
    }
    bench_drain(b->redis, JOINS);
}

/* Every event counted once, every join fired once, nothing given up. */
static inline void ingest_verify(struct bench *b, const struct bench_worker *w, size_t events)
{
    char id[24];
    if (bench_worker_read(w) != events || arena_get(&w->arena->worker.fired_committed) != JOINS)
        bench_fail("%llu events read and %llu joins fired instead of %zu and %d",
                   (unsigned long long)bench_worker_read(w),
                   (unsigned long long)arena_get(&w->arena->worker.fired_committed), events, JOINS);
    for (unsigned i = 0; i < JOINS; i++) {
        snprintf(id, sizeof id, "join%u", i);
        if (bench_counter(b, "ingest", id) != (long long)events / JOINS)
            bench_fail("the counter of %s is %lld", id, bench_counter(b, "ingest", id));
    }
    if (bench_do(b, "HLEN ingest-dead_letters"))
        bench_fail("there are dead letters");
}

/* Processor time of the process until now, in milliseconds. */
static inline double ingest_cpu_ms(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
        bench_fail("no processor time of process %d", (int)pid);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Peak memory of the program that the process runs. ru_maxrss also counts what it was when it was forked: all
 * the memory of the bench, which may be a broker. */
static inline double ingest_peak_mib(pid_t pid)
{
    char path[40], line[128];
    long kib = -1;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "r");
    while (file && kib < 0 && fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld kB", &kib) != 1)
            kib = -1;
    if (!file || kib < 0)
        bench_fail("%s: no VmHWM", path);
    fclose(file);
    return (double)kib / 1024;
}

static inline void ingest_await_empty(ingest_left left, void *data)
{
    long long n;
    uint64_t start = clock_now_ns();
    while ((n = left(data)) > 0) {
        bench_nap_us(1000);
        bench_check_deadline(start, "the last acknowledgement");
    }
    if (n < 0)
        bench_fail("the broker does not say how many messages it has");
}

/* Runs the worker of the stored workspace. left: of a broker that forgets what is acknowledged; then what the
 * idle worker costs is measured, too. NULL: it keeps everything. */
static inline struct ingest_result ingest_run(struct bench *b, size_t events, ingest_left left, void *data)
{
    struct bench_worker w;
    struct ingest_result r = {0};
    uint64_t start = clock_now_ns();
    bench_worker_start(b, &w, "ingest", "");
    uint64_t reading = bench_worker_await_reading(b, &w);
    uint64_t end = bench_worker_await(b, &w, &w.arena->worker.fired_committed, JOINS, 500);
    r.seconds = bench_seconds(reading, end);
    r.seconds_from_start = bench_seconds(start, end);
    bench_worker_await(b, &w, &w.arena->worker.committed_events, events, 500);
    r.commits = arena_get(&w.arena->worker.commits);
    r.documents = arena_get(&w.arena->worker.documents);
    if (left)
        ingest_await_empty(left, data);
    ingest_verify(b, &w, events);
    if (left) {
        double before = ingest_cpu_ms(w.pid);
        bench_nap_us(IDLE_S * 1000000);
        r.idle_cpu_ms = (ingest_cpu_ms(w.pid) - before) / IDLE_S;
    }
    r.rss_mib = ingest_peak_mib(w.pid);
    bench_worker_stop(b, &w);
    r.cpu_seconds = bench_cpu_seconds(&w.usage);
    return r;
}

/* seconds: of what was measured; floor_seconds: 0 without a floor. */
static inline void ingest_add(struct ingest_figures *f, const struct ingest_result *result, size_t events,
                              double seconds, double floor_seconds)
{
    size_t i = f->n++;
    f->rate[i] = (double)events / seconds;
    f->floor_rate[i] = floor_seconds > 0 ? (double)events / floor_seconds : 0;
    f->ratio[i] = floor_seconds / seconds;
    f->rss[i] = result->rss_mib;
    f->cpu[i] = result->cpu_seconds * 1e9 / (double)events;
    f->idle[i] = result->idle_cpu_ms;
    f->last = *result;
}

/* The figures of a line that the caller has begun, and ends. */
static inline void ingest_print(struct ingest_figures *f, double target, bool idle)
{
    printf(" events_per_s=%.0f floor_events_per_s=%.0f ratio=%.2f target=%.2f cpu_ns_per_event=%.0f",
           bench_median(f->rate, f->n), bench_median(f->floor_rate, f->n), bench_median(f->ratio, f->n),
           target, bench_median(f->cpu, f->n));
    if (idle)
        printf(" idle_cpu_ms_per_s=%.2f", bench_median(f->idle, f->n));
    printf(" rss_mib=%.1f commits=%llu", bench_median(f->rss, f->n), (unsigned long long)f->last.commits);
}
