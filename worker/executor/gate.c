#include "worker/executor/gate.h"

#include <assert.h>
#include <limits.h>

#include "common/clock.h"

void gate_limit(struct gate *gate, unsigned max_inside, double rate)
{
    gate->max_inside = max_inside;
    uint64_t period_ns = rate > 0 ? (uint64_t)((double)CLOCK_S / rate) : 0;
    if (gate->due_ns) /* as if the last one had entered at this rate */
        gate->due_ns = gate->due_ns - gate->period_ns + period_ns;
    gate->period_ns = period_ns;
}

unsigned gate_free(const struct gate *gate)
{
    if (!gate->max_inside)
        return UINT_MAX;
    return gate->inside < gate->max_inside ? gate->max_inside - gate->inside : 0;
}

uint64_t gate_due(const struct gate *gate)
{
    return gate->period_ns && gate->due_ns > GATE_BURST_NS ? gate->due_ns - GATE_BURST_NS : 0;
}

void gate_enter(struct gate *gate, uint64_t now_ns)
{
    gate->inside++;
    if (gate->period_ns)
        gate->due_ns = (gate->due_ns > now_ns ? gate->due_ns : now_ns) + gate->period_ns;
}

void gate_leave(struct gate *gate)
{
    assert(gate->inside);
    gate->inside--;
}

bool gate_idle(const struct gate *gate, uint64_t now_ns)
{
    return !gate->inside && gate->due_ns <= now_ns;
}
