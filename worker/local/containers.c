#include "worker/local/containers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/json.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/executor/http_call.h"
#include "worker/worker.h"

#define SWEEP_AGAIN (5 * CLOCK_S)

struct containers {
    struct containers_common common;
    struct container *list[CONTAINERS_MAX];
    unsigned n;
    struct http_call *sweep;
    unsigned removing; /* calls of sweep and close under way */
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

static void on_swept(void *data, const struct http_answer *answer)
{
    struct containers *all = data;
    (void)answer;
    all->removing--;
}

static void remove_by_name(struct containers *all, const char *name)
{
    char path[160];
    struct error err;
    snprintf(path, sizeof path, "/containers/%s?force=1&v=1", name);
    if (engine_ask(&all->common.engine, "DELETE", path, NULL, ENGINE_TIMEOUT, on_swept, all, NULL, &err) == 0)
        all->removing++;
}

static void sweep(void *data);

static void on_listed(void *data, const struct http_answer *answer)
{
    struct containers *all = data;
    struct json_value root, name, container, labels;
    struct json_iter iter;
    char id[80];
    char life[STORAGE_WRITER_MAX];
    all->sweep = NULL;
    engine_note(&all->common.engine, answer);
    if (answer->status != 200 || json_scan(answer->body, answer->len, &root, NULL) < 0 ||
        root.type != JSON_ARRAY) {
        loop_timer_set(all->common.loop, clock_now_ns() + SWEEP_AGAIN, sweep, all, NULL);
        return;
    }
    json_iter_init(&iter, &root);
    while (json_next(&iter, &name, &container)) {
        if (container.type != JSON_OBJECT || !engine_text(&container, "Id", id, sizeof id) ||
            !json_member(&container, "Labels", &labels) || labels.type != JSON_OBJECT)
            continue;
        if (engine_text(&labels, "triggerflow.life", life, sizeof life) && !strcmp(life, all->common.life))
            continue;
        log_info("container_left", LOG_STR("container", id));
        remove_by_name(all, id);
    }
}

static void sweep(void *data)
{
    struct containers *all = data;
    char path[160];
    struct error err;
    /* {"label":["triggerflow.owner=..."]} */
    snprintf(
        path, sizeof path,
        "/containers/json?all=1&filters=%%7B%%22label%%22%%3A%%5B%%22triggerflow.owner%%3D%s%%22%%5D%%7D",
        all->common.owner);
    if (engine_ask(&all->common.engine, "GET", path, NULL, ENGINE_TIMEOUT, on_listed, all, &all->sweep,
                   &err) < 0)
        log_warn("container_sweep", LOG_STR("error", err.message));
}

void containers_begin(struct containers *containers)
{
    if (*containers->common.config->docker_images)
        sweep(containers);
}

void containers_close(struct containers *containers, uint64_t deadline_ns)
{
    struct error err;
    if (!containers)
        return;
    for (unsigned i = 0; i < containers->n; i++) {
        const char *name = container_halt(containers->list[i]);
        if (name)
            remove_by_name(containers, name);
    }
    for (uint64_t now; containers->removing && (now = clock_now_ns()) < deadline_ns;)
        if (loop_run_once(containers->common.loop, deadline_ns - now, &err) < 0)
            return;
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
    all->common.loop = loop;
    all->common.engine.socket = worker->config->docker_socket;
    all->common.engine.report = worker->report;
    XXH3_state_t state;
    XXH3_64bits_reset(&state);
    XXH3_64bits_update(&state, worker->workspace, strlen(worker->workspace) + 1);
    XXH3_64bits_update(&state, worker->creation, strlen(worker->creation));
    snprintf(all->common.owner, sizeof all->common.owner, "%016llx",
             (unsigned long long)XXH3_64bits_digest(&state));
    *ret_containers = all;
    return 0;
}

void containers_free(struct containers *containers)
{
    if (!containers)
        return;
    loop_timer_cancel(containers->common.loop, sweep, containers);
    for (unsigned i = 0; i < containers->n; i++)
        container_free(containers->list[i]);
    http_calls_free(containers->common.engine.calls);
    free(containers);
}
