/* Runs one program for the host (program_host.h), in a process of its own, and reports its end. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct config;

/* control: the order's socket; order: a memfd (program_wire.h); input: the program's standard input. */
_Noreturn void program_runner(const struct config *config, int control, int order, int input);

/* Calls see for each child of a process ("self", or its number), until it says so; then true. */
bool program_each_child(const char *process, bool (*see)(pid_t pid, void *data), void *data);
