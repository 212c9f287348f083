#include "tests/support/source_workload.h"

#include <stdio.h>

#include "tests/support/workspace.h"

#define NEVER 1000000000
#define DRIVER_ORDER true /* `unordered` of a trigger is what the driver says */

const struct reference_trigger source_triggers[SOURCE_TRIGGERS] = {
    /* Emits the data of every event under the number of its firing: their order. */
    {"order", "e.order", "*", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.order",
     .unordered = DRIVER_ORDER},
    {"order_count", "e.order", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"data", "e.data", "*", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.data",
     .unordered = DRIVER_ORDER},
    {"data_count", "e.data", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    /* `count` counts every event, `distinct` those with different keys: the former less the latter came
     * twice, and what the latter lacks is lost. */
    {"count", "e.key", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"distinct", "e.key", "*", REFERENCE_JOIN, NEVER, .action = REFERENCE_PASS},
    {"distinct0", "e.key", "s0", REFERENCE_FUNCTION_JOIN, NEVER, .action = REFERENCE_PASS},
    {"count1", "e.key", "s1", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"count2", "e.key", "s2", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    /* Joins that fire, and what follows inside. */
    {"join0", "e.join", "s0", REFERENCE_JOIN, 1, .action = REFERENCE_EMIT_INTERNAL, .emit_type = "i.join",
     .own_data = true},
    {"join1", "e.join", "s1", REFERENCE_JOIN, 20, .action = REFERENCE_EMIT_INTERNAL, .emit_type = "i.join",
     .own_data = true},
    {"join2", "e.join", "s2", REFERENCE_JOIN, 100, .action = REFERENCE_EMIT_OUT, .emit_type = "o.join",
     .own_data = true},
    {"join_all", "e.join", "*", REFERENCE_JOIN, NEVER, .action = REFERENCE_PASS},
    {"joined", "i.join", "*", REFERENCE_THRESHOLD, 1, .action = REFERENCE_EMIT_OUT, .emit_type = "o.joined",
     .own_data = true, .unordered = true},
    /* Emitted into the source itself, and read back. */
    {"back", "e.back", "*", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_BACK, .emit_type = "b.back"},
    {"back_count", "b.back", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
    {"back_out", "b.back", "*", REFERENCE_TRUE, 0, .action = REFERENCE_EMIT_OUT, .emit_type = "o.back",
     .unordered = true},
    {"end", "e.end", "*", REFERENCE_THRESHOLD, NEVER, .action = REFERENCE_PASS},
};

/* --- events --- */

struct publication source_event_make(struct source_text *text, unsigned i, const char *type,
                                     unsigned subjects)
{
    snprintf(text->id, sizeof text->id, "%s-%u", type, i);
    snprintf(text->subject, sizeof text->subject, "s%u", i % subjects);
    snprintf(text->data, sizeof text->data, "{\"n\":%u}", i);
    return (struct publication){.id = text->id, .type = type, .subject = text->subject, .data = text->data};
}

struct publication source_ordered_event(unsigned i, struct source_text *text)
{
    return source_event_make(text, i, "e.order", 1);
}

struct publication source_keyed_event(unsigned i, struct source_text *text)
{
    struct publication p = source_event_make(text, i, "e.key", 3);
    snprintf(text->key, sizeof text->key, "key-%u", i);
    p.key = text->key;
    return p;
}

struct publication source_back_event(unsigned i, struct source_text *text)
{
    return source_event_make(text, i, "e.back", 1);
}

struct publication source_unwanted_event(unsigned i, struct source_text *text)
{
    return source_event_make(text, i, "e.unwanted", 3);
}

struct publication source_mixed_event(unsigned i, struct source_text *text)
{
    unsigned kind = i * 2654435761u >> 25; /* 0 to 127 */
    if (kind < 80)
        return source_keyed_event(i, text);
    if (kind < 120)
        return source_event_make(text, i, "e.join", 3);
    return kind < 124 ? source_ordered_event(i, text) : source_back_event(i, text);
}

struct publication source_twin_event(unsigned i, struct source_text *text)
{
    return source_mixed_event(i % 16 == 15 ? i - 1 : i, text);
}
