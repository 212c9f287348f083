/* Workspaces in SQLite files (see sqlite.c). */
#pragma once

#include "common/storage/storage.h"

extern const struct storage_type storage_sqlite;
