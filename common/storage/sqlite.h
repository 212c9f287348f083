/* Storage in SQLite files, the embedded default: see sqlite_internal.h. */
#pragma once

#include "common/storage/storage.h"

extern const struct storage_type storage_sqlite;
