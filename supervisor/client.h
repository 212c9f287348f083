/* The commands that talk to a running supervisor: stop, reload, status, health. Each returns an exit code
 * (supervisor.h) and prints what went wrong to standard error. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

int client_stop(const char *run_directory, int64_t stop_timeout_ns);
int client_reload(const char *run_directory);

struct client_status {
    const char *workspace; /* NULL: all */
    bool json;
    bool watch;
};
int client_status(const char *run_directory, const struct client_status *options);
/* Whether it answers: for programs that watch it. */
int client_health(const char *run_directory);
