/* The forkserver: a single-threaded process with all libraries loaded and nothing connected, which forks
 * workers on request (common/ipc.h). Forking it costs a fraction of fork and exec, in time and in memory. */
#pragma once

/* Serves requests from IPC_FORKSERVER_FD until its end of file. argv's memory is reused for the process
 * titles. In a forked worker it returns that worker's exit status. */
int forkserver_run(int argc, char **argv);
