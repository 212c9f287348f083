#include "common/arena.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/error.h"

#define PAGE 4096u
#define HEADER_BYTES ((sizeof(struct arena) + PAGE - 1) / PAGE * PAGE)
#define N_RINGS (ARENA_MAX_SOURCES * ARENA_MAX_SHARDS)
#define RING_BYTES ((size_t)ARENA_RING_HEADER + ARENA_RING_BYTES)
#define INGEST_AT (HEADER_BYTES + N_RINGS * RING_BYTES)
#define DECISIONS_AT ((INGEST_AT + ARENA_RING_HEADER + ARENA_INGEST_BYTES + PAGE - 1) / PAGE * PAGE)
#define ARENA_BYTES (DECISIONS_AT + (size_t)ARENA_MAX_SHARDS * ARENA_DECISIONS_BYTES)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static_assert(HEADER_BYTES <= 4 * PAGE, "every idle worker pays for the header");
static_assert(RING_BYTES % 64 == 0, "rings start on a cache line");
static_assert(ARENA_BYTES % PAGE == 0, "the mapping ends with a page");
static_assert(offsetof(struct arena, worker) % sizeof(uint64_t) == 0 &&
                  offsetof(struct arena, n_poison) % sizeof(uint64_t) == 0,
              "arena_reset() clears whole words");

int arena_create(int *ret_fd, struct error *err)
{
    int fd = memfd_create("triggerflow-arena", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return error_set_errno(err, errno, "memfd_create");
    /* The fields in front of `worker` are all that is written: the rest is zero without costing a page. */
    struct {
        uint32_t magic;
        uint32_t format;
        uint64_t size;
    } head = {ARENA_MAGIC, ARENA_FORMAT, ARENA_BYTES};
    static_assert(sizeof head == offsetof(struct arena, size) + sizeof(uint64_t),
                  "head mirrors struct arena");
    if (ftruncate(fd, ARENA_BYTES) < 0)
        error_set_errno(err, errno, "arena of %zu bytes", (size_t)ARENA_BYTES);
    else if (pwrite(fd, &head, sizeof head, 0) != sizeof head)
        error_set_errno(err, errno, "arena write");
    else if (fcntl(fd, F_ADD_SEALS, SEALS) < 0)
        error_set_errno(err, errno, "arena seals");
    else {
        *ret_fd = fd;
        return 0;
    }
    close(fd);
    return -1;
}

int arena_map(int fd, struct arena **ret_arena, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_set_errno(err, errno, "arena fstat");
    if (st.st_size != (off_t)ARENA_BYTES)
        return error_set(err, ERROR_INVALID, "arena of %lld bytes instead of %zu", (long long)st.st_size,
                         (size_t)ARENA_BYTES);
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS)
        return error_set(err, ERROR_INVALID, "arena is not sealed against resizing");
    struct arena *arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (arena == MAP_FAILED)
        return error_set_errno(err, errno, "arena mmap");
    if (arena->magic != ARENA_MAGIC || arena->format != ARENA_FORMAT || arena->size != ARENA_BYTES) {
        error_set(err, ERROR_INVALID, "arena with magic %08x, format %u instead of %08x, %u",
                  (unsigned)arena->magic, (unsigned)arena->format, ARENA_MAGIC, ARENA_FORMAT);
        munmap(arena, ARENA_BYTES);
        return -1;
    }
    *ret_arena = arena;
    return 0;
}

void arena_unmap(struct arena *arena)
{
    if (arena)
        munmap(arena, ARENA_BYTES);
}

void arena_reset(struct arena *arena, uint32_t generation)
{
    typedef uint64_t __attribute__((may_alias)) word;
    char *base = (char *)arena;
    /* By atomic stores: threads of the supervisor may be reading counters. */
    for (size_t at = offsetof(struct arena, worker); at < offsetof(struct arena, n_poison);
         at += sizeof(word))
        __atomic_store_n((word *)(base + at), 0, __ATOMIC_RELAXED);
    /* The pages of the rings go back to the system. Where that is not supported (gVisor), empty headers must
     * do. */
    if (madvise(base + HEADER_BYTES, ARENA_BYTES - HEADER_BYTES, MADV_REMOVE) < 0) {
        for (size_t i = 0; i < N_RINGS; i++)
            memset(base + HEADER_BYTES + i * RING_BYTES, 0, ARENA_RING_HEADER);
        memset(base + INGEST_AT, 0, ARENA_RING_HEADER);
        memset(base + DECISIONS_AT, 0, ARENA_BYTES - DECISIONS_AT);
    }
    arena->magic = ARENA_MAGIC;
    arena->format = ARENA_FORMAT;
    arena->size = ARENA_BYTES;
    atomic_store_explicit(&arena->worker.generation, generation, memory_order_release);
}

struct ring_shared *arena_ring(struct arena *arena, unsigned source, unsigned shard)
{
    assert(source < ARENA_MAX_SOURCES && shard < ARENA_MAX_SHARDS);
    char *at = (char *)arena + HEADER_BYTES + ((size_t)source * ARENA_MAX_SHARDS + shard) * RING_BYTES;
    return (struct ring_shared *)(void *)at;
}

struct ring_shared *arena_ingest_ring(struct arena *arena)
{
    return (struct ring_shared *)(void *)((char *)arena + INGEST_AT);
}

void *arena_decisions(struct arena *arena, unsigned shard)
{
    assert(shard < ARENA_MAX_SHARDS);
    return (char *)arena + DECISIONS_AT + (size_t)shard * ARENA_DECISIONS_BYTES;
}

/* The entry of an event in the poison table, made when absent: a full table loses the entry with the fewest
 * deaths, the oldest of those. n is the number of entries, checked. */
static struct arena_poison *poison_entry(struct arena *arena, uint32_t n, const struct arena_event *event)
{
    struct arena_poison *table = arena->poison;
    uint32_t fewest = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!memcmp(&table[i].event, event, sizeof *event))
            return &table[i];
        if (table[i].deaths < table[fewest].deaths)
            fewest = i;
    }
    if (n == ARENA_MAX_POISON) {
        memmove(&table[fewest], &table[fewest + 1], (n - fewest - 1) * sizeof *table);
        n--;
    }
    table[n] = (struct arena_poison){.event = *event};
    arena->n_poison = n + 1;
    return &table[n];
}

unsigned arena_remember_fault(struct arena *arena, unsigned thread, uint32_t signal)
{
    if (thread >= ARENA_THREADS)
        return 0;
    struct arena_thread *t = &arena->thread[thread];
    if (!atomic_load_explicit(&t->event_set, memory_order_acquire))
        return 0;
    struct arena_event event = {
        .source = arena_get(&t->event_source),
        .position = {arena_get(&t->event_position[0]), arena_get(&t->event_position[1])},
    };
    /* A worker that went wild may have written anything here. */
    uint32_t n = arena->n_poison <= ARENA_MAX_POISON ? arena->n_poison : ARENA_MAX_POISON;
    struct arena_poison *entry = poison_entry(arena, n, &event);
    entry->trigger = arena_get(&t->trigger);
    entry->signal = signal;
    if (entry->deaths < UINT32_MAX)
        entry->deaths++;
    return entry->deaths;
}

uint64_t arena_name_hash(const char *name, size_t len)
{
    return XXH3_64bits(name, len);
}
