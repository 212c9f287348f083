/* What a worker and its program host (program_host.h) say to each other. Both are one build of one program,
 * so plain structures do. */
#pragma once

#include <stdint.h>

enum program_fate {
    PROGRAM_EXITED,      /* status is its exit status */
    PROGRAM_KILLED,      /* status is the signal that killed it */
    PROGRAM_TIMED_OUT,   /* it was killed: out of time */
    PROGRAM_TOO_MANY,    /* it was killed: more processes than it may have */
    PROGRAM_REFUSED,     /* it was not started and cannot be: message says why */
    PROGRAM_UNAVAILABLE, /* it was not started, this time */
};

/* In a memfd that comes with the request: the head, then n_arguments and n_variables texts, each with its
 * NUL: the path and the further arguments, and the environment. */
struct program_order {
    uint64_t time_ns;
    uint64_t memory; /* bytes of address space of each process; 0: not limited */
    uint32_t processes;
    uint32_t output_max; /* bytes that are kept of the output, and of the errors */
    uint32_t n_arguments;
    uint32_t n_variables;
};

/* Written to the order's socket when nothing of the program is left, followed by the two outputs. */
struct program_report {
    uint32_t fate;
    int32_t status;
    uint64_t cpu_ns;
    uint64_t memory_max; /* bytes resident, of the largest process */
    uint32_t output_len;
    uint32_t errors_len;
    uint8_t output_cut;
    uint8_t errors_cut;
    uint8_t pad[6];
    char message[200];
};
