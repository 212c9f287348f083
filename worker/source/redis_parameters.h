/* The parameters of a RedisEventSource, for reading from it and publishing to it.
 *
 *     {"host","port","db","password","stream"} as in the original client, and, all optional: "username",
 * "tls" (bool), "tls_ca", "tls_cert", "tls_key" (files), "trim" (bool: XTRIM MINID what a checkpoint has
 * passed). */
#pragma once

#include <stdbool.h>

#include "common/redis.h"

struct error;
struct json_value;

struct redis_parameters {
    char *host, *username, *password, *stream, *tls_ca, *tls_cert, *tls_key; /* owned; never NULL */
    int port;
    int db;
    bool tls;
    bool trim;
};

/* The names of all of them, NULL-terminated. */
extern const char *const redis_parameters_known[];

/* Errors: ERROR_INVALID naming the parameter and its value (never the password). */
int redis_parameters_read(const struct json_value *json, struct redis_parameters *ret_parameters,
                          struct error *err);
void redis_parameters_done(struct redis_parameters *parameters);
/* Borrows the text. */
struct redis_address redis_parameters_address(const struct redis_parameters *parameters);
