/* What the configuration lets triggers do on this machine: which programs EXEC may run. Thread: any. */
#pragma once

#include <stddef.h>

struct error;

/* The part of the configuration that says so; borrows the texts. */
struct permits {
    const char *exec_allow;
};

/* Whether a program may be run by its path as it is written: absolute, without . and .. in it, and one of
 * those allowed or below one of them. Who runs it looks where symbolic links lead (program_host.h). Errors:
 * ERROR_INVALID, ERROR_REFUSED. */
int permit_program(const char *exec_allow, const char *path, size_t len, struct error *err);
