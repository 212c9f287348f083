#include "common/ring.h"

#include <assert.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

#define KIND_PAD UINT32_MAX

struct header {
    uint32_t size; /* payload bytes, not rounded */
    uint32_t kind;
};

_Static_assert(sizeof(struct ring_shared) <= ARENA_RING_HEADER, "the arena leaves room for the indices");
_Static_assert(sizeof(struct header) == 8, "records stay aligned");

static uint64_t footprint(uint32_t size)
{
    return (sizeof(struct header) + size + 7) & ~7ull;
}

void ring_attach_producer(struct ring_producer *p, struct ring_shared *shared, uint64_t bytes)
{
    p->shared = shared;
    p->bytes = bytes;
    p->data = (unsigned char *)shared + ARENA_RING_HEADER;
    p->head = atomic_load_explicit(&shared->head, memory_order_relaxed);
    p->tail_seen = atomic_load_explicit(&shared->tail, memory_order_acquire);
}

void ring_attach_consumer(struct ring_consumer *c, struct ring_shared *shared, uint64_t bytes)
{
    c->shared = shared;
    c->bytes = bytes;
    c->data = (unsigned char *)shared + ARENA_RING_HEADER;
    c->tail = atomic_load_explicit(&shared->tail, memory_order_relaxed);
    c->head_seen = atomic_load_explicit(&shared->head, memory_order_acquire);
}

void *ring_reserve(struct ring_producer *p, uint32_t size, uint32_t kind, bool urgent)
{
    assert(size <= p->bytes / 4);
    uint64_t need = footprint(size);
    uint64_t to_end = p->bytes - (p->head & (p->bytes - 1));
    uint64_t pad = to_end < need ? to_end : 0;
    uint64_t wanted = need + pad + (urgent ? 0 : RING_RESERVE);
    if (p->head + wanted - p->tail_seen > p->bytes) {
        p->tail_seen = atomic_load_explicit(&p->shared->tail, memory_order_seq_cst);
        if (p->head + wanted - p->tail_seen > p->bytes)
            return NULL;
    }
    if (pad) {
        *(struct header *)(void *)(p->data + (p->head & (p->bytes - 1))) =
            (struct header){.size = (uint32_t)(pad - sizeof(struct header)), .kind = KIND_PAD};
        p->head += pad;
    }
    struct header *h = (struct header *)(void *)(p->data + (p->head & (p->bytes - 1)));
    *h = (struct header){.size = size, .kind = kind};
    p->head += need;
    return h + 1;
}

void ring_publish(struct ring_producer *p)
{
    /* seq_cst: the store must be visible before doorbell_ring() looks for a sleeper. */
    atomic_store_explicit(&p->shared->head, p->head, memory_order_seq_cst);
}

uint64_t ring_free(struct ring_producer *p)
{
    p->tail_seen = atomic_load_explicit(&p->shared->tail, memory_order_seq_cst);
    return p->bytes - (p->head - p->tail_seen);
}

void *ring_peek(struct ring_consumer *c, uint32_t *ret_size, uint32_t *ret_kind)
{
    for (;;) {
        if (c->tail == c->head_seen) {
            c->head_seen = atomic_load_explicit(&c->shared->head, memory_order_acquire);
            if (c->tail == c->head_seen)
                return NULL;
        }
        struct header *h = (struct header *)(void *)(c->data + (c->tail & (c->bytes - 1)));
        if (h->kind != KIND_PAD) {
            *ret_size = h->size;
            *ret_kind = h->kind;
            return h + 1;
        }
        c->tail += footprint(h->size);
    }
}

void ring_next(struct ring_consumer *c)
{
    struct header *h = (struct header *)(void *)(c->data + (c->tail & (c->bytes - 1)));
    c->tail += footprint(h->size);
}

bool ring_release(struct ring_consumer *c)
{
    atomic_store_explicit(&c->shared->tail, c->tail, memory_order_seq_cst);
    return atomic_load_explicit(&c->shared->head, memory_order_relaxed) - c->tail <= c->bytes / 2;
}

bool ring_ready(struct ring_consumer *c)
{
    return atomic_load_explicit(&c->shared->head, memory_order_seq_cst) != c->tail;
}

static long futex(_Atomic uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, timeout, NULL, 0);
}

void doorbell_ring(struct doorbell *bell)
{
    if (atomic_load_explicit(&bell->waiting, memory_order_seq_cst) &&
        atomic_exchange_explicit(&bell->waiting, 0, memory_order_seq_cst))
        futex(&bell->waiting, FUTEX_WAKE, 1, NULL);
}

void doorbell_arm(struct doorbell *bell)
{
    atomic_store_explicit(&bell->waiting, 1, memory_order_seq_cst);
}

void doorbell_wait(struct doorbell *bell, uint64_t timeout_ns)
{
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / CLOCK_S),
                               .tv_nsec = (long)(timeout_ns % CLOCK_S)};
    futex(&bell->waiting, FUTEX_WAIT, 1, &timeout);
    atomic_store_explicit(&bell->waiting, 0, memory_order_relaxed);
}

void doorbell_disarm(struct doorbell *bell)
{
    atomic_store_explicit(&bell->waiting, 0, memory_order_relaxed);
}
