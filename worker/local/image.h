/* The image of a container: looked for, and pulled when the engine does not have it.
 *
 *     there? ── no, and it may be ──▶ pull ──▶ there? ──▶ done
 *
 * One request of the engine's after the other; nothing here waits. A pull whose request is given up, which is
 * also what the death of the worker does, is given up by the engine, unless another one wants the same.
 * Thread: executor, or one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct engine;
struct error;
struct http_call;

#define IMAGE_MAX 255

/* Whether a text is an image's name: letters, digits and . _ - / : @. Errors: ERROR_INVALID. */
int image_check(const char *image, size_t len, struct error *err);

/* why NULL: it is there. ERROR_REFUSED: nor will it be, ERROR_UNAVAILABLE: another time it may. It names the
 * image. */
typedef void (*image_found)(void *data, const struct error *why);

struct image_search {
    struct engine *engine;
    const char *image; /* borrowed, as found by image_check */
    bool pull;
    uint64_t pull_timeout_ns;
    image_found found;
    void *data;
    /* its own */
    struct http_call *call;
    bool pulled;
};

/* Has `found` called once, at once when the request cannot be made. */
void image_find(struct image_search *search);
/* `found` is not called. Fine when nothing is under way. */
void image_cancel(struct image_search *search);
