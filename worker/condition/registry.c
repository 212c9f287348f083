#include "worker/condition/condition.h"

#include <string.h>

#include "common/buffer.h"

extern const struct condition_type condition_true;
extern const struct condition_type condition_join;
extern const struct condition_type condition_function_join;
extern const struct condition_type condition_counter_threshold;
extern const struct condition_type condition_dag_task_join;
extern const struct condition_type condition_aws_asf_condition;
extern const struct condition_type condition_aws_asf_join_statemachine;
extern const struct condition_type condition_aws_asf_catch;
extern const struct condition_type condition_docker;
extern const struct condition_type condition_docker_image;

static const struct condition_type *const types[] = {
    &condition_true,
    &condition_join,
    &condition_function_join,
    &condition_counter_threshold,
    &condition_dag_task_join,
    &condition_aws_asf_condition,
    &condition_aws_asf_join_statemachine,
    &condition_aws_asf_catch,
    &condition_docker,
    &condition_docker_image,
};

const struct condition_type *condition_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strlen(types[i]->name) == len && !memcmp(types[i]->name, name, len))
            return types[i];
    return NULL;
}

void condition_names(struct buffer *out)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        buffer_printf(out, "%s%s", i ? ", " : "", types[i]->name);
}
