/* Trying a trigger on an event: what it would do, with the real condition and action, and nothing done.
 * Thread: one at a time. */
#pragma once

struct buffer;
struct error;
struct json_value;

/* Of a request {"trigger":{as stored},"event":{CloudEvent}} appends
 *
 *     {"matched","holds","fires","removed","detail","context":{after},"action":{"name","effects":[...]}}
 *
 * An effect is {"event_source":NAME or null,"event":{...}}, null for the workflow itself, or {"finish":true}.
 * For the ids of events to be those of the next firing the request also has "workspace", "creation" (the
 * workspace's creation value) and "firings" (so far). What has fired and which idempotency keys were counted
 * is not known here; detail says so where it matters. Errors: ERROR_INVALID: the trigger, or the event, is
 * none. */
int trial_run(const struct json_value *request, struct buffer *out, struct error *err);
