/* The ring: exact room at every offset, against a model, between threads that sleep, and with a producer that
 * is killed at random moments. Every record carries its number and a checksum. */
#include "common/ring.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/arena.h"
#include "common/error.h"

#define HEADER 8u
#define SMALLEST 16u /* checksum and number */
#define HANG_S 240   /* a lost wake-up hangs: the alarm ends the test */
#define FOR_EVER (3600ull * 1000000000ull)
#define KILLS 400

struct bed {
    struct arena *arena;
    struct ring_shared *ring;
    struct ring_producer producer;
    struct ring_consumer consumer;
};

static uint64_t footprint(uint32_t size)
{
    return (HEADER + size + 7) & ~7ull;
}

static uint64_t mix(uint64_t *random)
{
    uint64_t z = (*random += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static int setup(void **state)
{
    struct bed *bed = calloc(1, sizeof *bed);
    struct error err;
    int fd;
    assert_non_null(bed);
    assert_int_equal(arena_create(&fd, &err), 0);
    assert_int_equal(arena_map(fd, &bed->arena, &err), 0);
    close(fd);
    bed->ring = arena_ring(bed->arena, 3, 2);
    ring_attach_producer(&bed->producer, bed->ring, ARENA_RING_BYTES);
    ring_attach_consumer(&bed->consumer, bed->ring, ARENA_RING_BYTES);
    *state = bed;
    return 0;
}

static int teardown(void **state)
{
    struct bed *bed = *state;
    arena_unmap(bed->arena);
    free(bed);
    return 0;
}

/* An empty ring whose indices are at `at`. */
static void start_at(struct bed *bed, uint64_t at)
{
    atomic_store(&bed->ring->head, at);
    atomic_store(&bed->ring->tail, at);
    ring_attach_producer(&bed->producer, bed->ring, ARENA_RING_BYTES);
    ring_attach_consumer(&bed->consumer, bed->ring, ARENA_RING_BYTES);
}

static uint32_t kind_of(uint64_t number)
{
    return (uint32_t)(number % 1000);
}

static void write_record(unsigned char *to, uint32_t size, uint64_t number)
{
    memcpy(to + 8, &number, sizeof number);
    memset(to + SMALLEST, (int)(number * 37 % 251), size - SMALLEST);
    uint64_t sum = arena_name_hash((const char *)to + 8, size - 8);
    memcpy(to, &sum, sizeof sum);
}

static bool record_is(const unsigned char *at, uint32_t size, uint32_t kind, uint64_t number)
{
    uint64_t sum;
    uint64_t found;
    if (size < SMALLEST || size > RING_MAX_RECORD || kind != kind_of(number))
        return false;
    memcpy(&sum, at, sizeof sum);
    memcpy(&found, at + 8, sizeof found);
    return found == number && sum == arena_name_hash((const char *)at + 8, size - 8);
}

static bool push(struct bed *bed, uint32_t size, uint64_t number, bool urgent)
{
    unsigned char *to = ring_reserve(&bed->producer, size, kind_of(number), urgent);
    if (!to)
        return false;
    assert_int_equal((uintptr_t)to % 8, 0);
    write_record(to, size, number);
    return true;
}

static void pop(struct bed *bed, uint32_t size, uint64_t number)
{
    uint32_t found_size;
    uint32_t kind;
    const unsigned char *at = ring_peek(&bed->consumer, &found_size, &kind);
    assert_non_null(at);
    assert_ptr_equal(at, ring_peek(&bed->consumer, &found_size, &kind)); /* stays until ring_next() */
    assert_int_equal(found_size, size);
    assert_true(record_is(at, found_size, kind, number));
    ring_next(&bed->consumer);
}

static void assert_empty(struct bed *bed)
{
    uint32_t size;
    uint32_t kind;
    assert_null(ring_peek(&bed->consumer, &size, &kind));
    assert_false(ring_ready(&bed->consumer));
}

static void test_visibility(void **state)
{
    struct bed *bed = *state;
    assert_empty(bed);
    assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES);
    assert_true(push(bed, 16, 1, false));
    assert_true(push(bed, 17, 2, false));
    assert_empty(bed); /* reserved, not published */
    ring_publish(&bed->producer);
    assert_true(ring_ready(&bed->consumer));
    assert_true(push(bed, 100, 3, false));
    pop(bed, 16, 1);
    pop(bed, 17, 2);
    assert_empty(bed); /* the third is not visible */
    assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES - 24 - 32 - 112);
    ring_release(&bed->consumer);
    assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES - 112);
    ring_publish(&bed->producer);
    pop(bed, 100, 3);
    assert_empty(bed);
    ring_release(&bed->consumer);
    assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES);
}

