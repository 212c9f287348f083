/* Where a worker keeps its newest snapshot of the global context (globals.h). */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct globals;

struct globals_slot {
    pthread_mutex_t lock;
    struct globals *current;  /* Requires: lock. NULL: none was read yet */
    _Atomic uint64_t version; /* changes with it */
};
