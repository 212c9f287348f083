/* A gate: how many may be inside at a time, and how many may enter a second.
 *
 * The rate is that of a leaky bucket (the generic cell rate algorithm, ITU-T I.371): one every `period_ns`,
 * with GATE_BURST_NS ahead of time, so that a fast rate needs no timer for each. Clock, timers and queues are
 * the caller's. Thread: one at a time. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define GATE_BURST_NS 5000000u

struct gate {
    unsigned max_inside; /* 0: any number */
    uint64_t period_ns;  /* 0: at any rate */
    unsigned inside;
    uint64_t due_ns; /* when the next one would be due at that rate */
};

/* rate: a second; 0: any. */
void gate_limit(struct gate *gate, unsigned max_inside, double rate);

/* How many more may be inside; UINT_MAX: any number. */
unsigned gate_free(const struct gate *gate);
/* From when on the rate lets the next one in; 0: it always does. */
uint64_t gate_due(const struct gate *gate);
/* Enters; the caller has asked both. */
void gate_enter(struct gate *gate, uint64_t now_ns);
/* One that was inside leaves. */
void gate_leave(struct gate *gate);
/* Whether the gate holds nothing that a new one would not. */
bool gate_idle(const struct gate *gate, uint64_t now_ns);
