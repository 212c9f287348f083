/* DOCKER and DOCKER_IMAGE, as conditions and as actions: the function in the image's container (containers.h)
 * is given the trigger's context and the event, and answers with members for the context, and, as a
 * condition, with its verdict. docker.c loads and asks, docker_run.c runs what was committed;
 * worker/shard/waiting.h has how a trigger waits for the answer.
 *
 *     {"name":"DOCKER", "image", "script", and the policy's members (worker/executor/invocation_policy.h)}
 *     {"name":"DOCKER_IMAGE", "image", ...}       the function is in the image
 *
 *     POST /actions/{trigger}, or /condition/{trigger}    the script; once for each container and trigger
 *     GET  /actions/{trigger}/run, or /condition/...      {"context":{...},"event":{...}}
 *                          answered by {"context":{changed members}, "result": bool (conditions)}
 *
 * The intent's body: {"evaluates"?:true, "image", "script"?, "trigger": identity, "last"?:true, "subject"?,
 * "context", "event", "policy"}. */
#pragma once

struct error;
struct executor;
struct injection;
struct intent;

/* action_type.start and gave_up */
void docker_start(struct executor *executor, struct intent *intent);
int docker_gave_up(const struct intent *intent, struct injection *injection, struct error *err);
