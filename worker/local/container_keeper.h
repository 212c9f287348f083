/* The container keeper: a helper process (helper.h) that removes a worker's containers when the worker has
 * died, also when none follows it because its workspace is deleted.
 *
 *     worker ── there may be containers, there are none ──▶ keeper ── when the worker is gone ──▶ engine
 *
 * dies       | what becomes of the containers
 * -----------|------------------------------------------------------------------------------------------
 * the worker | the keeper asks the engine for those with the label of this life (triggerflow.life) and
 *            | removes them, until it finds none any more; for KEEPER_LONGEST when the engine is away
 * the keeper | nothing: the worker removes them at its end
 * both       | the next life of the workspace removes them when it starts (containers.h); without one they
 *            | stay, with their labels
 *
 * A next life may be at it at the same time; what it has made itself has another label. */
#pragma once

#include <stdbool.h>

struct config;
struct container_keeper;
struct error;

/* Forks the keeper, if the configuration allows containers. life: borrowed. Thread: main, while it is the
 * only one. */
int container_keeper_new(const struct config *config, const char *life, struct container_keeper **ret_keeper,
                         struct error *err);
/* The keeper may have work before it ends; it is not waited for. NULL is fine. */
void container_keeper_free(struct container_keeper *keeper);
/* Whether there may be containers of this life; at first there are none. Before the engine is asked to make
 * one. NULL is fine. Thread: executor. */
void container_keeper_tell(struct container_keeper *keeper, bool there_may_be);
