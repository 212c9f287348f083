/* What a trigger costs that an event does not touch, and what a second shard brings.
 *
 * Cost: the same events for the same 10 joins, among 10, 1,000 and 100,000 triggers, and among 1,000 triggers
 * whose contexts have 100 bytes or 10 KB. Each is compared with the smallest of its row in the same run.
 * Shards: one subject with 1,000 triggers, so 1,000 evaluations an event, on 1 and on 2 shards: counters,
 * where an evaluation is one addition, and joins that count by idempotency key, where it is a hash and a
 * look-up.
 *
 * The stream is put in place (RENAME) when the worker is up and has its triggers, so that loading them is not
 * part of the time, which ends when the last event is in a committed checkpoint. */
#include "bench/bench.h"

#include <pthread.h>

#define TOUCHED 10
#define EVENTS 300000
#define FANNED 1000
#define FANNED_EVENTS 100000
#define KEYS 100
#define SPINS 400000000u
#define TARGET_COST 1.10 /* of the smallest: no growth but noise and caches */
#define TARGET_SPEED_UP 1.5

struct load {
    const char *what;
    unsigned triggers;
    unsigned context_bytes; /* of each trigger, about */
    unsigned shards;
    bool fan_out; /* all triggers have the subject of all events */
    bool keyed;   /* and count them by idempotency key */
    double ns[BENCH_MAX_RUNS];
    double cpu_ns[BENCH_MAX_RUNS];
};

static size_t events_of(const struct load *l)
{
    return l->fan_out ? FANNED_EVENTS : EVENTS;
}

static const char *stream_of(const struct load *l)
{
    return l->keyed ? "one-subject-keyed" : l->fan_out ? "one-subject" : "ten-subjects";
}

/* Events that each trigger counts. */
static size_t counted(const struct load *l)
{
    return l->keyed ? KEYS : l->fan_out ? FANNED_EVENTS : events_of(l) / TOUCHED;
}

static void store(struct bench *b, const struct load *l)
{
    enum { BATCH = 1000 };
    char id[24];
    BUFFER_AUTO context = BUFFER_INIT;
    buffer_printf(&context, "\"%s\":%zu,\"note\":\"", l->fan_out && !l->keyed ? "threshold" : "join",
                  l->fan_out ? FANNED_EVENTS + 1 : events_of(l) / TOUCHED);
    for (unsigned i = 0; i < l->context_bytes; i++)
        buffer_append_char(&context, 'x');
    buffer_append_char(&context, '"');
    bench_store_workspace(b, "triggers");
    bench_store_source(b, "triggers", "stream", "in", true);
    for (unsigned i = 0; i < l->triggers; i++) {
        snprintf(id, sizeof id, "join%u", i);
        bench_store_trigger(b, "triggers", id, l->fan_out ? "join0" : id,
                            l->fan_out && !l->keyed ? "COUNTER_THRESHOLD" : "JOIN", buffer_text(&context),
                            "{\"name\":\"PASS\"}");
        if ((i + 1) % BATCH == 0)
            bench_drain(b->redis, BATCH);
    }
    bench_drain(b->redis, l->triggers % BATCH);
}

static void verify(struct bench *b, const struct bench_worker *w, const struct load *l)
{
    char id[24];
    uint64_t evaluated = 0;
    unsigned counting = l->fan_out ? l->triggers : TOUCHED;
    for (unsigned i = 0; i < ARENA_MAX_SHARDS; i++)
        evaluated += arena_get(&w->arena->shard[i].evaluated);
    if (evaluated != counted(l) * counting ||
        arena_get(&w->arena->worker.fired_committed) != (l->fan_out ? 0 : TOUCHED))
        bench_fail("%s: %llu evaluations and %llu firings", l->what, (unsigned long long)evaluated,
                   (unsigned long long)arena_get(&w->arena->worker.fired_committed));
    for (unsigned i = 0; i < counting; i++) {
        snprintf(id, sizeof id, "join%u", i);
        if (bench_counter(b, "triggers", id) != (long long)counted(l))
            bench_fail("%s: the counter of %s is %lld", l->what, id, bench_counter(b, "triggers", id));
    }
    if (bench_do(b, "HLEN triggers-dead_letters"))
        bench_fail("%s: there are dead letters", l->what);
}

/* CPU seconds that a process has used. */
static double cpu_seconds(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t) < 0)
        bench_fail("no CPU clock");
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run_load(struct bench *b, struct load *l, size_t run)
{
    char more[64];
    struct bench_worker w;
    const char *staged = stream_of(l);
    store(b, l);
    snprintf(more, sizeof more, "worker: {shards: %u}", l->shards);
    bench_worker_start(b, &w, "triggers", more);
    bench_worker_await_reading(b, &w);
    bench_worker_await(b, &w, &w.arena->worker.reloads, 1, 1000);
    bench_nap_us(50000);
    double cpu = cpu_seconds(w.pid);
    uint64_t start = clock_now_ns();
    bench_do(b, "RENAME %s in", staged);
    uint64_t end = bench_worker_await(b, &w, &w.arena->worker.committed_events, events_of(l), 200);
    l->ns[run] = (double)(end - start) / (double)events_of(l);
    l->cpu_ns[run] = (cpu_seconds(w.pid) - cpu) * 1e9 / (double)events_of(l);
    bench_do(b, "RENAME in %s", staged);
    verify(b, &w, l);
    bench_worker_stop(b, &w);
}

