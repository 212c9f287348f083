/* One container of a function, as its users see it: awaited, given scripts, called, suspected.
 *
 *     absent ─▶ image (image.h) ─▶ create ─▶ start ─▶ running? ─▶ answers on port 80? ─▶ ready
 *                                     ▲                  │ no             │ not in time    │
 * suspect() ───── remove ◀────────────┴──────────────────┘◀── no ── looked at ◀────────────┘
 *
 * It is started when it is needed, and looked at when it does not answer or the engine says that it has
 * ended; one that is not well is removed.
 * Thread: executor, or one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/local/engine.h"
#include "worker/local/image.h"

struct config;
struct container;
struct container_keeper;
struct container_wait;
struct error;
struct http_calls;
struct loop;

/* What the containers of a worker have in common; borrows its texts. */
struct containers_common {
    const struct config *config;
    const char *workspace;
    const char *life;
    char owner[17];
    struct loop *loop;
    struct engine engine;
    struct container_keeper *keeper;
    bool there_may_be; /* containers of this life */
};

/* image: checked. NULL: out of memory. */
struct container *container_new(struct containers_common *common, const char *image, size_t len);
/* Gives its calls up; who waits is not called. The container stays. NULL is fine. */
void container_free(struct container *container);
const char *container_image(const struct container *container);
/* Gives its calls up. Whether one of them may still make the engine start it. */
bool container_halt(struct container *container);

/* container NULL: there is none, err says why. ERROR_REFUSED: nor will there be (no such image, bad name). */
typedef void (*container_ready)(void *data, struct container *container, const struct error *err);

/* Has `ready` called once, from the loop, when it answers or cannot be had. Errors: ERROR_MEMORY. */
int container_await(struct container *container, container_ready ready, void *data,
                    struct container_wait **ret_wait, struct error *err);
/* `ready` is not called. Not from within it. */
void container_wait_cancel(struct container_wait *wait);

/* --- once it is ready; lives as long as the containers --- */

const char *
container_url(const struct container *container); /* "http://172.17.0.2:80"; until the loop goes on */
struct http_calls *container_calls(struct container *container);
/* Whether this container has been given the script with this hash under this path; and that it has, or has
 * not (hash 0). The former when it may have been replaced since. */
bool container_has_script(const struct container *container, const char *path, uint64_t hash);
void container_set_script(struct container *container, const char *path, uint64_t hash);
/* It did not answer, or not in time. */
void container_suspect(struct container *container);
