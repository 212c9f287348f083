/* The OpenAPI document of the trigger API: supervisor/openapi.json, as it stands in the program. That it
 * names exactly the routes there are is tested (tests/test_openapi.c). Thread: any. */
#pragma once

#include <stddef.h>

/* The text, JSON, not NUL-terminated. */
const char *openapi_document(size_t *ret_len);
