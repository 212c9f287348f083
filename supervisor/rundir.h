/* The run directory: the lock that makes a supervisor the only one, and the files beside it.
 *
 *     supervisor.pid   locked (flock) as long as the supervisor lives; its pid as text
 *     control.sock     the controller API, for this user only
 *     api.sock         the trigger API, likewise
 *     supervisor.log   standard error of a supervisor started with --daemon */
#pragma once

#include <stddef.h>
#include <sys/types.h>

struct error;

#define RUNDIR_PATH_MAX 4096

/* path = directory/name. Errors: ERROR_LIMIT. */
int rundir_path(const char *directory, const char *name, char path[RUNDIR_PATH_MAX], struct error *err);
/* Creates the directory (0700) if it is absent; refuses one that others own or may write to. */
int rundir_prepare(const char *directory, struct error *err);
/* Locks it for this process and writes the pid. 0 with *ret_fd (CLOEXEC, to be kept open), or 1 with
 * *ret_pid: another supervisor has it. */
int rundir_lock(const char *directory, int *ret_fd, pid_t *ret_pid, struct error *err);
/* Who has it: 0 with *ret_pid, or 1: nobody. */
int rundir_holder(const char *directory, pid_t *ret_pid, struct error *err);
