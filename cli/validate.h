/* What is wrong, or looks wrong, with a workflow before it is applied: structure, names, triggers that
 * nothing can reach, joins that cannot complete. Offline: the file alone is looked at. Thread: any. */
#pragma once

#include <stddef.h>

#include "common/buffer.h"

struct json_object;
struct manifest;

enum finding_level { FINDING_ERROR, FINDING_WARNING, FINDING_NOTE };

struct finding {
    enum finding_level level;
    size_t where; /* offset in text: "trigger join0", NUL-terminated */
    size_t what;  /* likewise */
};

#define FINDINGS_MAX 1000u /* of one level; beyond that they are only counted */

struct findings {
    struct finding *list;
    size_t n;
    size_t cap;
    size_t counts[FINDING_NOTE + 1];
    struct buffer text;
};

#define FINDINGS_INIT        \
    {                        \
        .text = BUFFER_INIT, \
    }

/* Adds what is found. 0, or -1 when memory ran out. */
int validate(const struct manifest *manifest, struct findings *findings);
void findings_done(struct findings *findings);
const char *finding_level_name(enum finding_level level);

/* --- for the parts of validation --- */

void findings_add(struct findings *findings, enum finding_level level, const char *where, const char *format,
                  ...) __attribute__((format(printf, 4, 5)));

/* What events make triggers do (flow.c). */
int flow_validate(const struct manifest *manifest, struct findings *findings);
/* A number of a trigger's context, fallback without. */
long long flow_number(struct json_object *trigger, const char *member, long long fallback);
