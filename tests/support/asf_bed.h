/* A trigger of a state machine that fires into a log, a line for each effect: "emit SUBJECT[INDEX] DATA"
 * (fail, uncaught: of those types; later: by a timer), "write ID DATA", "intend ACTION BODY", "refused WHY",
 * "failed WHY". Thread: main. */
#pragma once

#include <stdint.h>

#include "common/buffer.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "worker/shard/firing.h"
#include "worker/shard/trigger.h"

struct asf_bed {
    struct firing firing; /* first: see logged() */
    struct trigger *trigger;
    struct buffer log;
    struct error error;
    struct cloudevent event;
    const char *source; /* of events; NULL: none */
    unsigned takes;     /* what firing_type.takes says */
    uint64_t timer_at;  /* of the last timer */
};

void asf_bed_begin(struct asf_bed *bed, const char *condition, const char *action, const char *context);
void asf_bed_end(struct asf_bed *bed);
/* An event through condition and action; what happened since is in the log. type, key, item: NULL: none. */
void asf_bed_send(struct asf_bed *bed, const char *subject, const char *data, const char *key,
                  const char *item);
void asf_bed_event(struct asf_bed *bed, const char *type, const char *subject, const char *data,
                   const char *key, const char *item);
/* A write of another trigger's firing. */
void asf_bed_tell(struct asf_bed *bed, const char *write);
/* Stores the trigger and loads it again. */
void asf_bed_reload(struct asf_bed *bed);
void asf_bed_context(const struct asf_bed *bed, const char *expected);
#define asf_bed_log(bed, expected) assert_string_equal(buffer_text(&(bed)->log), expected)
/* The place of an iteration of a Map whose results "S" collects; valid for a while. */
const char *asf_bed_place(const char *run, uint32_t index);
