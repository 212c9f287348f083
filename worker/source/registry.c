#include "worker/source/source.h"

#include <string.h>

#include "common/buffer.h"

extern const struct source_type source_http;
extern const struct source_type source_internal;
extern const struct source_type source_rabbitmq;
extern const struct source_type source_redis;
extern const struct source_type source_sqs;
extern const struct source_type source_kafka;

static const struct source_type *const types[] = {
    &source_http, &source_internal, &source_rabbitmq, &source_redis, &source_sqs, &source_kafka,
};

const struct source_type *source_find(const char *class_name, size_t len)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strlen(types[i]->class_name) == len && !memcmp(types[i]->class_name, class_name, len))
            return types[i];
    return NULL;
}

void source_names(struct buffer *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (types[i] != &source_internal)
            buffer_printf(out, "%s%s", out->len > before ? ", " : "", types[i]->class_name);
}

bool source_is_own(const char *class_name, size_t len)
{
    static const char *const own[] = {"InternalEventSource", "HTTPEventSource"};
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
        if (strlen(own[i]) == len && !memcmp(own[i], class_name, len))
            return true;
    return false;
}
