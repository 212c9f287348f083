/* Runs one program for the host (program_host.h), in a process of its own, and reports its end. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct config;

/* control: the order's socket; order: a memfd (program_wire.h); input: the program's standard input;
 * directory: the program's temporary folder, which it makes and removes. */
_Noreturn void program_runner(const struct config *config, int control, int order, int input,
                              const char *directory);

/* A name for such a folder (malloc), which nobody can foresee. NULL: out of memory, or of randomness. */
char *program_directory_name(void);
/* Removes the folder and what is in it, if it is there. Nothing uses it any more. */
void program_directory_remove(const char *path);

/* Calls see for each child of a process ("self", or its number), until it says so; then true. */
bool program_each_child(const char *process, bool (*see)(pid_t pid, void *data), void *data);
