#include "worker/source/kafka_log.h"

#include <string.h>

#include "common/log.h"

#define SYSLOG_WARNING 4

void kafka_log(const char *source, int level, const char *facility, const char *text)
{
    if (!strcmp(facility, "CONFWARN") || !strcmp(facility, "AUTOCREATE"))
        return;
    if (level <= SYSLOG_WARNING)
        log_warn("kafka", LOG_STR("source", source), LOG_STR("facility", facility), LOG_STR("detail", text));
    else
        log_debug("kafka", LOG_STR("source", source), LOG_STR("facility", facility), LOG_STR("detail", text));
}
