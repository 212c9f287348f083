/* The ring between a source and a shard: records a second between two threads, published 16 and 64 at a time,
 * against the floor: one thread that copies the same records into the same memory and reads them from there.
 * Then how long a thread that sleeps on a doorbell takes to wake, against a bare futex. */
#include "bench/bench.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "common/ring.h"

#define RECORD 300 /* bytes: an event as a source packs it */
#define RECORDS 4000000u
#define WAKE_UPS 2000
#define GAP_US 200

struct lane {
    struct ring_shared *shared;
    unsigned batch;
    struct doorbell records; /* rung by the producer */
    struct doorbell space;   /* rung by the consumer */
    uint64_t sum;            /* Thread: consumer, until it is joined */
};

static unsigned char payload[RECORD];

/* ---- records ---- */

static void *produce(void *data)
{
    struct lane *l = data;
    struct ring_producer p;
    ring_attach_producer(&p, l->shared, ARENA_RING_BYTES);
    for (uint64_t i = 1; i <= RECORDS; i++) {
        unsigned char *to;
        while (!(to = ring_reserve(&p, RECORD, 1, false))) {
            ring_publish(&p);
            doorbell_ring(&l->records);
            doorbell_arm(&l->space);
            if (ring_free(&p) < ARENA_RING_BYTES / 2)
                doorbell_wait(&l->space, CLOCK_S);
            else
                doorbell_disarm(&l->space);
        }
        memcpy(to, payload, RECORD);
        memcpy(to, &i, sizeof i);
        if (i % l->batch == 0 || i == RECORDS) {
            ring_publish(&p);
            doorbell_ring(&l->records);
        }
    }
    return NULL;
}

static void consume(struct lane *l)
{
    struct ring_consumer c;
    unsigned char copy[RECORD];
    uint32_t size, kind;
    uint64_t number = 0;
    ring_attach_consumer(&c, l->shared, ARENA_RING_BYTES);
    for (uint64_t expected = 1; expected <= RECORDS;) {
        const void *record;
        unsigned n = 0;
        for (; n < 128 && (record = ring_peek(&c, &size, &kind)); n++) {
            memcpy(copy, record, RECORD);
            memcpy(&number, copy, sizeof number);
            if (size < RECORD || number != expected++)
                bench_fail("record %llu comes instead of %llu", (unsigned long long)number,
                           (unsigned long long)expected - 1);
            l->sum += copy[RECORD - 1];
            ring_next(&c);
        }
        if (n) {
            if (ring_release(&c))
                doorbell_ring(&l->space);
            continue;
        }
        doorbell_arm(&l->records);
        if (ring_ready(&c))
            doorbell_disarm(&l->records);
        else
            doorbell_wait(&l->records, CLOCK_S);
    }
}

/* Nanoseconds a record. */
static double through_ring(struct arena *arena, unsigned batch)
{
    pthread_t producer;
    struct lane l = {.shared = arena_ring(arena, 0, 0), .batch = batch};
    arena_reset(arena, 1);
    uint64_t start = clock_now_ns();
    if (pthread_create(&producer, NULL, produce, &l))
        bench_fail("pthread_create");
    consume(&l);
    pthread_join(producer, NULL);
    double ns = (double)(clock_now_ns() - start) / RECORDS;
    if (l.sum != (uint64_t)RECORDS * payload[RECORD - 1])
        bench_fail("records are damaged");
    return ns;
}

static double by_copying(struct arena *arena)
{
    unsigned char *memory = (unsigned char *)arena_ring(arena, 0, 0) + ARENA_RING_HEADER;
    unsigned char copy[RECORD];
    uint64_t start = clock_now_ns();
    for (uint64_t i = 0, at = 0; i<RECORDS; i++, at = at + 2 * RECORD> ARENA_RING_BYTES ? 0 : at + RECORD) {
        memcpy(memory + at, payload, RECORD);
        memcpy(memory + at, &i, sizeof i);
        __asm__ volatile("" : : "r"(memory) : "memory");
        memcpy(copy, memory + at, RECORD);
        __asm__ volatile("" : : "r"(copy) : "memory");
    }
    return (double)(clock_now_ns() - start) / RECORDS;
}

