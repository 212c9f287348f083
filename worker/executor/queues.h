/* Where invocations wait that may not begin yet: in a queue for each trigger and host, in order.
 *
 * The first of a queue may begin when trigger, host and worker let it (gate.h), all at once, so nobody holds
 * a place of one while waiting for another. Hosts take turns, and so do the triggers at a host.
 *
 * Shares: at a host, a trigger gets at most QUEUES_SHARE times as many places as are then still free there,
 * and a host at most as many times those of the worker (as in checkpoint/outbox.h); what is free at a host is
 * no more than its share of the worker leaves. So a function that hangs leaves a fifth of its host's places
 * to others, and a second one a fifth of that; likewise hosts. Where there are no more than four places, one
 * may have all.
 *
 * Clock and timers are the caller's. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUES_SHARE 4

struct error;
struct queue;
struct queues;

struct queues_ticket { /* embedded in what waits, or has begun */
    struct queues_ticket *next;
    struct queue *queue; /* NULL: it is in none */
};

struct queues_limit {
    unsigned max_inside; /* 0: any number */
    double rate;         /* a second; 0: any */
};

struct queues_name {
    const char *text;
    size_t len;
};

struct queues *queues_new(const struct queues_limit *worker); /* NULL: out of memory */
/* Tickets may still be in it. NULL is fine. */
void queues_free(struct queues *queues);

/* Waits behind those of this trigger and host, whose limits are these from now on. Errors: ERROR_MEMORY. */
int queues_join(struct queues *queues, struct queues_ticket *ticket, const struct queues_name *trigger,
                const struct queues_limit *trigger_limit, const struct queues_name *host,
                const struct queues_limit *host_limit, struct error *err);
/* The next that may begin, with its places; NULL: none. *ret_due_ns is made less if a rate lets one in
 * earlier. */
struct queues_ticket *queues_next(struct queues *queues, uint64_t now_ns, uint64_t *ret_due_ns);
/* One that had begun gives its places back. */
void queues_leave(struct queues *queues, struct queues_ticket *ticket);
bool queues_waiting(const struct queues *queues);
