/* What the configuration lets triggers do on this machine: which programs EXEC may run, and which images
 * there may be containers of. Thread: any. */
#pragma once

#include <stddef.h>

struct error;

/* The part of the configuration that says so; borrows the texts. */
struct permits {
    const char *exec_allow;
    const char *docker_images;
};

/* Whether a program may be run by its path as it is written: absolute, without . and .. in it, and one of
 * those allowed or below one of them. Who runs it looks where symbolic links lead (program_host.h). Errors:
 * ERROR_INVALID, ERROR_REFUSED. */
int permit_program(const char *exec_allow, const char *path, size_t len, struct error *err);
/* Whether there may be containers of this image. Errors: ERROR_REFUSED. */
int permit_image(const char *docker_images, const char *image, size_t len, struct error *err);
