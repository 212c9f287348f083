/* PASS does nothing; TERMINATE ends the workflow. */
#include "worker/action/action.h"

static int load_nothing(const struct json_value *action, void **ret_state, struct error *err)
{
    (void)action;
    (void)err;
    *ret_state = NULL;
    return 0;
}

static void unload_nothing(void *state)
{
    (void)state;
}

static int fire_pass(const void *state, struct firing *firing, struct error *err)
{
    (void)state;
    (void)firing;
    (void)err;
    return 0;
}

static int fire_terminate(const void *state, struct firing *firing, struct error *err)
{
    (void)state;
    (void)err;
    firing_finish(firing);
    return 0;
}

extern const struct action_type action_pass;
extern const struct action_type action_terminate;

const struct action_type action_pass = {
    .name = "PASS", .load = load_nothing, .unload = unload_nothing, .fire = fire_pass};
const struct action_type action_terminate = {
    .name = "TERMINATE", .load = load_nothing, .unload = unload_nothing, .fire = fire_terminate};
