/* Containers of functions, through the Docker Engine API on its Unix socket: one for each image and worker,
 * with a life of its own (container.h), and removed when the worker ends.
 *
 * A container has no privileges (all capabilities dropped but to listen on port 80, no_new_privs), limits on
 * memory, processor time and processes, and is in the configured network. Who may be run is not asked here
 * (permit.h). Labels tell whose it is: triggerflow.owner is the workspace, as this creation of it, and
 * triggerflow.life this life of the worker. What a life leaves that was killed is found by them and removed:
 * by its keeper at once (container_keeper.h), and by the next life when it starts.
 *
 * Nothing here waits but containers_close. Thread: executor, or one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/local/container.h"

struct containers;
struct error;
struct loop;
struct worker;

#define CONTAINERS_MAX 64 /* images of a worker */

int containers_new(struct worker *worker, struct loop *loop, struct containers **ret_containers,
                   struct error *err);
/* Gives all calls up; who waits is not called. Containers stay. NULL is fine. */
void containers_free(struct containers *containers);
/* Removes what an earlier life has left, as soon as the engine answers. */
void containers_begin(struct containers *containers);
/* Removes the containers of this life: runs the loop until they are gone, or the deadline (clock_now_ns);
 * what is left then is the keeper's. NULL is fine. */
void containers_close(struct containers *containers, uint64_t deadline_ns);

/* As container_await, of the image's container; checks the image's name. Errors: ERROR_INVALID, ERROR_LIMIT,
 * ERROR_MEMORY. */
int containers_await(struct containers *containers, const char *image, size_t len, container_ready ready,
                     void *data, struct container_wait **ret_wait, struct error *err);
