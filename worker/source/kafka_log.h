/* librdkafka's log lines in ours, and its reasons. Thread: any. */
#pragma once

#include <stdbool.h>

#include <librdkafka/rdkafka.h>

/* level: of syslog. untold: whether nothing of ours tells what fails: the state of a source that does not
 * read, or a warning, does so once. */
void kafka_log(const char *source, int level, const char *facility, const char *text, bool untold);

/* Copies a reason of an error callback without what makes it another one each time: "(after 3ms in state
 * CONNECT, 4 identical error(s) suppressed)". */
void kafka_reason(char *to, size_t size, const char *reason);
