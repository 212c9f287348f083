/* Local programs, as the executor starts them: through the program host (program_host.h has how they run, and
 * what a crash leaves), with their end told on the executor's loop. Nothing here waits. Thread: executor, or
 * one that stands in for it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/local/program_wire.h"

struct buffer;
struct config;
struct error;
struct loop;
struct program;
struct programs;

#define PROGRAM_TEXTS_MAX (1u << 20)  /* bytes of arguments and environment */
#define PROGRAM_OUTPUT_MAX (1u << 20) /* of output_max */

/* What to run; borrowed. */
struct program_request {
    struct program_order limits;
    const char *texts; /* n_arguments and n_variables texts, each with its NUL; the first is the path */
    size_t texts_len;
    const char *input;
    size_t input_len;
};

struct program_end {
    struct program_report report;
    const char *output; /* report.output_len bytes */
    const char *errors;
};

typedef void (*program_done)(void *data, const struct program_end *end);

/* Starts the host, if the configuration lets any program run. Thread: main, while it is the only one. */
int programs_new(const struct config *config, struct programs **ret_programs, struct error *err);
/* Kills what runs; `done` is not called. NULL is fine. */
void programs_free(struct programs *programs);

/* `done` is called once, from the loop, when nothing of the program is left. Errors: ERROR_REFUSED (no
 * program may be run), ERROR_LIMIT, ERROR_UNAVAILABLE, ERROR_MEMORY, ERROR_SYSTEM; then it is not called. */
int program_start(struct programs *programs, struct loop *loop, const struct program_request *request,
                  program_done done, void *data, struct program **ret_program, struct error *err);
/* Kills it, and whatever it has started; `done` is not called. Not from within its `done`. */
void program_cancel(struct program *program);
