/* A place to run the command `triggerflow` in: a home, a run directory and a PATH of its own. What goes wrong
 * fails the test (cmocka). Thread: main. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct json_object;

struct cli_bed {
    char dir[64];
    pid_t server; /* a program started by cli_bed_start; 0: none */
};

void cli_bed_init(struct cli_bed *bed);
void cli_bed_done(struct cli_bed *bed); /* ends the server by SIGTERM, removes the folder */

/* Runs a command line by sh in the folder, with standard input empty; returns its exit status. What it
 * printed is in cli_bed_out() and cli_bed_err(). */
int cli_bed_run(struct cli_bed *bed, const char *format, ...) __attribute__((format(printf, 2, 3)));
const char *cli_bed_out(const struct cli_bed *bed); /* valid until the next call of either */
const char *cli_bed_err(const struct cli_bed *bed);
/* The same, which must succeed and print JSON: that (owned by the caller). */
struct json_object *cli_bed_json(struct cli_bed *bed, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Writes a file in the folder. */
void cli_bed_write(const struct cli_bed *bed, const char *name, const char *text);
/* Starts a command line in the background, which dies with the test. */
void cli_bed_start(struct cli_bed *bed, const char *format, ...) __attribute__((format(printf, 2, 3)));
