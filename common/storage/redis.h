/* Workspaces in Redis (see redis.c). */
#pragma once

#include "common/storage/storage.h"

extern const struct storage_type storage_redis;
