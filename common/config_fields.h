/* The table of configuration fields, shared by config.c, config_yaml.c and config_doc.c only. Thread: any. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct config;
struct error;

#define CONFIG_FILE_MAX (1u << 20)
#define CONFIG_SHOWN_MAX 48 /* bytes of a value or key in a message */

enum config_kind { TEXT, INTEGER, DURATION, SIZE, BOOLEAN, CHOICE };

/* What to make of a variable that Kubernetes sets by itself for a service of the same name
 * (tcp://10.0.0.1:6379). */
enum config_service { SERVICE_NO, SERVICE_PORT, SERVICE_IGNORED };

struct config_field {
    const char *path;
    enum config_kind kind;
    size_t offset;        /* in struct config: char *, int64_t, bool, or int for a choice */
    const char *standard; /* the default, as people write it */
    int64_t min;          /* text: fewest bytes */
    int64_t max;
    const char *variable;
    const char *help;
    const char *const *choices; /* the values, in the order of their enum, and NULL */
    int (*check)(const char *text,
                 struct error *err); /* of a text; the message lacks the name of the field */
    enum config_service service;
    bool secret;              /* the value never appears in a message */
    bool none;                /* the text None means none */
    const char *standard_doc; /* how the default is described when it is worked out */
};

extern const struct config_field config_fields[];
extern const size_t config_n_fields;

/* Sets a field from a value as people write it; text is NUL-terminated behind its len bytes. The message
 * lacks the name of the field, and the value too when it is a secret. */
int config_field_set(const struct config_field *field, struct config *config, const char *text, size_t len,
                     struct error *err);

/* A number of the field's kind as people write it, in the largest unit that makes it whole. Returns out. */
const char *config_field_number(const struct config_field *field, int64_t value, char out[32]);

/* Sets fields from the text of a file; name stands for it in messages. On failure some may be set. */
int config_read_yaml(const char *name, const char *text, size_t len, struct config *config,
                     struct error *err);
