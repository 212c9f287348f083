#include "worker/local/containers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/loop.h"
#include "worker/executor/http_call.h"
#include "worker/local/container_keeper.h"
#include "worker/local/container_sweep.h"
#include "worker/worker.h"

#define SWEEP_AGAIN (5 * CLOCK_S)

struct containers {
    struct containers_common common;
    struct container *list[CONTAINERS_MAX];
    unsigned n;
    char owner_label[48];
    char life_label[32 + STORAGE_WRITER_MAX];
    struct container_sweep earlier; /* of the owner's other lives */
    struct container_sweep own;
    bool all_gone; /* when the latter has ended: nothing of this life is left, and nothing will be */
};

/* --- who uses them --- */

static struct container *find(struct containers *all, const char *image, size_t len)
{
    for (unsigned i = 0; i < all->n; i++) {
        const char *name = container_image(all->list[i]);
        if (strlen(name) == len && !memcmp(name, image, len))
            return all->list[i];
    }
    return NULL;
}

static struct container *add(struct containers *all, const char *image, size_t len, struct error *err)
{
    if (all->n == CONTAINERS_MAX) {
        error_set(err, ERROR_LIMIT, "containers of more than %d images", CONTAINERS_MAX);
        return NULL;
    }
    struct container *c = container_new(&all->common, image, len);
    if (!c) {
        error_set(err, ERROR_MEMORY, "out of memory");
        return NULL;
    }
    all->list[all->n++] = c;
    return c;
}

int containers_await(struct containers *containers, const char *image, size_t len, container_ready ready,
                     void *data, struct container_wait **ret_wait, struct error *err)
{
    if (image_check(image, len, err) < 0)
        return -1;
    struct container *c = find(containers, image, len);
    if (!c && !(c = add(containers, image, len, err)))
        return -1;
    return container_await(c, ready, data, ret_wait, err);
}

/* --- what is left of earlier lives, and of this one --- */

static void sweep_again(void *data)
{
    struct containers *all = data;
    container_sweep_begin(&all->earlier);
}

static void on_earlier_swept(void *data, unsigned found, bool all_gone)
{
    struct containers *all = data;
    (void)found;
    if (!all_gone)
        loop_timer_set(all->common.loop, clock_now_ns() + SWEEP_AGAIN, sweep_again, all, NULL);
}

void containers_begin(struct containers *containers)
{
    if (*containers->common.config->docker_images)
        container_sweep_begin(&containers->earlier);
}

static void on_own_swept(void *data, unsigned found, bool all_gone)
{
    struct containers *all = data;
    (void)found;
    all->all_gone &= all_gone;
}

void containers_close(struct containers *containers, uint64_t deadline_ns)
{
    struct error err;
    if (!containers || !containers->common.there_may_be)
        return;
    containers->all_gone = true;
    for (unsigned i = 0; i < containers->n; i++)
        containers->all_gone &= !container_halt(containers->list[i]);
    container_sweep_begin(&containers->own);
    for (uint64_t now; container_sweep_under_way(&containers->own) && (now = clock_now_ns()) < deadline_ns;)
        if (loop_run_once(containers->common.loop, deadline_ns - now, &err) < 0)
            return;
    if (containers->all_gone && !container_sweep_under_way(&containers->own))
        container_keeper_tell(containers->common.keeper, false);
}

/* --- life --- */

int containers_new(struct worker *worker, struct loop *loop, struct containers **ret_containers,
                   struct error *err)
{
    struct containers *all = calloc(1, sizeof *all);
    if (!all)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (http_calls_new(loop, false, "", &all->common.engine.calls, err) < 0) {
        free(all);
        return -1;
    }
    all->common.config = worker->config;
    all->common.workspace = worker->workspace;
    all->common.life = worker->writer;
    all->common.keeper = worker->keeper;
    all->common.loop = loop;
    all->common.engine.socket = worker->config->docker_socket;
    all->common.engine.report = worker->report;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, worker->workspace, strlen(worker->workspace) + 1);
    XXH3_64bits_update(&state, worker->creation, strlen(worker->creation));
    snprintf(all->common.owner, sizeof all->common.owner, "%016llx",
             (unsigned long long)XXH3_64bits_digest(&state));
    snprintf(all->owner_label, sizeof all->owner_label, "triggerflow.owner=%s", all->common.owner);
    snprintf(all->life_label, sizeof all->life_label, "triggerflow.life=%s", all->common.life);
    all->earlier = (struct container_sweep){.engine = &all->common.engine,
                                            .label = all->owner_label,
                                            .spared = all->common.life,
                                            .swept = on_earlier_swept,
                                            .data = all};
    all->own = (struct container_sweep){
        .engine = &all->common.engine, .label = all->life_label, .swept = on_own_swept, .data = all};
    *ret_containers = all;
    return 0;
}

void containers_free(struct containers *containers)
{
    if (!containers)
        return;
    loop_timer_cancel(containers->common.loop, sweep_again, containers);
    for (unsigned i = 0; i < containers->n; i++)
        container_free(containers->list[i]);
    http_calls_free(containers->common.engine.calls);
    free(containers);
}