/* Prints each load beside the first of its row; by CPU time, which the neighbours on the machine disturb
 * least. */
static void report_cost(struct load *loads, size_t n, size_t runs)
{
    double ratio[BENCH_MAX_RUNS], cpu_ratio[BENCH_MAX_RUNS];
    for (size_t i = n; i-- > 0;) {
        struct load *l = &loads[i];
        for (size_t r = 0; r < runs; r++) {
            ratio[r] = l->ns[r] / loads[0].ns[r];
            cpu_ratio[r] = l->cpu_ns[r] / loads[0].cpu_ns[r];
        }
        printf("bench triggers what=%s triggers=%u context_bytes=%u shards=%u ns_per_event=%.0f ratio=%.2f "
               "cpu_ns_per_event=%.0f cpu_ratio=%.2f target=%.2f\n",
               l->what, l->triggers, l->context_bytes, l->shards, bench_median(l->ns, runs),
               bench_median(ratio, runs), bench_median(l->cpu_ns, runs), bench_median(cpu_ratio, runs),
               TARGET_COST);
    }
}

/* ---- what the machine gives two threads ---- */

static void *spin(void *data)
{
    uint64_t *steps = data;
    uint64_t x = 88172645463325252u;
    for (uint64_t i = 0; i < *steps; i++)
        x = x * 6364136223846793005u + 1442695040888963407u;
    *steps = x;
    return NULL;
}

/* How much sooner two threads are through with a computation than one: 2 on two idle cores, less when they
 * share one or are busy. */
static double machine_speed_up(void)
{
    uint64_t steps[3] = {SPINS, SPINS / 2, SPINS / 2};
    pthread_t other;
    uint64_t start = clock_now_ns();
    spin(&steps[0]);
    uint64_t middle = clock_now_ns();
    if (pthread_create(&other, NULL, spin, &steps[1]))
        bench_fail("pthread_create");
    spin(&steps[2]);
    pthread_join(other, NULL);
    return bench_seconds(start, middle) / bench_seconds(middle, clock_now_ns());
}

/* cpu_ratio: 1 means that the second shard costs nothing, so that the speed-up is only a question of free
 * cores. */
static void report_shards(const char *what, struct load *loads, double *machine, size_t runs)
{
    double speed_up[BENCH_MAX_RUNS], cpu_ratio[BENCH_MAX_RUNS];
    for (size_t r = 0; r < runs; r++) {
        speed_up[r] = loads[0].ns[r] / loads[1].ns[r];
        cpu_ratio[r] = loads[1].cpu_ns[r] / loads[0].cpu_ns[r];
    }
    double one = bench_median(loads[0].ns, runs);
    double two = bench_median(loads[1].ns, runs);
    printf("bench triggers what=shards load=%s evaluations_per_event=%d events=%d "
           "one_shard_ns_per_evaluation=%.1f "
           "two_shards_ns_per_evaluation=%.1f speed_up=%.2f target=%.1f cpu_ratio=%.2f "
           "machine_speed_up=%.2f\n",
           what, FANNED, FANNED_EVENTS, one / FANNED, two / FANNED, bench_median(speed_up, runs),
           TARGET_SPEED_UP, bench_median(cpu_ratio, runs), bench_median(machine, runs));
}

int main(int argc, char **argv)
{
    static struct bench b;
    static struct load number[] = {{.what = "number", .triggers = TOUCHED, .context_bytes = 100, .shards = 2},
                                   {.what = "number", .triggers = 1000, .context_bytes = 100, .shards = 2},
                                   {.what = "number", .triggers = 100000, .context_bytes = 100, .shards = 2}};
    static struct load context[] = {
        {.what = "context", .triggers = 1000, .context_bytes = 100, .shards = 2},
        {.what = "context", .triggers = 1000, .context_bytes = 10000, .shards = 2}};
    static struct load shards[] = {{.what = "one_shard", .triggers = FANNED, .shards = 1, .fan_out = true},
                                   {.what = "two_shards", .triggers = FANNED, .shards = 2, .fan_out = true}};
    static struct load keyed[] = {
        {.what = "one_shard", .triggers = FANNED, .shards = 1, .fan_out = true, .keyed = true},
        {.what = "two_shards", .triggers = FANNED, .shards = 2, .fan_out = true, .keyed = true}};
    double machine[BENCH_MAX_RUNS];
    size_t runs = bench_runs();
    bench_worker_main(argc, argv);
    bench_open(&b, "triggers", NULL);
    bench_load(&b, "ten-subjects", EVENTS, TOUCHED, 0);
    bench_load(&b, "one-subject", FANNED_EVENTS, 1, 0);
    bench_load(&b, "one-subject-keyed", FANNED_EVENTS, 1, KEYS);
    for (size_t r = 0; r < runs; r++) {
        for (size_t i = 0; i < 3; i++)
            run_load(&b, &number[i], r);
        for (size_t i = 0; i < 2; i++)
            run_load(&b, &context[i], r);
        for (size_t i = 0; i < 2; i++)
            run_load(&b, &shards[i], r);
        for (size_t i = 0; i < 2; i++)
            run_load(&b, &keyed[i], r);
        machine[r] = machine_speed_up();
    }
    report_cost(number, 3, runs);
    report_cost(context, 2, runs);
    report_shards("counters", shards, machine, runs);
    report_shards("keyed_joins", keyed, machine, runs);
    return 0;
}
