/* The supervisor: everything that lives in its main thread, from start to stop. */
#pragma once

#include "common/config.h"

struct error;

/* Exit codes, also in --help. */
enum { SUPERVISOR_OK = 0, SUPERVISOR_ERROR = 1, SUPERVISOR_USAGE = 2, SUPERVISOR_RUNNING = 3 };

struct supervisor_options {
    const char *config_file;    /* read again on SIGHUP; NULL: as config_load finds it */
    const char *run_directory;  /* overrides the configured one; NULL: does not */
    struct config config;       /* as loaded; taken */
    void (*locked)(void *data); /* the run directory is ours */
    void (*ready)(void *data);  /* it serves; may be NULL */
    void *data;
};

/* Runs until SIGTERM or SIGINT, then drains. Returns an exit code; other than SUPERVISOR_OK with err filled.
 */
int supervisor_run(struct supervisor_options *options, struct error *err);
