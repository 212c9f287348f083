#include "worker/source/source.h"

#include <string.h>

extern const struct source_type source_internal;
extern const struct source_type source_redis;

static const struct source_type *const types[] = {
    &source_internal,
    &source_redis,
};

const struct source_type *source_find(const char *class_name, size_t len)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strlen(types[i]->class_name) == len && !memcmp(types[i]->class_name, class_name, len))
            return types[i];
    return NULL;
}
