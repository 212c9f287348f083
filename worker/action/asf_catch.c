/* AWS_ASF_CATCH: carries out what the condition of the same name has come to about a state's failure:
 *
 *     it is tried again   emits (Subject.again, lambda.success) with the input, at once or by a timer;
 *                         the state's trigger is activated by that, too
 *     it is caught        emits (Subject.catchN, lambda.success), N: the catcher's number from 0, with what
 *                         its ResultPath makes of {"Error","Cause"} and the state's input; what its Next
 *                         names is activated by that
 *     neither             emits (Subject, lambda.uncaught), for the Map or Parallel around the state; when
 *                         nobody takes that, the failure is the dead letter action_failed
 *
 * An answer to the invocation that has failed is no answer any more: those who wait for it are told. All of
 * it is of one firing: a crash repeats it, or finds it done. */
#include <string.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/cloudevent.h"
#include "common/error.h"
#include "common/json.h"
#include "common/jsonpath.h"
#include "worker/action/action.h"
#include "worker/action/asf.h"
#include "worker/condition/asf.h"
#include "worker/states/catch.h"
#include "worker/states/evaluation.h"
#include "worker/states/failure.h"

static int out_of_memory(struct error *err)
{
    return error_set(err, ERROR_MEMORY, "out of memory");
}

static int load(const struct json_value *action, void **ret_state, struct error *err)
{
    (void)action;
    (void)err;
    *ret_state = NULL;
    return 0;
}

static void unload(void *state)
{
    (void)state;
}

/* Who waits for its answer need not, and drops it when it comes all the same. */
static int close_attempt(struct firing *firing, const struct asf_firing *asf, const char *key,
                         struct error *err)
{
    BUFFER_AUTO write = BUFFER_INIT;
    buffer_printf(&write, "{\"forget\":\"%s\",\"final\":\"%s\"}", key, key);
    if (write.failed)
        return out_of_memory(err);
    return firing_tell(firing, ASF_SUCCESS, asf->subject, strlen(asf->subject), write.data, write.len, err);
}

static int again(struct firing *firing, const struct asf_firing *asf, uint64_t delay_ns, struct error *err)
{
    struct asf_event made;
    BUFFER_AUTO subject = BUFFER_INIT;
    buffer_printf(&subject, "%s.again", asf->subject);
    if (subject.failed)
        return out_of_memory(err);
    int r = asf_event_init(&made, firing, buffer_text(&subject), &asf->data, &asf->item, 0, err);
    if (r == 0)
        r = delay_ns ? firing_timer(firing, clock_unix_ns() + delay_ns, &made.event, err)
                     : firing_emit(firing, &made.event, err);
    asf_event_done(&made);
    return r;
}

/* A catcher's ResultPath. */
static int make_output(struct evaluation *evaluation, const struct asf_verdict *verdict,
                       const struct json_value *input, struct json_value *ret_output, struct error *err)
{
    struct json_value output;
    struct jsonpath *path;
    BUFFER_AUTO text = BUFFER_INIT;
    BUFFER_AUTO object = BUFFER_INIT;
    buffer_append_char(&object, '{');
    failure_write(&verdict->failure, &object);
    buffer_append_char(&object, '}');
    *ret_output = *input;
    if (verdict->result_path.type == JSON_NULL)
        return 0;
    if (evaluation_keep(evaluation, &object, &output, err) < 0)
        return -1;
    *ret_output = output;
    if (verdict->result_path.type == JSON_ABSENT)
        return 0;
    json_unescape(&verdict->result_path, &text);
    if (text.failed)
        return out_of_memory(err);
    if (jsonpath_parse(buffer_text(&text), text.len, &path, err) < 0)
        return -1;
    int r = jsonpath_put(path, input, &output, &evaluation->pool, &evaluation->steps, ret_output, err);
    jsonpath_free(path);
    if (r < 0 && err->code != ERROR_MEMORY)
        error_prefix(err, "States.ResultPathMatchFailure: Catch: ResultPath");
    return r < 0 ? -1 : 0;
}

static int pass_on(struct firing *firing, const struct asf_firing *asf, const struct failure *failure,
                   struct error *err)
{
    if (asf_fail(firing, FAILURE_UNCAUGHT, asf->subject, &asf->item, failure, NULL, false))
        return 0;
    return failure_error(failure, err);
}

static int catch (struct firing *firing, const struct asf_firing *asf, const struct asf_verdict *verdict,
                  struct error *err)
{
    struct evaluation evaluation;
    struct json_value output;
    struct failure failure;
    BUFFER_AUTO subject = BUFFER_INIT;
    evaluation_init(&evaluation, 0);
    int r = make_output(&evaluation, verdict, &asf->data, &output, err);
    if (r == 0) {
        buffer_printf(&subject, "%s.catch%d", asf->subject, verdict->catcher);
        r = subject.failed ? out_of_memory(err)
                           : asf_emit(firing, buffer_text(&subject), &output, &asf->item, 0, err);
    } else if (err->code != ERROR_MEMORY) {
        failure_of_message(err->message, &failure);
        r = pass_on(firing, asf, &failure, err);
        failure_done(&failure);
    }
    evaluation_done(&evaluation);
    return r;
}

static int carry_out(struct firing *firing, const struct asf_firing *asf, const struct asf_verdict *verdict,
                     struct error *err)
{
    if (verdict->attempt[0] && close_attempt(firing, asf, verdict->attempt, err) < 0)
        return -1;
    if (verdict->kind == ASF_AGAIN)
        return again(firing, asf, verdict->delay_ns, err);
    if (verdict->kind == ASF_CAUGHT)
        return catch (firing, asf, verdict, err);
    return pass_on(firing, asf, &verdict->failure, err);
}

static int fire(const void *state, struct firing *firing, struct error *err)
{
    struct asf_firing asf;
    const struct asf_verdict *verdict = asf_firing_verdict(firing);
    (void)state;
    if (!verdict)
        return error_set(err, ERROR_INVALID, "the action AWS_ASF_CATCH needs the condition AWS_ASF_CATCH");
    int r = asf_firing_read(&asf, firing, err);
    if (r == 0)
        r = carry_out(firing, &asf, verdict, err);
    asf_firing_done(&asf);
    return r;
}

static int check_context(const struct json_value *context, struct error *err)
{
    struct json_value state, subject;
    struct catch *rules;
    if (!json_member(context, "State", &state) || state.type != JSON_OBJECT)
        return error_set(err, ERROR_INVALID, "context.State is missing, or not an object");
    if (!json_member(context, "Subject", &subject) || subject.type != JSON_STRING || !subject.len)
        return error_set(err, ERROR_INVALID, "context.Subject is not the name of a state");
    if (catch_load(&state, &rules, err) < 0)
        return error_prefix(err, "context.State");
    catch_free(rules);
    return 0;
}

extern const struct action_type action_aws_asf_catch;

const struct action_type action_aws_asf_catch = {
    .name = "AWS_ASF_CATCH", .load = load, .unload = unload, .fire = fire, .check_context = check_context};
