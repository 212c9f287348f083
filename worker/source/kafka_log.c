#include "worker/source/kafka_log.h"

#include <stdio.h>
#include <string.h>

#include "common/log.h"

#define SYSLOG_WARNING 4

void kafka_log(const char *source, int level, const char *facility, const char *text, bool untold)
{
    if (!strcmp(facility, "CONFWARN") || !strcmp(facility, "AUTOCREATE"))
        return;
    if (level <= SYSLOG_WARNING && (untold || strcmp(facility, "FAIL") != 0))
        log_warn("kafka", LOG_STR("source", source), LOG_STR("facility", facility), LOG_STR("detail", text));
    else
        log_debug("kafka", LOG_STR("source", source), LOG_STR("facility", facility), LOG_STR("detail", text));
}

void kafka_reason(char *to, size_t size, const char *reason)
{
    const char *end = strstr(reason, " (after ");
    size_t len = end ? (size_t)(end - reason) : strlen(reason);
    snprintf(to, size, "%.*s", (int)(len < size ? len : size), reason);
}
