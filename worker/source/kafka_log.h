/* librdkafka's log lines in ours. Thread: any. */
#pragma once

#include <librdkafka/rdkafka.h>

/* level: of syslog. */
void kafka_log(const char *source, int level, const char *facility, const char *text);
