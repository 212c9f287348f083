/* Structured logs: a stable event name and typed key=value fields, one line each on standard error, as logfmt
 * or as JSON lines. Thread: any (a line is one write). A value named password, token, secret or key must not
 * be passed; URLs go through LOG_URL, which hides their credentials.
 *
 *     log_error("worker_exit", LOG_STR("workspace", ws), LOG_INT("pid", pid));
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR };

struct log_field {
    const char *key;
    enum {
        LOG_FIELD_STR,
        LOG_FIELD_INT,
        LOG_FIELD_UINT,
        LOG_FIELD_DOUBLE,
        LOG_FIELD_BOOL,
        LOG_FIELD_URL
    } kind;
    union {
        const char *text; /* borrowed; NULL is logged as an empty string; invalid UTF-8 is escaped */
        int64_t integer;
        uint64_t uinteger;
        double real;
        bool flag;
    };
};

#define LOG_STR(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_STR, .text = (v)})
#define LOG_INT(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_INT, .integer = (int64_t)(v)})
#define LOG_UINT(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_UINT, .uinteger = (uint64_t)(v)})
#define LOG_DOUBLE(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_DOUBLE, .real = (v)})
#define LOG_BOOL(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_BOOL, .flag = (v)})
#define LOG_URL(k, v) ((struct log_field){.key = (k), .kind = LOG_FIELD_URL, .text = (v)})

/* Level and format of all later lines. `process` ("supervisor", "worker") and `workspace` (or NULL) are
 * copied and appear in every line. */
void log_setup(enum log_level level, bool json, const char *process, const char *workspace);
bool log_enabled(enum log_level level);

void log_write(enum log_level level, const char *event, const struct log_field *fields, size_t n);

#define LOG_AT_(level, event, ...)                                                                   \
    log_write((level), (event), (const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){.key = NULL}}, \
              sizeof((const struct log_field[]){__VA_ARGS__ __VA_OPT__(, ){.key = NULL}}) /          \
                      sizeof(struct log_field) -                                                     \
                  1)
#define log_debug(event, ...) LOG_AT_(LOG_LEVEL_DEBUG, event, __VA_ARGS__)
#define log_info(event, ...) LOG_AT_(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_warn(event, ...) LOG_AT_(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_error(event, ...) LOG_AT_(LOG_LEVEL_ERROR, event, __VA_ARGS__)
