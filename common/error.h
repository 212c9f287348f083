/* Errors as values.
 *
 * A function that can fail returns 0 when done, a documented positive outcome, or -1 with its last parameter
 * filled. The level that decides what to do logs the error, once. Messages name the offending value and never
 * contain a secret. Thread: any (each error belongs to its caller).
 */
#pragma once

#include <stdarg.h>

enum error_code {
    ERROR_NONE = 0,
    ERROR_MEMORY,      /* an allocation failed */
    ERROR_SYSTEM,      /* a system call failed */
    ERROR_INVALID,     /* input that can never be right */
    ERROR_NOT_FOUND,   /* the thing named does not exist */
    ERROR_EXISTS,      /* the thing named exists already */
    ERROR_FENCED,      /* another writer owns the workspace, or it is gone */
    ERROR_UNAVAILABLE, /* a peer is absent, slow or full: may be retried */
    ERROR_REFUSED,     /* a peer answers and says no: password, permission, wrong type */
    ERROR_LIMIT,       /* a bound of ours was reached */
    ERROR_NO_SPACE,    /* the storage is full or read-only: may be retried when there is room */
};

struct error {
    enum error_code code;
    char message[480]; /* NUL-terminated, truncated when longer */
};

/* Fills err (may be NULL) and returns -1. */
int error_set(struct error *err, enum error_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same with ": <text of errnum>" appended; the code is ERROR_MEMORY for ENOMEM, else ERROR_SYSTEM. */
int error_set_errno(struct error *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<what>: " before the message already in err. Returns -1. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A stable lower-case word for a code, for logs and status ("invalid", "unavailable", ...). */
const char *error_code_name(enum error_code code);
