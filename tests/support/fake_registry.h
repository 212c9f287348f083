/* A registry of images in this process (fake_http.h): the part of the distribution specification that an
 * engine needs to pull, over plain HTTP, with one image of one layer under every name that it serves. What
 * the name of the repository begins with says what becomes of a pull:
 *
 *     private   401, without credentials that it would take
 *     missing   404, for its manifests
 *     broken    500, likewise
 *     hangs     never answers for its manifests, until the end
 *     slow      keeps its layer back until fake_registry_release()
 *
 * and any other is served. Thread: any. */
#pragma once

#include <stdint.h>

struct fake_registry;

struct fake_registry_counts {
    unsigned manifests; /* answers to GET with a manifest, by digest or tag */
    unsigned layers;    /* requests for the layer */
};

/* folder: an image as `docker save` writes it, unpacked. NULL with the reason on standard error. */
struct fake_registry *fake_registry_start(const char *folder);
void fake_registry_stop(struct fake_registry *fake); /* NULL is fine */
int fake_registry_port(const struct fake_registry *fake);
/* "sha256:..." of the manifest. */
const char *fake_registry_digest(const struct fake_registry *fake);
struct fake_registry_counts fake_registry_counts(struct fake_registry *fake);
/* Layers are kept back no more. */
void fake_registry_release(struct fake_registry *fake);
