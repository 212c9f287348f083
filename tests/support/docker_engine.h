/* A Docker engine of the test's own, in a temporary folder and a network namespace of the test's own: its
 * bridge is no other's. The command `docker` of this process and its children speaks to it. Thread: main. */
#pragma once

#include <stdbool.h>

#include "tests/support/process.h"

struct docker_engine {
    struct process process;
    char folder[64]; /* room for files of the test, too */
    char socket[96];
};

/* Leaves the network and starts the engine. NULL, or why there is none; then what there is of it is gone. */
const char *docker_engine_prepare(struct docker_engine *engine);
/* Ends it for good, once no other child of this process is left, and removes its folder: 0. */
int docker_engine_remove(struct docker_engine *engine);

void docker_engine_stop(struct docker_engine *engine);
/* After a stop: until it answers. */
void docker_engine_start(struct docker_engine *engine);

/* Removes all containers. */
void docker_engine_clear(void);
/* How many containers of the workspace "ws" there are; filter: options of `docker ps`. */
int docker_engine_containers(const char *filter);
/* The output of a shell command, without the last line feed (static). */
const char *docker_engine_output(const char *command);
