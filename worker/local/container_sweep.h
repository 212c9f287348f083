/* Removing containers by their label, whoever has made them. Nothing here waits. Thread: whoever has the
 * engine. */
#pragma once

#include <stdbool.h>

struct engine;
struct http_call;

/* Once, from the loop. found: how many there were; all_gone: and the engine has removed each, or does. */
typedef void (*container_swept)(void *data, unsigned found, bool all_gone);

struct container_sweep {
    struct engine *engine; /* whose calls end before this does */
    const char *label;     /* "triggerflow.owner=..."; letters, digits, points and one = */
    const char *spared;    /* triggerflow.life of those that stay; NULL: none does. Borrowed */
    container_swept swept;
    void *data;
    /* its own */
    struct http_call *list;
    unsigned removing;
    unsigned found;
    bool failed;
};

/* Begins; not while it is under way. */
void container_sweep_begin(struct container_sweep *sweep);
/* Whether it is. */
bool container_sweep_under_way(const struct container_sweep *sweep);