static void report_records(struct arena *arena, unsigned batch)
{
    double ns[BENCH_MAX_RUNS], floor_ns[BENCH_MAX_RUNS], ratio[BENCH_MAX_RUNS];
    size_t runs = bench_runs();
    for (size_t i = 0; i < runs; i++) {
        floor_ns[i] = by_copying(arena);
        ns[i] = through_ring(arena, batch);
        ratio[i] = ns[i] / floor_ns[i];
    }
    double median = bench_median(ns, runs);
    printf("bench ring what=records batch=%u bytes=%d ns_per_record=%.1f records_per_s=%.0f floor_ns=%.1f "
           "ratio=%.2f\n",
           batch, RECORD, median, 1e9 / median, bench_median(floor_ns, runs), bench_median(ratio, runs));
}

/* ---- waking ---- */

struct sleeper {
    bool bare;
    struct doorbell bell;
    _Atomic uint32_t word;    /* the bare futex: 1 while nobody has rung */
    _Atomic uint64_t sent_ns; /* when it was rung; 0: not yet */
    _Atomic uint32_t n;       /* times that it has woken */
    double us[WAKE_UPS];      /* Thread: sleeper, until it is joined */
};

static void sleep_bare(struct sleeper *s)
{
    while (atomic_load(&s->word))
        syscall(SYS_futex, &s->word, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
    atomic_store(&s->word, 1);
}

static void sleep_on_bell(struct sleeper *s)
{
    while (!atomic_load(&s->sent_ns)) {
        doorbell_arm(&s->bell);
        if (atomic_load(&s->sent_ns))
            doorbell_disarm(&s->bell);
        else
            doorbell_wait(&s->bell, CLOCK_S);
    }
}

static void *sleeper_main(void *data)
{
    struct sleeper *s = data;
    for (uint32_t i = 0; i < WAKE_UPS; i++) {
        if (s->bare)
            sleep_bare(s);
        else
            sleep_on_bell(s);
        s->us[i] = (double)(clock_now_ns() - atomic_load(&s->sent_ns)) / 1e3;
        atomic_store(&s->sent_ns, 0);
        atomic_store(&s->n, i + 1);
    }
    return NULL;
}

static void measure_wake_ups(struct sleeper *s, bool bare)
{
    pthread_t thread;
    s->bare = bare;
    atomic_store(&s->word, 1);
    atomic_store(&s->n, 0);
    if (pthread_create(&thread, NULL, sleeper_main, s))
        bench_fail("pthread_create");
    for (uint32_t i = 0; i < WAKE_UPS; i++) {
        while (atomic_load(&s->n) < i)
            bench_nap_us(20);
        bench_nap_us(GAP_US);
        atomic_store(&s->sent_ns, clock_now_ns());
        if (bare) {
            atomic_store(&s->word, 0);
            syscall(SYS_futex, &s->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
        } else {
            doorbell_ring(&s->bell);
        }
    }
    pthread_join(thread, NULL);
}

static void report_wake_ups(void)
{
    static struct sleeper bare, bell;
    double p50[BENCH_MAX_RUNS], p99[BENCH_MAX_RUNS], floor_p50[BENCH_MAX_RUNS], floor_p99[BENCH_MAX_RUNS];
    size_t runs = bench_runs();
    for (size_t i = 0; i < runs; i++) {
        measure_wake_ups(&bare, true);
        measure_wake_ups(&bell, false);
        floor_p50[i] = bench_percentile(bare.us, WAKE_UPS, 50);
        floor_p99[i] = bench_percentile(bare.us, WAKE_UPS, 99);
        p50[i] = bench_percentile(bell.us, WAKE_UPS, 50);
        p99[i] = bench_percentile(bell.us, WAKE_UPS, 99);
    }
    printf("bench ring what=wake_up p50_us=%.1f p99_us=%.1f floor_p50_us=%.1f floor_p99_us=%.1f ratio=%.2f\n",
           bench_median(p50, runs), bench_median(p99, runs), bench_median(floor_p50, runs),
           bench_median(floor_p99, runs), bench_median(p50, runs) / bench_median(floor_p50, runs));
}

int main(void)
{
    int fd;
    struct arena *arena;
    struct error err;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < RECORD; i++)
        payload[i] = (unsigned char)(i * 7 + 1);
    if (arena_create(&fd, &err) < 0 || arena_map(fd, &arena, &err) < 0)
        bench_fail("%s", err.message);
    report_records(arena, 16);
    report_records(arena, 64);
    report_wake_ups();
    arena_unmap(arena);
    close(fd);
    return 0;
}