static void test_empty_payload(void **state)
{
    struct bed *bed = *state;
    uint32_t size = 1;
    uint32_t kind = 0;
    assert_non_null(ring_reserve(&bed->producer, 0, 7, false));
    ring_publish(&bed->producer);
    assert_non_null(ring_peek(&bed->consumer, &size, &kind));
    assert_int_equal(size, 0);
    assert_int_equal(kind, 7);
    ring_next(&bed->consumer);
    ring_release(&bed->consumer);
    assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES);
    assert_int_equal(atomic_load(&bed->ring->head), HEADER);
}

/* A producer and a consumer that attach later go on where the ring stands. */
static void test_attach_again(void **state)
{
    struct bed *bed = *state;
    for (uint64_t i = 0; i < 10; i++)
        assert_true(push(bed, 40, i, false));
    ring_publish(&bed->producer);
    assert_true(push(bed, 40, 99, false)); /* never published: lost with its producer */
    for (uint64_t i = 0; i < 4; i++)
        pop(bed, 40, i);
    ring_release(&bed->consumer);
    pop(bed, 40, 4); /* not released: seen again */
    ring_attach_producer(&bed->producer, bed->ring, ARENA_RING_BYTES);
    ring_attach_consumer(&bed->consumer, bed->ring, ARENA_RING_BYTES);
    assert_true(push(bed, 40, 10, false));
    ring_publish(&bed->producer);
    for (uint64_t i = 4; i <= 10; i++)
        pop(bed, 40, i);
    assert_empty(bed);
}

/* At each offset: two records, the first or the second of which meets the end for some size. */
static void test_every_offset(void **state)
{
    struct bed *bed = *state;
    static const uint32_t sizes[] = {16, 23, 24, 120, 1000};
    for (uint64_t at = 0; at < ARENA_RING_BYTES; at += 8)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            if (at < ARENA_RING_BYTES - 4096 && i != at / 8 % 5)
                continue; /* far from the end all sizes are alike */
            start_at(bed, at);
            assert_true(push(bed, sizes[i], at, false));
            assert_true(push(bed, sizes[i] + 8, at + 1, false));
            ring_publish(&bed->producer);
            pop(bed, sizes[i], at);
            pop(bed, sizes[i] + 8, at + 1);
            assert_empty(bed);
            ring_release(&bed->consumer);
            assert_int_equal(ring_free(&bed->producer), ARENA_RING_BYTES);
            uint64_t used = footprint(sizes[i]) + footprint(sizes[i] + 8);
            uint64_t head = atomic_load(&bed->ring->head);
            assert_true(head - at >= used && head - at < used + footprint(sizes[i] + 8));
        }
}

/* Indices grow for ever: also through the end of 64 bits. */
static void test_index_overflow(void **state)
{
    struct bed *bed = *state;
    start_at(bed, UINT64_MAX - 7 - 64 * 1024);
    for (uint64_t i = 0; i < 3000; i++) {
        assert_true(push(bed, 64, i, false));
        assert_true(push(bed, 48, i + 1, true));
        ring_publish(&bed->producer);
        pop(bed, 64, i);
        pop(bed, 48, i + 1);
        assert_empty(bed);
        assert_true(ring_release(&bed->consumer));
    }
}

