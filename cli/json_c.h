/* json-c for files that also use common/json.h: both have an enum json_type, which here is json_c_type for
 * json-c's. */
#pragma once

#define json_type json_c_type
#include <json-c/json.h>
#undef json_type
