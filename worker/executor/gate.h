/* A gate: how many may be inside at a time, and how many may enter a second; who must wait does so in order.
 *
 * The rate is that of a leaky bucket (the generic cell rate algorithm, ITU-T I.371): one every `period_ns`,
 * with GATE_BURST_NS ahead of time, so that a fast rate needs no timer for each. Clock and timers are the
 * caller's. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GATE_BURST_NS 5000000u

struct gate_ticket { /* embedded in what waits */
    struct gate_ticket *next;
};

struct gate {
    unsigned max_inside; /* 0: any number */
    uint64_t period_ns;  /* 0: at any rate */
    unsigned inside;
    uint64_t due_ns; /* when the next one would be due at that rate */
    struct gate_ticket *first;
    struct gate_ticket **end;
    size_t n_waiting;
};

void gate_init(struct gate *gate);
/* rate: a second; 0: any. */
void gate_limit(struct gate *gate, unsigned max_inside, double rate);

/* Enters, or waits behind those that wait already. Whether it has entered. */
bool gate_enter(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns);
/* One that was inside leaves. */
void gate_leave(struct gate *gate);
/* The first that waits and may enter now has entered; NULL: none. */
struct gate_ticket *gate_next(struct gate *gate, uint64_t now_ns);
/* When the rate lets the first that waits in, if anybody waits and nothing else is in its way; else
 * UINT64_MAX. */
uint64_t gate_due(const struct gate *gate);
/* Whether the gate holds nothing that a new one would not. */
bool gate_idle(const struct gate *gate, uint64_t now_ns);
