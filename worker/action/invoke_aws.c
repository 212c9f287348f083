/* AWS_LAMBDA_INVOKE: invokes a Lambda function for a task, asynchronously (the Event invocation type), once
 * or for each value of iter_data (worker/action/invoke.h). The operator, or the action's document, also has
 *
 *     function_name       name, partial or whole ARN, with or without a qualifier
 *     access_key_id, secret_access_key, session_token?
 *                         there, in an object aws_credentials there, in that of the global context, or in
 *                         the environment (AWS_ACCESS_KEY_ID and so on): the first that there are
 *     region, region_name likewise; else that of the ARN, AWS_REGION or AWS_DEFAULT_REGION
 *     endpoint            default https://lambda.REGION.amazonaws.com
 *
 * Done is 2xx without X-Amz-Function-Error. Requests are signed (Signature Version 4) as they are sent;
 * credentials of the global context are read then, and are not in the stored intent. */
#include "worker/action/action.h"

#include "common/error.h"
#include "worker/action/invoke.h"
#include "worker/action/lambda.h"
#include "worker/executor/invocation.h"

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

/* --- firing --- */

/* Credentials that the operator itself has go with the intent. */
static void append_credentials(const struct json_value *place, struct buffer *out)
{
    static const char *const names[] = {"access_key_id", "secret_access_key", "session_token"};
    BUFFER_AUTO probe = BUFFER_INIT;
    if (!lambda_text(place, names[0], &probe))
        return;
    buffer_append_text(out, ",\"credentials\":{");
    for (size_t i = 0; i < 3; i++) {
        BUFFER_AUTO text = BUFFER_INIT;
        if (!lambda_text(place, names[i], &text))
            continue;
        buffer_printf(out, "%s\"%s\":", i ? "," : "", names[i]);
        buffer_append_json(out, buffer_text(&text), text.len);
    }
    buffer_append_char(out, '}');
}

static int read_more(const struct invoke *v, struct buffer *out, struct error *err)
{
    struct json_value global;
    BUFFER_AUTO function = BUFFER_INIT;
    BUFFER_AUTO endpoint = BUFFER_INIT;
    BUFFER_AUTO probe = BUFFER_INIT;
    firing_global(v->firing, &global);
    struct json_value nested = lambda_credentials(&v->operator);
    struct json_value places[] = {v->operator, nested, *v->document, lambda_credentials(&global)};
    if (invoke_text(v, "function_name", false, &function, err) < 0 ||
        invoke_text(v, "endpoint", true, &endpoint, err) < 0 ||
        lambda_locate(places, 4, buffer_text(&function), buffer_text(&endpoint), out, err) < 0)
        return -1;
    append_credentials(lambda_text(&nested, "access_key_id", &probe) ? &nested : &v->operator, out);
    return out->failed ? out_of_memory(err) : 0;
}

extern const struct action_type action_aws_lambda_invoke;

static int start_or_again(const void *state, struct firing *firing, const struct json_value *request,
                          struct error *err)
{
    return invoke_fire(state, firing, &action_aws_lambda_invoke, read_more, request, err);
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    return start_or_again(state, firing, NULL, err);
}

/* --- the request --- */

static int request(const struct invocation *invocation, struct http_call_request *request, struct error *err)
{
    invoke_payload(invocation, &request->body);
    return lambda_request(invocation, request, err);
}

static const struct invocation_type invoked = {.request = request, .judge = lambda_judge};

static void start(struct executor *executor, struct intent *intent)
{
    invocation_start(executor, intent, &invoked);
}

static int check_context(const struct json_value *context, struct error *err)
{
    static const char *const texts[] = {"function_name", "region",        "region_name", "endpoint",
                                        "access_key_id", "session_token", NULL};
    return invoke_check(context, texts, err);
}

static const char *const parameters[] = {INVOCATION_PARAMETERS, "function_name", "region",
                                         "region_name",         "endpoint",      NULL};

const struct action_type action_aws_lambda_invoke = {.name = "AWS_LAMBDA_INVOKE",
                                                     .load = invoke_load,
                                                     .unload = invoke_unload,
                                                     .fire = fire,
                                                     .again = start_or_again,
                                                     .start = start,
                                                     .after_commit = invoke_after_commit,
                                                     .gave_up = invoke_gave_up,
                                                     .parameters = parameters,
                                                     .check_context = check_context};
