/* Containers of functions, through the Docker Engine API on its Unix socket: one for each image and worker,
 * started when it is first needed, looked at when it does not answer, replaced when it has died, and removed
 * when the worker ends.
 *
 *     absent ─▶ image there? ─ no ─▶ pull ─▶ create ─▶ start ─▶ running? ─▶ answers on port 80? ─▶ ready
 *                                               ▲                  │ no             │ not in time    │
 * suspect() └──── remove ◀─────┴────────────────┘◀── no ── looked at
 *
 * A container has no privileges (all capabilities dropped but to listen on port 80, no_new_privs), limits on
 * memory, processor time and processes, and is in the configured network. Who may be run is not asked here
 * (permit.h). Labels tell whose it is: triggerflow.owner is the workspace, as this creation of it, and
 * triggerflow.life this life of the worker. What a life leaves that was killed is found by them and removed
 * when the next one starts.
 *
 * Nothing here waits but containers_close. Thread: executor, or one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct container;
struct container_wait;
struct containers;
struct error;
struct http_calls;
struct loop;
struct worker;

#define CONTAINERS_MAX 64 /* images of a worker */
#define CONTAINER_IMAGE_MAX 255

int containers_new(struct worker *worker, struct loop *loop, struct containers **ret_containers,
                   struct error *err);
/* Gives all calls up; who waits is not called. Containers stay. NULL is fine. */
void containers_free(struct containers *containers);
/* Removes what an earlier life has left, as soon as the engine answers. */
void containers_begin(struct containers *containers);
/* Removes the containers of this life: runs the loop until they are gone, or the deadline (clock_now_ns).
 * NULL is fine. */
void containers_close(struct containers *containers, uint64_t deadline_ns);

/* Whether a text is an image's name: letters, digits and . _ - / : @. Errors: ERROR_INVALID. */
int container_check_image(const char *image, size_t len, struct error *err);

/* container NULL: there is none, err says why. ERROR_REFUSED: nor will there be (no such image, bad name). */
typedef void (*container_ready)(void *data, struct container *container, const struct error *err);

/* Has `ready` called once, from the loop, when the image's container answers or cannot be had. Errors:
 * ERROR_LIMIT, ERROR_MEMORY. */
int container_await(struct containers *containers, const char *image, size_t len, container_ready ready,
                    void *data, struct container_wait **ret_wait, struct error *err);
/* `ready` is not called. Not from within it. */
void container_wait_cancel(struct container_wait *wait);

/* --- a container that is ready; lives as long as the containers --- */

const char *
container_url(const struct container *container); /* "http://172.17.0.2:80"; until the loop goes on */
struct http_calls *container_calls(struct container *container);
/* Whether this container has been given the script with this hash under this path; and that it has, or has
 * not (hash 0). The former when it may have been replaced since. */
bool container_has_script(const struct container *container, const char *path, uint64_t hash);
void container_set_script(struct container *container, const char *path, uint64_t hash);
/* It did not answer, or not in time. */
void container_suspect(struct container *container);
