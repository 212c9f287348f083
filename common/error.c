#include "common/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *err, enum error_code code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->code = code;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
    }
    return -1;
}

int error_set_errno(struct error *err, int errnum, const char *format, ...)
{
    if (err) {
        char text[80];
        va_list args;
        va_start(args, format);
        err->code = errnum == ENOMEM ? ERROR_MEMORY : ERROR_SYSTEM;
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %s",
                 strerror_r(errnum, text, sizeof text));
    }
    return -1;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (err) {
        char inner[sizeof err->message];
        va_list args;
        memcpy(inner, err->message, sizeof inner);
        va_start(args, format);
        vsnprintf(err->message, sizeof err->message, format, args);
        va_end(args);
        size_t used = strlen(err->message);
        snprintf(err->message + used, sizeof err->message - used, ": %s", inner);
    }
    return -1;
}

const char *error_code_name(enum error_code code)
{
    switch (code) {
    case ERROR_NONE:
        return "none";
    case ERROR_MEMORY:
        return "memory";
    case ERROR_SYSTEM:
        return "system";
    case ERROR_INVALID:
        return "invalid";
    case ERROR_NOT_FOUND:
        return "not_found";
    case ERROR_EXISTS:
        return "exists";
    case ERROR_FENCED:
        return "fenced";
    case ERROR_UNAVAILABLE:
        return "unavailable";
    case ERROR_REFUSED:
        return "refused";
    case ERROR_LIMIT:
        return "limit";
    case ERROR_NO_SPACE:
        return "no_space";
    }
    return "unknown";
}