/* The largest record always fits into an empty ring; into the middle of the ring it is written with a pad. */
static void test_largest(void **state)
{
    struct bed *bed = *state;
    for (uint64_t at = ARENA_RING_BYTES - RING_MAX_RECORD - 64; at < ARENA_RING_BYTES + 64; at += 8) {
        start_at(bed, at);
        unsigned char *to = ring_reserve(&bed->producer, RING_MAX_RECORD, 5, false);
        assert_non_null(to);
        assert_true(to >= bed->producer.data);
        assert_true(to + RING_MAX_RECORD <= bed->producer.data + ARENA_RING_BYTES);
        memcpy(to, &at, sizeof at);
        memcpy(to + RING_MAX_RECORD - 8, &at, sizeof at);
        ring_publish(&bed->producer);
        uint32_t size;
        uint32_t kind;
        unsigned char *found = ring_peek(&bed->consumer, &size, &kind);
        assert_ptr_equal(found, to);
        assert_int_equal(size, RING_MAX_RECORD);
        assert_int_equal(kind, 5);
        ring_next(&bed->consumer);
        assert_empty(bed);
    }
}

/* From each of some offsets: ordinary records leave the reserve, urgent ones may use all of it. */
static void test_full(void **state)
{
    struct bed *bed = *state;
    for (uint64_t at = ARENA_RING_BYTES - 512; at < ARENA_RING_BYTES + 8; at += 8) {
        uint64_t n = 0;
        uint64_t urgent = 0;
        start_at(bed, at);
        while (push(bed, 16, n, false))
            n++;
        uint64_t left = ring_free(&bed->producer);
        assert_true(left >= RING_RESERVE);
        assert_true(left < RING_RESERVE + 2 * footprint(16));
        if (at % 24 == 0) /* records of 24 bytes never need more than a pad of 16 */
            assert_in_range(n, (ARENA_RING_BYTES - RING_RESERVE - 16) / 24,
                            (ARENA_RING_BYTES - RING_RESERVE) / 24);
        while (push(bed, 16, n + urgent, true))
            urgent++;
        assert_true(urgent >= (RING_RESERVE - 16) / 24);
        assert_true(ring_free(&bed->producer) < 2 * footprint(16));
        assert_false(push(bed, 16, 0, true));
        ring_publish(&bed->producer);
        for (uint64_t i = 0; i < n + urgent; i++)
            pop(bed, 16, i);
        assert_empty(bed);
        assert_false(push(bed, 16, 0, true)); /* consumed but not released */
        assert_true(ring_release(&bed->consumer));
        assert_true(push(bed, 16, 0, false));
    }
}

static void test_exact_room(void **state)
{
    struct bed *bed = *state;
    for (unsigned i = 0; i < 3; i++)
        assert_true(push(bed, RING_MAX_RECORD - HEADER, i, false));
    uint32_t rest = RING_MAX_RECORD - RING_RESERVE - HEADER;
    assert_false(push(bed, rest + 1, 3, false));
    assert_true(push(bed, rest, 3, false));
    assert_int_equal(ring_free(&bed->producer), RING_RESERVE);
    assert_null(ring_reserve(&bed->producer, 0, 4, false));
    assert_true(push(bed, RING_RESERVE - HEADER, 4, true));
    assert_int_equal(ring_free(&bed->producer), 0);
    assert_null(ring_reserve(&bed->producer, 0, 4, true));
    ring_publish(&bed->producer);
    for (unsigned i = 0; i < 3; i++)
        pop(bed, RING_MAX_RECORD - HEADER, i);
    pop(bed, rest, 3);
    pop(bed, RING_RESERVE - HEADER, 4);
    assert_empty(bed);
}

static void test_release_at_half(void **state)
{
    struct bed *bed = *state;
    for (unsigned i = 0; i < 3; i++)
        assert_true(push(bed, RING_MAX_RECORD - HEADER, i, false));
    ring_publish(&bed->producer);
    assert_false(ring_release(&bed->consumer)); /* a quarter is free */
    pop(bed, RING_MAX_RECORD - HEADER, 0);
    assert_true(ring_release(&bed->consumer)); /* exactly a half */
    assert_true(push(bed, 16, 3, false));
    ring_publish(&bed->producer);
    assert_false(ring_release(&bed->consumer));
    pop(bed, RING_MAX_RECORD - HEADER, 1);
    assert_true(ring_release(&bed->consumer));
}

