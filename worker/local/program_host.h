/* The program host: a helper process (helper.h) that starts local programs for its worker, which has threads
 * and so should not fork. It ends with the worker.
 *
 *     worker ── orders ──▶ host ── fork ──▶ runner ── fork ──▶ program, and whatever it starts
 *        ▲                                    │
 *        └──────── the order's socket ────────┘  report
 *
 * For each order it forks a runner, which starts the program, sees to its limits, and reports its end over
 * the order's own socket. The runner is the program's subreaper: whatever the program leaves behind, in
 * another session too, becomes the runner's child, and is killed before the end is reported. When the other
 * end of the order's socket is closed, which is when the worker gives it up or dies, of whatever, the runner
 * kills all of it and ends.
 *
 * dies                   | what becomes of the program
 * -----------------------|---------------------------------------------------------------------------
 * the worker             | the runner sees its socket closed, kills the program and all it has started;
 *                        | the next life starts the intent again, under the same key
 * the host               | nothing: its runners go on. The worker dies, as it cannot have another host
 * a runner (kill -9)     | the program gets SIGKILL (PR_SET_PDEATHSIG), what it had started is killed by the
 *                        | host, whose child it becomes; the worker tries again
 *
 * A program gets: the standard input it is given, pipes as standard output and error, no other descriptor; a
 * session and process group of its own; a new temporary folder as working directory, removed at its end; the
 * environment of the order and nothing else; default signals; no_new_privs; no core dumps; limits on memory
 * (RLIMIT_AS, for each process) and open files. With uids in the configuration, it has one that no other
 * running program has, and RLIMIT_NPROC bounds its processes; otherwise they are counted PROCESSES_LOOK
 * apart, and it is killed when they are too many. */
#pragma once

#include <sys/types.h>

struct config;
struct error;

/* Forks the host; *ret_socket takes orders (SOCK_SEQPACKET, non-blocking, close-on-exec): any byte, with
 * three descriptors: the order's socket, the order (program_wire.h), the standard input. Thread: main, while
 * it is the only one. */
int program_host_start(const struct config *config, int *ret_socket, pid_t *ret_pid, struct error *err);
