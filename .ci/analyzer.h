/* Included first when clang-tidy reads a source: it sees one file at a time, and so does not know that the
 * error functions return -1. */
#pragma once

#include "common/error.h"

#define error_set(...) (error_set(__VA_ARGS__), -1)
#define error_set_errno(...) (error_set_errno(__VA_ARGS__), -1)
#define error_prefix(...) (error_prefix(__VA_ARGS__), -1)
