/* Cases of the conformance test about what events hold, and what are none. They return why they cannot be, or
 * NULL; what goes wrong fails the test (cmocka). Thread: main. */
#pragma once

#include <stddef.h>

#include "tests/support/source_workload.h"

struct source_world;

/* 1 byte, non-ASCII, NUL escapes, 1 MiB; and what is not UTF-8. */
const char *source_data_awkward(struct source_world *world);
const char *source_data_undecodable(struct source_world *world);
const char *source_data_too_large(struct source_world *world);

/* Events 0 to SOURCE_DATA - 1 with awkward data that come back by EMIT, within the limits of this world. */
#define SOURCE_DATA 7
void source_data_limit(const struct source_world *world);
struct publication source_back_data_event(unsigned i, struct source_text *text);
