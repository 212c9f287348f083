#include "tests/support/source_crash.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/support/chance.h"
#include "tests/support/source_bed.h"

#define LIFE_MOST (80 * CLOCK_MS)
#define EVENTS_LEAST 2000

/* A random while that often is short. */
void source_live(void)
{
    uint64_t until = clock_now_ns() + chance_below(chance_below(2) ? LIFE_MOST : LIFE_MOST / 4);
    while (clock_now_ns() < until)
        wait_moment();
}

/* --- at random --- */

static const char *const *random_settings(void)
{
    static const char *settings[4];
    static const char *const intervals[] = {"TRIGGERFLOW_CHECKPOINT_INTERVAL=0s",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=10ms",
                                            "TRIGGERFLOW_CHECKPOINT_INTERVAL=40ms"};
    static const char *const sinks[] = {"TRIGGERFLOW_SINK_MAX_SIZE=200000", "TRIGGERFLOW_SINK_MAX_SIZE=500"};
    static const char *const actions[] = {"TRIGGERFLOW_MAX_PENDING_ACTIONS=10000",
                                          "TRIGGERFLOW_MAX_PENDING_ACTIONS=50"};
    settings[0] = intervals[chance_below(3)];
    settings[1] = sinks[chance_below(2)];
    settings[2] = actions[chance_below(2)];
    return settings;
}

/* Breaks something at random; what it began is over before the next one. */
static void disturb(struct source_bed *bed)
{
    struct source_world *world = bed->world;
    switch (world->broker ? chance_below(7) : 0) {
    default:
        source_bed_kill(bed, random_settings());
        break;
    case 3:
        tcp_proxy_cut(world->broker);
        break;
    case 4:
        tcp_proxy_truncate(world->broker, chance_below(50000));
        break;
    case 5:
        tcp_proxy_set(world->broker, chance_below(2) ? TCP_PROXY_REFUSE : TCP_PROXY_HOLD);
        source_live();
        tcp_proxy_cut(world->broker);
        tcp_proxy_reset(world->broker);
        break;
    case 6:
        tcp_proxy_cut(world->storage);
        break;
    }
}

void source_crash_random(struct source_world *world, const char *backend, unsigned share)
{
    unsigned kills = (chance_kills() + 3) / 4 * share / 100 + 1;
    unsigned events = (unsigned)((uint64_t)world->driver->events * chance_kills() / 200) * share / 100;
    if (events < EVENTS_LEAST)
        events = EVENTS_LEAST;
    struct source_bed *bed = source_bed_new(world, backend, false);
    source_bed_start(bed, random_settings());
    source_bed_publisher(bed, world->driver->unsure_twins ? source_mixed_event : source_twin_event, events);
    for (unsigned i = 0; i < kills; i++) {
        source_bed_allow(bed, i + 1, kills);
        source_live();
        disturb(bed);
    }
    source_bed_publisher_join(bed);
    if (world->broker)
        tcp_proxy_reset(world->broker);
    printf("%s: %u events, %u disturbances, %u kills\n", world->driver->name, events, kills, bed->killed);
    source_bed_finish(bed);
    source_bed_free(bed);
}

/* --- named points --- */

static const char *const points[] = {
    "recovered",   "barrier",      "cut",          "commit_before", "commit_after",
    "handed_over", "acknowledged", "intent_start", "published",     "intent_done",
    NULL};

static void die_at(struct source_bed *bed, const char *point, unsigned count)
{
    int status = -1;
    source_bed_crash_at(bed, point, count);
    source_bed_start(bed, NULL);
    source_bed_publish(bed, source_mixed_event, 100);
    AWAIT_SOURCE(bed, process_ended(&bed->process, &status) ||
                          (source_bed_running(bed) && source_bed_settled(bed)));
    if (status < 0) /* not reached so often */
        process_kill(&bed->process, SIGKILL);
    else if (status != 128 + SIGKILL)
        source_bed_show(bed);
    assert_true(status < 0 || status == 128 + SIGKILL);
}

/* Each the first and the third time that it is reached. */
static void die_at_all(struct source_bed *bed, const char *const *names)
{
    for (; *names; names++)
        for (unsigned count = 1; count < 4; count += 2)
            die_at(bed, *names, count);
}

const char *source_crash_points(struct source_world *world)
{
    struct source_bed *bed = source_bed_new(world, "redis", false);
    const char *why = bed->supervised            ? "integration/test_crash_http has them"
                      : !source_bed_crashes(bed) ? "no build/crash (make SAN=crash)"
                                                 : NULL;
    if (!why) {
        die_at_all(bed, points);
        if (world->driver->crash_points)
            die_at_all(bed, world->driver->crash_points);
        (void)unlink(bed->crash_file);
        source_bed_up(bed);
        source_bed_finish(bed);
    }
    source_bed_free(bed);
    return why;
}
