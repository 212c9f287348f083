#include "tests/support/source_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/source_bed.h"

#define MIB (1u << 20)

static size_t limit = MIB; /* of data, in the world of the case that runs */

void source_data_limit(const struct source_world *world)
{
    size_t most = world->driver->data_max;
    limit = most && most < MIB ? most : MIB;
}

/* With data that is awkward; the last is as large as it may be. */
static struct publication data_of(struct source_text *text, unsigned i, const char *type, size_t most)
{
    static char large[MIB + 1];
    static const char *const data[SOURCE_DATA] = {
        "7",
        "{\"text\":\"\xc5\xbelu\xc5\xa5ou\xc4\x8dk\xc3\xbd k\xc5\xaf\xc5\x88 \xe6\xbc\xa2\xe5\xad\x97\"}",
        "{\"text\":\"\xf0\x9f\x98\x80\",\"\xf0\x9f\x94\x91\":\"\\ud83d\\ude00\"}",
        "{\"text\":\"a\\u0000b\",\"quoted\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}",
        "[null,true,-0.5e-7,12345678901234567890,[],{}]",
        "{}",
        large,
    };
    struct publication p = source_event_make(text, i, type, 1);
    memset(large, 'x', sizeof large - 1);
    memcpy(large, "[\"", 2);
    memcpy(large + most - 2, "\"]", 3);
    p.data = data[i];
    return p;
}

static struct publication data_event(unsigned i, struct source_text *text)
{
    return data_of(text, i, "e.data", limit);
}

struct publication source_back_data_event(unsigned i, struct source_text *text)
{
    return data_of(text, i, "e.back", limit / 2);
}

static struct publication large_event(unsigned i, struct source_text *text)
{
    return data_of(text, i + SOURCE_DATA - 1, "e.data", 100000);
}

static struct publication invalid_event(unsigned i, struct source_text *text)
{
    struct publication p = source_event_make(text, i, "e.data", 1);
    static const char *const data[] = {"{\"text\":\"\xff\xfe\"}", "{\"text\":\"\xc0\x80\"}",
                                       "{\"text\":\"\xed\xa0\x80\"}"};
    p.data = data[i];
    return p;
}

#define N_INVALID 3

const char *source_data_awkward(struct source_world *world)
{
    source_data_limit(world);
    struct source_bed *bed = source_bed_new(world, "redis", false);
    if (world->driver->under_supervisor)
        source_bed_up(bed);
    source_bed_publish_range(bed, data_event, 0, SOURCE_DATA, true);
    if (!world->driver->under_supervisor)
        source_bed_up(bed);
    source_bed_settle(bed);
    if (world->driver->refuses) {
        printf("skipped: invalid UTF-8: who publishes something invalid is told\n");
    } else {
        source_bed_publish_range(bed, invalid_event, 0, N_INVALID, false);
        for (unsigned i = 0; i < N_INVALID; i++)
            reference_refuse(bed->reference, "invalid_event");
    }
    source_bed_publish(bed, source_ordered_event, 10);
    source_bed_finish(bed);
    source_bed_free(bed);
    return NULL;
}

const char *source_data_too_large(struct source_world *world)
{
    static const char *const settings[] = {"TRIGGERFLOW_MAX_EVENT_BYTES=64KiB", NULL};
    if (world->driver->refuses)
        return "who publishes something too large is told";
    struct source_bed *bed = source_bed_new(world, "redis", false);
    source_bed_publish(bed, source_keyed_event, 50);
    source_bed_publish_range(bed, large_event, 0, 1, false);
    reference_refuse(bed->reference, "too_large");
    source_bed_publish(bed, source_keyed_event, 50);
    source_bed_start(bed, settings);
    source_bed_finish(bed);
    source_bed_free(bed);
    return NULL;
}

const char *source_data_undecodable(struct source_world *world)
{
    if (!world->driver->publish_undecodable)
        return "who publishes something invalid is told";
    struct source_bed *bed = source_bed_new(world, "redis", false);
    source_bed_up(bed);
    for (unsigned i = 0; i < 3; i++) {
        source_bed_publish(bed, source_keyed_event, 50);
        assert_int_equal(world->driver->publish_undecodable(&bed->queue), 0);
        reference_refuse(bed->reference, "invalid_event");
    }
    source_bed_publish(bed, source_keyed_event, 50);
    source_bed_finish(bed);
    source_bed_free(bed);
    return NULL;
}
