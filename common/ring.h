/* A single-producer single-consumer byte ring of variable-length records, and the futex that its sides sleep
 * on.
 *
 *      tail (consumer)          head (producer)
 *        v                        v
 *   .....[size kind payload][....]..........[pad]     indices grow for ever; offset = index & (bytes - 1)
 *
 * Invariants: tail <= head <= tail + bytes; every record starts at a multiple of 8 and is
 * contiguous (a pad record fills the end); bytes in [tail, head) are whole records. The producer writes
 * records first and publishes head last, so that a killed producer never leaves a torn record. RING_RESERVE
 * bytes are kept back for urgent records (barriers), which therefore never wait.
 *
 * Sleeping (struct doorbell): the sleeper announces itself (arm), looks once more, and waits; the other side
 * publishes, then looks for a sleeper (ring). Both use sequentially consistent operations, so one of them
 * sees the other (the store-buffer argument; Linux futex(2)). */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/arena.h"

#define RING_RESERVE 256u                      /* bytes kept for urgent records */
#define RING_MAX_RECORD (ARENA_RING_BYTES / 4) /* largest payload in a ring of ARENA_RING_BYTES */

struct ring_shared {
    _Alignas(128) _Atomic uint64_t head; /* published by the producer */
    _Alignas(128) _Atomic uint64_t tail; /* released by the consumer */
};

/* Thread: the producer, or another under the lock that guards the ring. */
struct ring_producer {
    struct ring_shared *shared;
    unsigned char *data;
    uint64_t bytes;
    uint64_t head;      /* written up to here, maybe not published */
    uint64_t tail_seen; /* the consumer was at least here */
};

/* Thread: the consumer. */
struct ring_consumer {
    struct ring_shared *shared;
    unsigned char *data;
    uint64_t bytes;
    uint64_t tail;      /* consumed up to here, maybe not released */
    uint64_t head_seen; /* the producer was at least here */
};

/* Attach to a ring of this many data bytes (a power of two), at the positions it holds (all zero memory is an
 * empty ring). */
void ring_attach_producer(struct ring_producer *p, struct ring_shared *shared, uint64_t bytes);
void ring_attach_consumer(struct ring_consumer *c, struct ring_shared *shared, uint64_t bytes);

/* Space for a record of `size` payload bytes, aligned to 8, not yet visible; NULL when the ring is full now.
 * Only urgent records may use the reserve. size <= bytes / 4 is the caller's duty. */
void *ring_reserve(struct ring_producer *p, uint32_t size, uint32_t kind, bool urgent);
/* Makes all reserved records visible. Does not wake: doorbell_ring() after it. */
void ring_publish(struct ring_producer *p);
/* Free bytes, as the producer sees them now. */
uint64_t ring_free(struct ring_producer *p);

/* The next record, or NULL when there is none; stays until ring_next(). */
void *ring_peek(struct ring_consumer *c, uint32_t *ret_size, uint32_t *ret_kind);
void ring_next(struct ring_consumer *c);
/* Gives the space of consumed records back. Returns whether at least half of the ring is free now. */
bool ring_release(struct ring_consumer *c);
/* Whether records wait (a sequentially consistent look, for use between arm and wait). */
bool ring_ready(struct ring_consumer *c);

struct doorbell {
    _Atomic uint32_t waiting;
};

/* Wakes the sleeper, if there is one. Thread: any. */
void doorbell_ring(struct doorbell *bell);
/* Announces that the caller is going to sleep; look again at all conditions before doorbell_wait(). */
void doorbell_arm(struct doorbell *bell);
/* Sleeps until rung, at most timeout_ns; may return early. Returns at once when rung since doorbell_arm(). */
void doorbell_wait(struct doorbell *bell, uint64_t timeout_ns);
/* Takes the announcement back, instead of waiting. */
void doorbell_disarm(struct doorbell *bell);
