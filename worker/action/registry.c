#include "worker/action/action.h"

#include <string.h>

#include "common/buffer.h"

extern const struct action_type action_pass;
extern const struct action_type action_terminate;
extern const struct action_type action_emit;
extern const struct action_type action_exec;
extern const struct action_type action_docker;
extern const struct action_type action_docker_image;
extern const struct action_type action_http_invoke;
extern const struct action_type action_dag_dummy_task;
extern const struct action_type action_dag_task_failure_handler;
extern const struct action_type action_dag_task_retry_handler;
extern const struct action_type action_ibm_cf_invoke;
extern const struct action_type action_throttle_ibmcf_function;
extern const struct action_type action_aws_lambda_invoke;
extern const struct action_type action_aws_asf_pass;
extern const struct action_type action_aws_asf_task;
extern const struct action_type action_aws_asf_map;
extern const struct action_type action_aws_asf_end_statemachine;
extern const struct action_type action_aws_asf_catch;

static const struct action_type *const types[] = {
    &action_pass,
    &action_terminate,
    &action_emit,
    &action_http_invoke,
    &action_dag_dummy_task,
    &action_dag_task_failure_handler,
    &action_dag_task_retry_handler,
    &action_ibm_cf_invoke,
    &action_throttle_ibmcf_function,
    &action_aws_lambda_invoke,
    &action_aws_asf_pass,
    &action_aws_asf_task,
    &action_aws_asf_map,
    &action_aws_asf_end_statemachine,
    &action_aws_asf_catch,
    &action_exec,
    &action_docker,
    &action_docker_image,
};

const struct action_type *action_find(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strlen(types[i]->name) == len && !memcmp(types[i]->name, name, len))
            return types[i];
    return NULL;
}

void action_names(struct buffer *out)
{
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        buffer_printf(out, "%s%s", i ? ", " : "", types[i]->name);
}
