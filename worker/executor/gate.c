#include "worker/executor/gate.h"

#include <assert.h>

#include "common/clock.h"

void gate_init(struct gate *gate)
{
    *gate = (struct gate){.max_inside = 0};
    gate->end = &gate->first;
}

void gate_limit(struct gate *gate, unsigned max_inside, double rate)
{
    gate->max_inside = max_inside;
    gate->period_ns = rate > 0 ? (uint64_t)((double)CLOCK_S / rate) : 0;
}

static bool is_full(const struct gate *gate)
{
    return gate->max_inside && gate->inside >= gate->max_inside;
}

static bool admits(const struct gate *gate, uint64_t now_ns)
{
    return !is_full(gate) && (!gate->period_ns || gate->due_ns <= now_ns + GATE_BURST_NS);
}

static void enter(struct gate *gate, uint64_t now_ns)
{
    gate->inside++;
    if (gate->period_ns)
        gate->due_ns = (gate->due_ns > now_ns ? gate->due_ns : now_ns) + gate->period_ns;
}

bool gate_enter(struct gate *gate, struct gate_ticket *ticket, uint64_t now_ns)
{
    if (!gate->first && admits(gate, now_ns)) {
        enter(gate, now_ns);
        return true;
    }
    ticket->next = NULL;
    *gate->end = ticket;
    gate->end = &ticket->next;
    gate->n_waiting++;
    return false;
}

void gate_leave(struct gate *gate)
{
    assert(gate->inside);
    gate->inside--;
}

struct gate_ticket *gate_next(struct gate *gate, uint64_t now_ns)
{
    struct gate_ticket *ticket = gate->first;
    if (!ticket || !admits(gate, now_ns))
        return NULL;
    gate->first = ticket->next;
    if (!gate->first)
        gate->end = &gate->first;
    gate->n_waiting--;
    enter(gate, now_ns);
    return ticket;
}

uint64_t gate_due(const struct gate *gate)
{
    if (!gate->first || is_full(gate))
        return UINT64_MAX;
    return gate->due_ns > GATE_BURST_NS ? gate->due_ns - GATE_BURST_NS : 0;
}

bool gate_idle(const struct gate *gate, uint64_t now_ns)
{
    return !gate->inside && !gate->first && gate->due_ns <= now_ns;
}
