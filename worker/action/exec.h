/* EXEC, in two parts: exec.c loads and fires, exec_run.c runs what was committed. The intent's body between
 * them:
 *
 *     {"argv":[...], "env":{name: text or secret}, "event":{...}, "input":"event"|"data"|"none",
 *      "memory", "processes", "output_bytes", "output":"text"|"json",
 *      "reply"?:{"type","subject"}, "subject", "policy"} */
#pragma once

struct executor;
struct intent;

/* action_type.start */
void exec_start(struct executor *executor, struct intent *intent);
