// clang-format off
/* The contract between supervisor, forkserver and worker, with arena.h the whole of it.
 *
 * All sockets are AF_UNIX SOCK_SEQPACKET; a message is one packet, one JSON object {"message": KIND, ...}, at most
 * IPC_MAX bytes, with descriptors attached where said.
 *
 * supervisor -> forkserver (socket on IPC_FORKSERVER_FD of `triggerflow-worker --forkserver`)
 *   spawn   {"message":"spawn","workspace":W,"generation":G,"config":{path:value,...}}
 *           + [arena, status socket, ingest eventfd, durable eventfd]
 * forkserver -> supervisor
 *   ready   {"message":"ready"}                      once, when it can fork
 *   spawned {"message":"spawned","generation":G,"pid":P}
 *   error   {"message":"error","generation":G,"error":TEXT}
 * The forkserver forks twice, so that the worker's parent is the supervisor (PR_SET_CHILD_SUBREAPER). Its death is
 * noticed as end of file; the supervisor starts another. End of file on its side makes it exit 0.
 *
 * The two eventfds belong to the ingest ring (arena.h): the supervisor writes to the first when it has published
 * records, the worker to the second when it has released some, or has changed the ring's state.
 *
 * worker -> supervisor (status socket; "generation" in every one: others are stale and ignored)
 *   ready    {"message":"ready","generation":G,"pid":P}           triggers loaded, sources started
 *   status   {"message":"status","generation":G,"status":{...}}   whenever it changed, at most 10 a second:
 *            {"state":"running"|"needs_adoption"|"paused"|"stopping"|...,
 *             "durability":"always"|"everysec"|"no"|"none", "storage":"ok"|<error>, "warnings":[text...],
 *             "sources":[{"name","class","state","error"?}],
 *             "triggers":{"total":N,"broken":[{"id","reason"}...]}} (lists cut to fit, then "truncated":true).
 *            The supervisor shows it as it is.
 *   finished {"message":"finished","generation":G,"trigger":ID,"time":ISO}    a TERMINATE is committed
 *   failed   {"message":"failed","generation":G,"reason":R,"error":TEXT}      it exits right after. R:
 *            "fenced" (another writer: do not restart), "deleted" (workspace gone: do not restart),
 *            "rolled_back" (restart), "refused" (storage says no: restart with back-off),
 *            "internal_overflow" (do not restart), "error" (restart)
 *   answer   {"message":"answer","generation":G,"id":N,"count":K}, or instead of the count
 *            "status":HTTP status,"error":TEXT; to the requests below that have an id
 * supervisor -> worker
 *   stop     {"message":"stop"}                                    drain: checkpoint, acknowledge, exit 0
 *   reload   {"message":"reload"}                                  read triggers, event sources and timers now
 *   adopt    {"message":"adopt","from":"beginning"|"end"|POSITION}
 * and these, which are answered when the checkpoint that contains them has committed:
 *   patch    {"message":"patch","id":N,"trigger":ID,"context":{...}}  sets members of a trigger's context; null
 *                                                                     removes one (RFC 7396). With "uuid" it
 *                                                                     means the trigger that has it
 *   redrive  {"message":"redrive","id":N,"numbers":[TEXT...]}      dead letters go their way once more
 *   pause    {"message":"pause","id":N}                            no event is taken up any more; stored
 *   resume   {"message":"resume","id":N}
 * End of file makes the worker drain and exit.
 *
 * Exit status of a worker: 0 stopped or finished, 1 an error (logged and reported), 2 usage or configuration,
 * 3 fenced or deleted. Thread: any; a socket belongs to one thread per direction. */
// clang-format on
#pragma once

#include <stddef.h>
#include <stdint.h>

struct error;

#define IPC_MAX 65536
#define IPC_MAX_FDS 4
#define IPC_FORKSERVER_FD 3

enum { IPC_EXIT_OK = 0, IPC_EXIT_ERROR = 1, IPC_EXIT_USAGE = 2, IPC_EXIT_FENCED = 3 };
enum { IPC_AGAIN = 1, IPC_CLOSED = 2 };

/* A pair of connected sockets, CLOEXEC. */
int ipc_pair(int ret_fds[2], struct error *err);

/* Sends one packet with descriptors (which stay open here). Never blocks: 0 sent, IPC_AGAIN queue full,
 * IPC_CLOSED peer gone. No SIGPIPE. Errors: ERROR_LIMIT above IPC_MAX. */
int ipc_send(int fd, const char *message, size_t len, const int *fds, unsigned n_fds, struct error *err);

/* Receives one packet into a buffer of IPC_MAX bytes; 0 received, IPC_AGAIN none there (the socket is read
 * with MSG_DONTWAIT unless wait), IPC_CLOSED end of file. Received descriptors are CLOEXEC; fds beyond
 * IPC_MAX_FDS are closed. A truncated packet is ERROR_LIMIT. */
int ipc_receive(int fd, int wait, char buffer[IPC_MAX], size_t *ret_len, int ret_fds[IPC_MAX_FDS],
                unsigned *ret_n_fds, struct error *err);
