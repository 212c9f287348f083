#include "tests/support/events_bed.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"
#include "supervisor/api_event.h"
#include "supervisor/api_trigger.h"
#include "supervisor/command.h"
#include "supervisor/http.h"
#include "supervisor/ingest.h"
#include "supervisor/lookup.h"
#include "supervisor/workflow.h"

static void *run_loop(void *data)
{
    struct events_bed *bed = data;
    struct error err;
    while (!atomic_load(&bed->stop))
        assert_int_equal(loop_run_once(bed->loop, CLOCK_S, &err), 0);
    return NULL;
}

struct events_bed *events_bed_new(void)
{
    static const struct http_route routes[] = {{.method = "POST",
                                                .path = "/workspace/*/event",
                                                .handler = api_event_post,
                                                .direct = true,
                                                .open = true,
                                                .body_max = API_EVENT_BODY_MAX}};
    struct error err;
    int fd;
    struct events_bed *bed = calloc(1, sizeof *bed);
    assert_non_null(bed);
    bed->workflows = calloc(1, sizeof *bed->workflows);
    bed->api = calloc(1, sizeof *bed->api);
    assert_true(bed->workflows && bed->api);
    signal(SIGPIPE, SIG_IGN);
    assert_int_equal(config_parse_yaml("bed", "", 0, &bed->config, &err), 0);
    bed->loop = loop_new(&err);
    assert_non_null(bed->loop);
    assert_int_equal(command_queue_new(bed->loop, &bed->queue, &err), 0);
    workflow_table_init(bed->workflows, bed->loop, &bed->config);
    bed->workflows->closing = true; /* nothing is looked up or started */
    assert_int_equal(api_event_new(&bed->config, bed->queue, NULL, bed->workflows, &bed->api->event, &err),
                     0);
    bed->ingest = api_event_ingest(bed->api->event);
    assert_int_equal(http_listen_tcp("127.0.0.1", 0, &fd, &bed->port, &err), 0);
    struct http_options options = {.routes = routes, .n_routes = 1, .queue = bed->queue, .context = bed->api};
    assert_int_equal(http_server_start(fd, &options, &bed->server, &err), 0);
    assert_int_equal(arena_create(&bed->arena_fd, &err), 0);
    assert_int_equal(arena_map(bed->arena_fd, &bed->arena, &err), 0);
    assert_int_equal(pthread_create(&bed->thread, NULL, run_loop, bed), 0);
    return bed;
}

void events_bed_free(struct events_bed *bed)
{
    atomic_store(&bed->stop, true);
    loop_wake(bed->loop);
    pthread_join(bed->thread, NULL);
    http_server_close(bed->server);
    command_run_all(bed->queue);
    api_event_abort(bed->api->event);
    http_server_stop(bed->server);
    workflow_table_done(bed->workflows);
    api_event_free(bed->api->event);
    command_queue_free(bed->queue);
    loop_free(bed->loop);
    arena_unmap(bed->arena);
    close(bed->arena_fd);
    config_done(&bed->config);
    free(bed->workflows);
    free(bed->api);
    free(bed);
}

/* As if its worker was starting: it is left alone. */
static void make_active(struct events_bed *bed, const char *workspace)
{
    struct workflow *w;
    struct error err;
    assert_int_equal(workflow_get(bed->workflows, workspace, &w, &err), 0);
    if (workflow_active(w))
        return;
    TAILQ_REMOVE(&bed->workflows->inactive, w, inactive_link);
    bed->workflows->n_inactive--;
    bed->workflows->n_active++;
    w->state = WORKFLOW_STARTING;
}

void events_bed_expect(struct events_bed *bed, const char *workspace)
{
    make_active(bed, workspace);
    bed->workflows->closing = false;
}

void events_bed_open(struct events_bed *bed, const char *workspace)
{
    struct error err;
    ingest_close(bed->ingest, workspace);
    arena_reset(bed->arena, 1);
    assert_int_equal(ingest_open(bed->ingest, workspace, bed->arena, &bed->ingest_fd, &bed->durable_fd, &err),
                     0);
    ring_attach_consumer(&bed->ring, arena_ingest_ring(bed->arena), ARENA_INGEST_BYTES);
}

static void tell(struct events_bed *bed)
{
    uint64_t one = 1;
    assert_int_equal(write(bed->durable_fd, &one, sizeof one), sizeof one);
}

void events_bed_set_state(struct events_bed *bed, enum arena_ingest_state state)
{
    atomic_store_explicit(&bed->arena->worker.ingest, state, memory_order_release);
    tell(bed);
}

void events_bed_close(struct events_bed *bed, const char *workspace)
{
    ingest_close(bed->ingest, workspace);
}

struct arena_ingest_record *events_bed_peek(struct events_bed *bed)
{
    uint32_t size, kind;
    return ring_peek(&bed->ring, &size, &kind);
}

void events_bed_answer(struct events_bed *bed, struct arena_ingest_record *record, uint32_t answer,
                       uint32_t duplicates)
{
    record->duplicates = duplicates;
    atomic_store_explicit(&record->answer, answer, memory_order_relaxed);
    ring_next(&bed->ring);
    ring_release(&bed->ring);
    tell(bed);
}
