/* What is told of an invocation that has ended: the event for the workflow, and the members of the dead
 * letter; both are put into the intent. Thread: executor. */
#pragma once

struct buffer;
struct error;
struct http_answer;
struct invocation;

/* The reply, if there is one. Errors: as invocation_type.reply says; ERROR_MEMORY. */
int invocation_report_done(const struct invocation *invocation, const struct http_answer *answer,
                           struct error *err);
/* Appends ,"status":N,"body":... as the dead letter shows an answer. */
void invocation_explain_answer(const struct http_answer *answer, struct buffer *out);
/* The failure event, if the intent's body has a `subject`, and the members "request" and "answer" of the dead
 * letter. answer NULL: there was none. */
void invocation_report_failed(const struct invocation *invocation, const struct http_answer *answer,
                              const struct error *why);
