/* Helper processes of a worker: small, without threads, forked by the worker before its threads are. A helper
 * holds nothing of the worker's but a socket, whose end of file says that the worker is gone, of whatever; it
 * is not ended by signals that are meant for the worker. */
#pragma once

#include <sys/types.h>

struct error;

#define HELPER_SOCKET 3 /* its only descriptor but the standard ones */

/* Forks one that does `run` and ends with it; name: of the process, at most 15 bytes. *ret_socket is the
 * worker's end (SOCK_SEQPACKET, non-blocking, close-on-exec). Thread: main, while it is the only one. */
int helper_start(const char *name, void (*run)(const void *data), const void *data, int *ret_socket,
                 pid_t *ret_pid, struct error *err);