/* Random pushes, publications, pops and releases against a queue of sizes. */
static void test_model(void **state)
{
    enum { QUEUE = 1 << 15 };
    static uint32_t sizes[QUEUE];
    struct bed *bed = *state;
    uint64_t random = 42;
    uint64_t pushed = 0;
    uint64_t published = 0;
    uint64_t popped = 0;
    for (unsigned step = 0; step < 400000; step++) {
        uint64_t r = mix(&random);
        uint32_t spread = r >> 60 ? 200 : 40000;
        uint32_t size = SMALLEST + (uint32_t)(r >> 20) % spread;
        unsigned action = (unsigned)(r % 16);
        bool filling = step / 2000 % 2;
        if (action < (filling ? 9u : 5u)) {
            if (pushed - popped < QUEUE && push(bed, size, pushed, r >> 8 & 1))
                sizes[pushed++ % QUEUE] = size;
        } else if (action < 11) {
            ring_publish(&bed->producer);
            published = pushed;
        } else if (action < 15) {
            if (popped < published) {
                pop(bed, sizes[popped % QUEUE], popped);
                popped++;
            } else {
                assert_empty(bed);
            }
        } else {
            bool half = ring_release(&bed->consumer);
            uint64_t used = atomic_load(&bed->ring->head) - atomic_load(&bed->ring->tail);
            assert_int_equal(half, used <= ARENA_RING_BYTES / 2);
        }
        uint64_t tail = atomic_load(&bed->ring->tail);
        assert_true(bed->producer.head - tail <= ARENA_RING_BYTES);
        assert_int_equal(bed->producer.head % 8, 0);
    }
    assert_true(pushed > 20000);
}

/* --- threads that sleep --- */

struct pair {
    struct bed *bed;
    struct doorbell records; /* the consumer sleeps here */
    struct doorbell room;    /* the producer sleeps here */
    uint64_t n;
    bool one_by_one; /* each record is answered by its release: the sides sleep as often as they can */
    uint64_t bad;    /* Thread: consumer */
};

static void wait_room(struct pair *p, uint64_t bytes)
{
    while (ring_free(&p->bed->producer) < bytes) {
        doorbell_arm(&p->room);
        if (ring_free(&p->bed->producer) >= bytes) {
            doorbell_disarm(&p->room);
            return;
        }
        doorbell_wait(&p->room, FOR_EVER);
    }
}

static void *produce(void *data)
{
    struct pair *p = data;
    struct ring_producer *ring = &p->bed->producer;
    uint64_t random = 7;
    for (uint64_t i = 0; i < p->n; i++) {
        uint32_t size = SMALLEST + (uint32_t)(mix(&random) % 500);
        unsigned char *to;
        while (!(to = ring_reserve(ring, size, kind_of(i), false))) {
            ring_publish(ring);
            doorbell_ring(&p->records);
            wait_room(p, ARENA_RING_BYTES / 2);
        }
        write_record(to, size, i);
        if (p->one_by_one || mix(&random) % 16 == 0 || i + 1 == p->n) {
            ring_publish(ring);
            doorbell_ring(&p->records);
        }
        if (p->one_by_one)
            wait_room(p, ARENA_RING_BYTES);
    }
    return NULL;
}

static void *consume(void *data)
{
    struct pair *p = data;
    struct ring_consumer *ring = &p->bed->consumer;
    uint64_t random = 9;
    for (uint64_t i = 0; i < p->n;) {
        uint32_t size;
        uint32_t kind;
        unsigned char *at = ring_peek(ring, &size, &kind);
        if (at) {
            p->bad += !record_is(at, size, kind, i);
            ring_next(ring);
            i++;
        }
        if ((!at || p->one_by_one || mix(&random) % 32 == 0) && ring_release(ring))
            doorbell_ring(&p->room);
        if (at)
            continue;
        doorbell_arm(&p->records);
        if (ring_ready(ring)) {
            doorbell_disarm(&p->records);
            continue;
        }
        doorbell_wait(&p->records, FOR_EVER);
    }
    if (ring_release(ring))
        doorbell_ring(&p->room);
    return NULL;
}

static void run_pair(struct bed *bed, uint64_t n, bool one_by_one)
{
    struct pair p = {.bed = bed, .n = n, .one_by_one = one_by_one};
    pthread_t threads[2];
    alarm(HANG_S);
    assert_int_equal(pthread_create(&threads[0], NULL, produce, &p), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, consume, &p), 0);
    pthread_join(threads[0], NULL);
    pthread_join(threads[1], NULL);
    alarm(0);
    assert_int_equal(p.bad, 0);
    assert_empty(bed);
    assert_int_equal(atomic_load(&bed->ring->head), atomic_load(&bed->ring->tail));
}

