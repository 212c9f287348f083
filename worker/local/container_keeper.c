#include "worker/local/container_keeper.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/local/container_sweep.h"
#include "worker/local/engine.h"
#include "worker/local/helper.h"

#define KEEPER_LONGEST (60 * CLOCK_S)
#define LOOK_AGAIN CLOCK_S
#define LOOKS 2 /* in a row that find nothing: the engine may have been making one when the worker died */

struct container_keeper {
    const struct config *config;
    const char *life;
    int socket;
    pid_t pid;
    bool there_may_be;
};

/* --- in the keeper --- */

struct removal {
    struct loop *loop;
    struct engine engine;
    struct container_sweep sweep;
    unsigned empty; /* looks in a row */
};

static void look(void *data)
{
    struct removal *r = data;
    container_sweep_begin(&r->sweep);
}

static void on_swept(void *data, unsigned found, bool all_gone)
{
    struct removal *r = data;
    r->empty = all_gone && !found ? r->empty + 1 : 0;
    if (r->empty < LOOKS)
        loop_timer_set(r->loop, clock_now_ns() + LOOK_AGAIN, look, r, NULL);
}

static int remove_all(const struct container_keeper *k, struct error *err)
{
    char label[96];
    struct removal r = {.engine.socket = k->config->docker_socket};
    snprintf(label, sizeof label, "triggerflow.life=%s", k->life);
    if (!(r.loop = loop_new(err)) || http_calls_new(r.loop, false, "", &r.engine.calls, err) < 0)
        return -1;
    r.sweep = (struct container_sweep){.engine = &r.engine, .label = label, .swept = on_swept, .data = &r};
    look(&r);
    for (uint64_t now, end = clock_now_ns() + KEEPER_LONGEST; r.empty < LOOKS;) {
        if ((now = clock_now_ns()) >= end)
            return error_set(
                err, ERROR_UNAVAILABLE,
                "containers with the label %s may be left: the engine did not remove them in time", label);
        if (loop_run_once(r.loop, end - now, err) < 0)
            return -1;
    }
    return 0;
}

static void keep(const void *data)
{
    const struct container_keeper *k = data;
    struct error err;
    char there_may_be = 0;
    for (ssize_t n = 1; n > 0 || (n < 0 && errno == EINTR);)
        n = read(HELPER_SOCKET, &there_may_be, 1);
    if (there_may_be && remove_all(k, &err) < 0)
        log_error("container_keeper", LOG_STR("error", err.message));
}

/* --- in the worker --- */

int container_keeper_new(const struct config *config, const char *life, struct container_keeper **ret_keeper,
                         struct error *err)
{
    *ret_keeper = NULL;
    if (!*config->docker_images)
        return 0;
    struct container_keeper *k = calloc(1, sizeof *k);
    if (!k)
        return error_set(err, ERROR_MEMORY, "out of memory");
    k->config = config;
    k->life = life;
    if (helper_start("triggerflow-kee", keep, k, &k->socket, &k->pid, err) < 0) {
        free(k);
        return -1;
    }
    *ret_keeper = k;
    return 0;
}

void container_keeper_free(struct container_keeper *keeper)
{
    if (!keeper)
        return;
    close(keeper->socket);
    if (!keeper->there_may_be)
        while (waitpid(keeper->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    free(keeper);
}

void container_keeper_tell(struct container_keeper *keeper, bool there_may_be)
{
    char byte = there_may_be;
    if (!keeper || keeper->there_may_be == there_may_be)
        return;
    keeper->there_may_be = there_may_be;
    if (send(keeper->socket, &byte, 1, MSG_NOSIGNAL) != 1)
        log_warn("container_keeper", LOG_STR("error", "it has died"));
}
