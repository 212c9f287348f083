/* See openapi.h. */
#include "supervisor/openapi.h"

extern const char openapi_begin[] __attribute__((visibility("hidden")));
extern const char openapi_end[] __attribute__((visibility("hidden")));

__asm__(".pushsection .rodata\n"
        "openapi_begin:\n"
        ".incbin \"supervisor/openapi.json\"\n"
        "openapi_end:\n"
        ".popsection\n");

const char *openapi_document(size_t *ret_len)
{
    *ret_len = (size_t)(openapi_end - openapi_begin);
    return openapi_begin;
}