static void test_threads(void **state)
{
    run_pair(*state, 500000, false);
}

static void test_lost_wake_up(void **state)
{
    run_pair(*state, 50000, true);
}

/* Rung between arm and wait: the wait returns at once. Disarmed or never armed: ringing is nothing. */
static void test_doorbell(void **state)
{
    (void)state;
    struct doorbell bell = {0};
    alarm(HANG_S);
    for (int i = 0; i < 1000; i++) {
        doorbell_arm(&bell);
        doorbell_ring(&bell);
        doorbell_ring(&bell);
        doorbell_wait(&bell, FOR_EVER);
        assert_int_equal(atomic_load(&bell.waiting), 0);
    }
    doorbell_arm(&bell);
    assert_int_equal(atomic_load(&bell.waiting), 1);
    doorbell_disarm(&bell);
    assert_int_equal(atomic_load(&bell.waiting), 0);
    doorbell_ring(&bell);
    doorbell_arm(&bell);
    doorbell_wait(&bell, 1000); /* its time is over */
    assert_int_equal(atomic_load(&bell.waiting), 0);
    alarm(0);
}

/* --- a producer that is killed --- */

/* Writes records from `number` on until it is killed, publishing groups of 1 to 16. */
static void produce_for_ever(struct ring_shared *shared, uint64_t number)
{
    struct ring_producer ring;
    uint64_t random = number;
    ring_attach_producer(&ring, shared, ARENA_RING_BYTES);
    for (;;) {
        for (uint64_t group = 1 + mix(&random) % 16; group; group--) {
            uint32_t size = SMALLEST + (uint32_t)(mix(&random) % (mix(&random) % 64 ? 300 : 30000));
            unsigned char *to;
            while (!(to = ring_reserve(&ring, size, kind_of(number), false))) {
                ring_publish(&ring);
                sched_yield();
            }
            write_record(to, size, number++);
        }
        ring_publish(&ring);
    }
}

/* Consumes what there is, at most `most`; checks every record. */
static uint64_t consume_some(struct ring_consumer *ring, uint64_t number, uint64_t most)
{
    uint32_t size;
    uint32_t kind;
    unsigned char *at;
    uint64_t n = 0;
    while (n < most && (at = ring_peek(ring, &size, &kind))) {
        assert_true(record_is(at, size, kind, number + n));
        ring_next(ring);
        n++;
    }
    ring_release(ring);
    return n;
}

static void test_killed_producer(void **state)
{
    struct bed *bed = *state;
    uint64_t number = 0;
    uint64_t random = 3;
    alarm(HANG_S);
    for (int kills = 0; kills < KILLS; kills++) {
        uint64_t wanted = mix(&random) % 4 ? mix(&random) % 800 : 0;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            alarm(HANG_S);
            produce_for_ever(bed->ring, number);
        }
        for (uint64_t n = 0; n < wanted;) {
            uint64_t some = consume_some(&bed->consumer, number, wanted - n);
            n += some;
            number += some;
            if (!some)
                sched_yield();
        }
        int status;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        number += consume_some(&bed->consumer, number, UINT64_MAX);
        assert_int_equal(atomic_load(&bed->ring->head), atomic_load(&bed->ring->tail));
    }
    alarm(0);
    assert_true(number > KILLS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_visibility, setup, teardown),
        cmocka_unit_test_setup_teardown(test_empty_payload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_attach_again, setup, teardown),
        cmocka_unit_test_setup_teardown(test_every_offset, setup, teardown),
        cmocka_unit_test_setup_teardown(test_index_overflow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_largest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full, setup, teardown),
        cmocka_unit_test_setup_teardown(test_exact_room, setup, teardown),
        cmocka_unit_test_setup_teardown(test_release_at_half, setup, teardown),
        cmocka_unit_test_setup_teardown(test_model, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed_producer, setup, teardown),
        cmocka_unit_test_setup_teardown(test_threads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_wake_up, setup, teardown),
        cmocka_unit_test(test_doorbell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
