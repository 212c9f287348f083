/* The arena: its memory, what a reset keeps, and the poison table. */
#include "common/arena.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/error.h"

struct fixture {
    int fd;
    struct arena *arena;
    struct error err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    assert_int_equal(arena_create(&f->fd, &f->err), 0);
    assert_int_equal(arena_map(f->fd, &f->arena, &f->err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    arena_unmap(f->arena);
    close(f->fd);
    free(f);
    return 0;
}

static off_t resident(const struct fixture *f)
{
    struct stat st;
    assert_int_equal(fstat(f->fd, &st), 0);
    return st.st_blocks * 512;
}

static void test_create(void **state)
{
    struct fixture *f = *state;
    struct stat st;
    assert_true(fcntl(f->fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(fstat(f->fd, &st), 0);
    assert_int_equal(ftruncate(f->fd, st.st_size - 1), -1); /* sealed */
    assert_int_equal(ftruncate(f->fd, st.st_size + 1), -1);
    assert_int_equal(fcntl(f->fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    assert_int_equal(f->arena->magic, ARENA_MAGIC);
    assert_int_equal(f->arena->format, ARENA_FORMAT);
    assert_int_equal(f->arena->size, st.st_size);
    assert_int_equal(atomic_load(&f->arena->worker.state), ARENA_STARTING);
    arena_unmap(NULL);
}

static void test_shared(void **state)
{
    struct fixture *f = *state;
    struct arena *other;
    assert_int_equal(arena_map(f->fd, &other, &f->err), 0);
    assert_ptr_not_equal(other, f->arena);
    arena_add(&f->arena->worker.commits, 3);
    arena_add(&f->arena->worker.commits, 4);
    arena_set(&f->arena->worker.epoch, 9);
    arena_beat(&f->arena->thread[ARENA_THREAD_MAIN], 123);
    assert_int_equal(arena_get(&other->worker.commits), 7);
    assert_int_equal(arena_get(&other->worker.epoch), 9);
    assert_int_equal(arena_get(&other->thread[ARENA_THREAD_MAIN].beat_ns), 123);
    arena_unmap(other);
}

/* Rings lie behind the header, apart from each other, aligned, and use no memory before they are used. */
static void test_rings(void **state)
{
    struct fixture *f = *state;
    char *previous = (char *)(f->arena + 1) - ARENA_RING_HEADER - ARENA_RING_BYTES;
    char *last = NULL;
    for (unsigned source = 0; source < ARENA_MAX_SOURCES; source++)
        for (unsigned shard = 0; shard < ARENA_MAX_SHARDS; shard++) {
            last = (char *)arena_ring(f->arena, source, shard);
            assert_true((size_t)(last - previous) >= ARENA_RING_HEADER + ARENA_RING_BYTES);
            assert_int_equal((uintptr_t)last % 64, 0);
            previous = last;
        }
    assert_true(last + ARENA_RING_HEADER + ARENA_RING_BYTES <= (char *)f->arena + f->arena->size);
    assert_true(resident(f) <= 16384);
    memset(last, 1, ARENA_RING_HEADER + ARENA_RING_BYTES); /* to the last byte of the mapping */
}

static void test_reset(void **state)
{
    struct fixture *f = *state;
    struct arena *a = f->arena;
    struct arena_thread *t = &a->thread[ARENA_THREAD_SHARD];
    atomic_store(&t->event_set, 1);
    atomic_store(&t->event_source, 5);
    assert_int_equal(arena_remember_fault(a, ARENA_THREAD_SHARD, 11), 1);
    arena_set(&a->worker.commits, 3);
    atomic_store(&a->worker.state, ARENA_FAILED);
    strcpy(a->source[ARENA_MAX_SOURCES - 1].name, "kafka");
    arena_set(&a->shard[ARENA_MAX_SHARDS - 1].fired, 4);
    atomic_store(&a->fault_signal, 11);
    atomic_store(&a->fault_thread, 3);
    for (unsigned i = 0; i < ARENA_MAX_SOURCES; i++)
        memset(arena_ring(a, i, i % ARENA_MAX_SHARDS), 0xAA, ARENA_RING_HEADER + ARENA_RING_BYTES);
    assert_true(resident(f) > ARENA_MAX_SOURCES * (off_t)ARENA_RING_BYTES);
    a->magic = 0; /* a worker may have overwritten anything */

    arena_reset(a, 8);
    assert_int_equal(a->magic, ARENA_MAGIC);
    assert_int_equal(atomic_load(&a->worker.generation), 8);
    assert_int_equal(arena_get(&a->worker.commits), 0);
    assert_int_equal(atomic_load(&a->worker.state), ARENA_STARTING);
    assert_string_equal(a->source[ARENA_MAX_SOURCES - 1].name, "");
    assert_int_equal(arena_get(&a->shard[ARENA_MAX_SHARDS - 1].fired), 0);
    assert_int_equal(atomic_load(&t->event_set), 0);
    assert_int_equal(atomic_load(&a->fault_signal), 0);
    assert_int_equal(atomic_load(&a->fault_thread), 0);
    assert_int_equal(a->n_poison, 1); /* which is what a reset is for */
    assert_int_equal(a->poison[0].event.source, 5);
    assert_int_equal(a->poison[0].deaths, 1);
    assert_true(resident(f) <= 16384);
    const char *ring = (const char *)arena_ring(a, 1, 1);
    for (size_t i = 0; i < ARENA_RING_HEADER + ARENA_RING_BYTES; i++)
        assert_int_equal(ring[i], 0);
}

static void in_hand(struct arena *a, unsigned thread, uint64_t source, uint64_t position, uint64_t trigger)
{
    struct arena_thread *t = &a->thread[thread];
    atomic_store(&t->event_source, source);
    atomic_store(&t->event_position[0], position);
    atomic_store(&t->event_position[1], position + 1);
    atomic_store(&t->trigger, trigger);
    atomic_store(&t->event_set, 1);
}

static void test_faults(void **state)
{
    struct fixture *f = *state;
    struct arena *a = f->arena;
    assert_int_equal(arena_remember_fault(a, 0, 11), 0); /* nothing in hand */
    assert_int_equal(a->n_poison, 0);
    in_hand(a, ARENA_THREADS - 1, 1, 10, 99);
    assert_int_equal(arena_remember_fault(a, ARENA_THREADS - 1, 11), 1);
    in_hand(a, 3, 1, 10, 98); /* the same event in another thread, with another trigger */
    assert_int_equal(arena_remember_fault(a, 3, 6), 2);
    assert_int_equal(a->n_poison, 1);
    assert_int_equal(a->poison[0].event.position[0], 10);
    assert_int_equal(a->poison[0].event.position[1], 11);
    assert_int_equal(a->poison[0].trigger, 98);
    assert_int_equal(a->poison[0].signal, 6);
    in_hand(a, 3, 2, 10, 98); /* another source */
    assert_int_equal(arena_remember_fault(a, 3, 0), 1);
    in_hand(a, 3, 1, 11, 98); /* another position */
    assert_int_equal(arena_remember_fault(a, 3, 0), 1);
    assert_int_equal(a->n_poison, 3);
    in_hand(a, 3, 1, 10, 98);
    assert_int_equal(arena_remember_fault(a, 3, 11), ARENA_POISON_DEATHS);
    a->poison[0].deaths = UINT32_MAX; /* no way back to zero */
    assert_int_equal(arena_remember_fault(a, 3, 11), UINT32_MAX);
}

static void test_fault_bounds(void **state)
{
    struct fixture *f = *state;
    struct arena *a = f->arena;
    in_hand(a, ARENA_THREADS - 1, 1, 10, 0);
    assert_int_equal(arena_remember_fault(a, ARENA_THREADS, 11), 0);
    assert_int_equal(arena_remember_fault(a, UINT32_MAX, 11), 0);
    a->n_poison = UINT32_MAX; /* written over by a worker gone wild */
    assert_int_equal(arena_remember_fault(a, ARENA_THREADS - 1, 11), 1);
    assert_int_equal(a->n_poison, ARENA_MAX_POISON);
}

/* A full table loses the entry with the fewest deaths, the oldest among equals. */
static void test_full_table(void **state)
{
    struct fixture *f = *state;
    struct arena *a = f->arena;
    for (uint64_t i = 0; i < ARENA_MAX_POISON; i++)
        for (int deaths = i == 2 || i == 5 ? 1 : 2; deaths > 0; deaths--) {
            in_hand(a, 0, i, 0, 0);
            arena_remember_fault(a, 0, 11);
        }
    assert_int_equal(a->n_poison, ARENA_MAX_POISON);
    in_hand(a, 0, 100, 0, 0);
    assert_int_equal(arena_remember_fault(a, 0, 11), 1); /* in the place of 2 */
    in_hand(a, 0, 101, 0, 0);
    assert_int_equal(arena_remember_fault(a, 0, 11), 1); /* of 5 */
    in_hand(a, 0, 102, 0, 0);
    assert_int_equal(arena_remember_fault(a, 0, 11), 1); /* of 100 */
    assert_int_equal(a->n_poison, ARENA_MAX_POISON);
    in_hand(a, 0, 101, 0, 0);
    assert_int_equal(arena_remember_fault(a, 0, 11), 2); /* still there */
    for (uint64_t i = 0; i < ARENA_MAX_POISON; i++) {
        if (i == 2 || i == 5)
            continue;
        in_hand(a, 0, i, 0, 0);
        assert_int_equal(arena_remember_fault(a, 0, 11), 3);
    }
}

static int map_memfd(size_t size, int seals, uint32_t magic, struct error *err)
{
    struct arena *arena = NULL;
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    struct {
        uint32_t magic, format;
        uint64_t size;
    } head = {magic, ARENA_FORMAT, size};
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    assert_int_equal(pwrite(fd, &head, sizeof head, 0), sizeof head);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    int r = arena_map(fd, &arena, err);
    close(fd);
    if (r == 0)
        arena_unmap(arena);
    else
        assert_null(arena);
    return r;
}

static void test_map_checks(void **state)
{
    struct fixture *f = *state;
    size_t size = f->arena->size;
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    char expected[128];
    assert_int_equal(map_memfd(size, seals, ARENA_MAGIC, &f->err), 0);
    assert_int_equal(map_memfd(size - 1, seals, ARENA_MAGIC, &f->err), -1);
    assert_int_equal(f->err.code, ERROR_INVALID);
    snprintf(expected, sizeof expected, "arena of %zu bytes instead of %zu", size - 1, size);
    assert_string_equal(f->err.message, expected);
    assert_int_equal(map_memfd(size, F_SEAL_SHRINK | F_SEAL_SEAL, ARENA_MAGIC, &f->err), -1);
    assert_string_equal(f->err.message, "arena is not sealed against resizing");
    assert_int_equal(map_memfd(size, seals, 7, &f->err), -1);
    snprintf(expected, sizeof expected, "arena with magic 00000007, format %u instead of 31414654, %u",
             ARENA_FORMAT, ARENA_FORMAT);
    assert_string_equal(f->err.message, expected);
    assert_int_equal(arena_map(-1, &f->arena, &f->err), -1);
    assert_int_equal(f->err.code, ERROR_SYSTEM);
    assert_string_equal(f->err.message, "arena fstat: Bad file descriptor");
}

static void test_no_descriptors(void **state)
{
    struct fixture *f = *state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    struct rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    int fd = -7;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int r = arena_create(&fd, &f->err);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(r, -1);
    assert_int_equal(fd, -7);
    assert_string_equal(f->err.message, "memfd_create: Too many open files");
}

static void test_name_hash(void **state)
{
    (void)state;
    /* XXH3_64bits of nothing, from the reference implementation: the value is stored, so it may never change.
     */
    assert_true(arena_name_hash("", 0) == 0x2D06800538D394C2ull);
    assert_true(arena_name_hash("redis", 5) != arena_name_hash("kafka", 5));
    assert_true(arena_name_hash("redis", 5) == arena_name_hash("redis!", 5));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_create),         TEST(test_shared),
        TEST(test_rings),          TEST(test_reset),
        TEST(test_faults),         TEST(test_fault_bounds),
        TEST(test_full_table),     TEST(test_map_checks),
        TEST(test_no_descriptors), cmocka_unit_test(test_name_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
