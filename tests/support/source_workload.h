/* The workload of the conformance test: its triggers and its events. Thread: any for the events, else
 * main. */
#pragma once

#include "tests/support/reference.h"
#include "tests/support/workspace.h"

/* Each kind of event has a trigger that counts it, and one that tells more. Those of events that come from
 * outside are `unordered` only if the class under test is. */
#define SOURCE_TRIGGERS 18
extern const struct reference_trigger source_triggers[SOURCE_TRIGGERS];

/* The text of an event that is being made. */
struct source_text {
    char id[48];
    char subject[16];
    char key[48];
    char data[96];
};
/* Makes event i; what does not fit into `text` is static. */
typedef struct publication (*source_events)(unsigned i, struct source_text *text);

struct publication source_event_make(struct source_text *text, unsigned i, const char *type,
                                     unsigned subjects);
struct publication source_ordered_event(unsigned i, struct source_text *text);
struct publication source_keyed_event(unsigned i, struct source_text *text); /* counted, and joined by key */
struct publication source_back_event(unsigned i, struct source_text *text);  /* comes back by EMIT */
struct publication source_unwanted_event(unsigned i, struct source_text *text); /* has no trigger */
struct publication source_mixed_event(unsigned i, struct source_text *text);    /* any but the last */

struct publication source_twin_event(unsigned i, struct source_text *text); /* the same, some twice */
