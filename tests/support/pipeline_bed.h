/* A worker for tests of its parts: arena, loop, report, emissions, executor and internal source are real,
 * nothing is started but what the test starts. Fails by assertion. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "worker/checkpoint/changes.h"
#include "worker/worker.h"

struct shard;
struct source;
struct trigger;

#define BED_TRIGGERS 64

struct pipeline_bed {
    struct worker worker;
    struct config config;
    struct trigger *triggers[BED_TRIGGERS];
    size_t n_triggers;
};

/* Workspace "bed" with the creation value "1.5"; the internal source is worker.sources[0]. */
struct pipeline_bed *pipeline_bed_new(unsigned n_shards);
/* Stops and frees everything. */
void pipeline_bed_free(struct pipeline_bed *bed);

/* Parses a stored trigger, of which `document` lacks id, uuid and the braces; uuid is "u-<id>". */
struct trigger *pipeline_bed_trigger(struct pipeline_bed *bed, const char *id, const char *document);
/* Publishes a router over all triggers. */
void pipeline_bed_route(struct pipeline_bed *bed);
/* A source that a test plays itself: a RedisEventSource that is never started. */
struct source *pipeline_bed_source(struct pipeline_bed *bed, unsigned index);
/* Makes and starts the shards. */
void pipeline_bed_start_shards(struct pipeline_bed *bed, uint64_t first_epoch);

/* The change of this kind of the field, or NULL; more than one is a failure. */
const struct change *pipeline_bed_change(const struct changes *changes, enum storage_set set,
                                         enum storage_op_kind kind, const char *key);
/* Whether the change has exactly this value. */
void pipeline_bed_assert_value(const struct changes *changes, const struct change *change, const char *value);
/* How many changes concern the set. */
size_t pipeline_bed_count(const struct changes *changes, enum storage_set set);
