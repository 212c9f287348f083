/* Workspaces in SQLite, the embedded default: <state_directory>/triggerflow.db lists the workspaces and the
 * users, <state_directory>/workspaces/<name>.db has all that a workspace is. Thread: one at a time for each
 * handle; handles of any processes may use the same directory.
 *
 * Durable: WAL mode with synchronous=FULL, so a commit is one sequential write and one sync of the log. It is
 * atomic by SQLite, within one file. No call changes two files but create and remove, and these are safe
 * wherever they are cut off:
 *
 * - A workspace exists when the list has it. The list is changed last by create and, but for the removal of
 *   files, by remove.
 * - create: builds the file whole under the name `new`, syncs it, removes what is left over under the
 *   workspace's name, renames, syncs the folder, and inserts into the list. Cut off before the last step, it
 *   leaves a file that nobody lists: it is not opened, and the next create of the name replaces it.
 * - remove: takes the writer away from the workspace's state (from here on its worker is fenced), deletes
 *   from the list, unlinks the files. Cut off after the first step the workspace is whole, and its worker
 *   claims it again; after the second there are leftovers as above, which are fenced.
 * - Both do so under the directory's exclusive lock (sqlite_directory.c), which whoever opens a file or
 *   claims a workspace holds shared: so none of them sees the middle, and of two creates one wins.
 * - A worker that still has an older file open finds before each call that the name has another file or none
 *   (HAS_MOVED: one stat), opens that, and finds in its state another creation or writer: it is fenced.
 *
 * A handle opens files when they are first used, hence after the fork, and keeps the last SQLITE_FILES_MAX. A
 * file whose use has failed is opened anew by the next call: so it recovers by itself. */
#include "common/storage/sqlite.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config.h"
#include "common/error.h"
#include "common/storage/sqlite_internal.h"

/* ---- the open files ---- */

/* The last connection to a file moves its log into it and removes the log; not when others may make or
 * remove files meanwhile. */
static void close_file(struct sqlite_storage *s, struct sqlite_file *file)
{
    if (sqlite_directory_lock(s, SQLITE_SHARED, NULL) < 0)
        sqlite3_db_config(file->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    sqlite_file_close(file);
    sqlite_directory_unlock(s);
}

static struct sqlite_file *take_out(struct sqlite_storage *s, size_t i)
{
    struct sqlite_file *file = s->files[i];
    s->files[i] = s->files[--s->n_files];
    return file;
}

static size_t find_open(const struct sqlite_storage *s, const char *workspace)
{
    size_t i = 0;
    while (i < s->n_files && strcmp(s->files[i]->workspace, workspace) != 0)
        i++;
    return i;
}

static void make_room(struct sqlite_storage *s)
{
    if (s->n_files < SQLITE_FILES_MAX)
        return;
    size_t oldest = 0;
    for (size_t i = 1; i < s->n_files; i++)
        if (s->files[i]->used < s->files[oldest]->used)
            oldest = i;
    struct sqlite_file *file = take_out(s, oldest);
    /* Who goes through many workspaces does not wait for two syncs at each: the log stays, and who opens the
     * file next reads it. It is bounded, as it is while the file is open. */
    sqlite3_db_config(file->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    close_file(s, file);
}

void sqlite_forget(struct sqlite_storage *s, const char *workspace)
{
    size_t i = find_open(s, workspace);
    if (i < s->n_files)
        sqlite_file_close(take_out(s, i));
}

/* ---- the list ---- */

static int open_list(struct sqlite_storage *s, struct error *err)
{
    char *path = sqlite_directory_path(s, "");
    if (!path)
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    struct sqlite_file *file = NULL;
    int rc = sqlite_file_open(s, path, "", &file, err);
    if (rc > 0)
        rc = sqlite_directory_build(s, "", NULL, NULL, err) < 0 ? -1
                                                                : sqlite_file_open(s, path, "", &file, err);
    if (rc > 0)
        rc = error_set(err, ERROR_UNAVAILABLE, "%s: it vanished while it was made", path);
    free(path);
    if (rc == 0)
        rc = sqlite_file_check(file, err);
    if (rc < 0)
        sqlite_file_close(file);
    else
        s->list = file;
    return rc;
}

int sqlite_list(struct sqlite_storage *s, struct sqlite_file **ret_list, struct error *err)
{
    if (s->list && sqlite_file_outdated(s->list)) {
        close_file(s, s->list);
        s->list = NULL;
    }
    if (!s->list) {
        if (sqlite_directory_open(s, err) < 0 || sqlite_directory_lock(s, SQLITE_EXCLUSIVE, err) < 0)
            return -1;
        int rc = open_list(s, err);
        sqlite_directory_unlock(s);
        if (rc < 0)
            return -1;
    }
    *ret_list = s->list;
    return 0;
}

static int see_creation(void *data, const char *key, size_t key_len, const char *value, size_t len)
{
    char *creation = data;
    (void)key, (void)key_len;
    snprintf(creation, 64, "%.*s", len < 63 ? (int)len : 63, value);
    return 0;
}

int sqlite_listed(struct sqlite_storage *s, const char *workspace, char ret_creation[64], struct error *err)
{
    return sqlite_rows_get(s->list, SQLITE_WORKSPACES, workspace, strlen(workspace), see_creation,
                           ret_creation, err);
}

/* ---- workspaces ---- */

/* That the file is the one that the list means: backups may have been mixed. */
static int look_into(struct sqlite_file *file, struct error *err)
{
    struct sqlite_state state;
    if (sqlite_file_check(file, err) < 0 || sqlite_state_read(file, &state, err) < 0)
        return -1;
    if (strcmp(state.creation, file->creation) != 0)
        return error_set(err, ERROR_REFUSED,
                         "%s is of the workspace created at %s, but the list has one created at %s: restore "
                         "both from one backup, or delete the workspace",
                         file->path, state.creation, file->creation);
    return 0;
}

/* Requires: the directory's lock. */
static int open_workspace(struct sqlite_storage *s, const char *workspace, struct error *err)
{
    char creation[64];
    struct sqlite_file *file = NULL;
    int rc = sqlite_listed(s, workspace, creation, err);
    if (rc != 0)
        return rc;
    char *path = sqlite_directory_path(s, workspace);
    if (!path)
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    rc = sqlite_file_open(s, path, workspace, &file, err);
    if (rc > 0)
        rc = error_set(err, ERROR_REFUSED, "%s is missing: restore a backup, or delete the workspace", path);
    free(path);
    if (rc == 0) {
        memcpy(file->creation, creation, sizeof creation);
        rc = look_into(file, err);
    }
    if (rc < 0) {
        sqlite_file_close(file);
        return -1;
    }
    s->files[s->n_files++] = file;
    return 0;
}

int sqlite_workspace(struct sqlite_storage *s, const char *workspace, struct sqlite_file **ret_file,
                     struct error *err)
{
    struct sqlite_file *list;
    if (!storage_name_valid(workspace))
        return error_set(err, ERROR_INVALID, "\"%.60s\" is no name of a workspace", workspace);
    size_t i = find_open(s, workspace);
    if (i < s->n_files && sqlite_file_outdated(s->files[i])) {
        close_file(s, take_out(s, i));
        i = s->n_files;
    }
    if (i == s->n_files) {
        make_room(s);
        i = s->n_files;
        if (sqlite_list(s, &list, err) < 0 || sqlite_directory_lock(s, SQLITE_SHARED, err) < 0)
            return -1;
        int rc = open_workspace(s, workspace, err);
        sqlite_directory_unlock(s);
        if (rc != 0)
            return rc;
    }
    s->files[i]->used = ++s->uses;
    *ret_file = s->files[i];
    return 0;
}

int sqlite_workspace_locked(struct sqlite_storage *s, const char *workspace, struct sqlite_file **ret_file,
                            struct error *err)
{
    char creation[64];
    struct sqlite_file *list;
    struct sqlite_file *file;
    for (;;) {
        int rc = sqlite_list(s, &list, err) < 0 ? -1 : sqlite_workspace(s, workspace, &file, err);
        if (rc != 0)
            return rc;
        if (sqlite_directory_lock(s, SQLITE_SHARED, err) < 0)
            return -1;
        if (sqlite_file_outdated(file) || sqlite_file_outdated(list)) { /* removed just now */
            sqlite_directory_unlock(s);
            continue;
        }
        rc = sqlite_listed(s, workspace, creation, err);
        if (rc == 0) {
            *ret_file = file;
            return 0;
        }
        sqlite_directory_unlock(s);
        return rc;
    }
}

static int sqlite_workspaces(struct storage *storage, storage_field field, void *data, struct error *err)
{
    struct sqlite_file *list;
    if (sqlite_list((struct sqlite_storage *)storage, &list, err) < 0)
        return -1;
    return sqlite_rows_load(list, SQLITE_WORKSPACES, field, data, err);
}

static int sqlite_workspace_exists(struct storage *storage, const char *workspace, struct error *err)
{
    char creation[64];
    struct sqlite_file *list;
    if (sqlite_list((struct sqlite_storage *)storage, &list, err) < 0)
        return -1;
    return sqlite_listed((struct sqlite_storage *)storage, workspace, creation, err);
}

static int sqlite_load(struct storage *storage, const char *workspace, enum storage_set set,
                       storage_field field, void *data, struct error *err)
{
    struct sqlite_file *file;
    int rc = sqlite_workspace((struct sqlite_storage *)storage, workspace, &file, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    return sqlite_rows_load(file, (int)set, field, data, err);
}

static int sqlite_get(struct storage *storage, const char *workspace, enum storage_set set,
                      const char *const *keys, size_t n_keys, storage_field field, void *data,
                      struct error *err)
{
    struct sqlite_file *file;
    int rc = sqlite_workspace((struct sqlite_storage *)storage, workspace, &file, err);
    if (rc != 0)
        return rc < 0 ? -1 : 0;
    for (size_t i = 0; i < n_keys; i++) {
        rc = sqlite_rows_get(file, (int)set, keys[i], strlen(keys[i]), field, data, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* ---- users ---- */

static int sqlite_users(struct storage *storage, storage_field field, void *data, struct error *err)
{
    struct sqlite_file *list;
    if (sqlite_list((struct sqlite_storage *)storage, &list, err) < 0)
        return -1;
    return sqlite_rows_load(list, SQLITE_USERS, field, data, err);
}

static int sqlite_user_put(struct storage *storage, const char *user, const char *digest, struct error *err)
{
    struct sqlite_file *list;
    if (sqlite_list((struct sqlite_storage *)storage, &list, err) < 0)
        return -1;
    if (digest)
        return sqlite_rows_put(list, SQLITE_USERS, user, strlen(user), digest, strlen(digest), err);
    return sqlite_rows_delete(list, SQLITE_USERS, user, strlen(user), err);
}

/* ---- opening ---- */

static void sqlite_close(struct storage *storage)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    while (s->n_files)
        close_file(s, take_out(s, s->n_files - 1));
    if (s->list)
        close_file(s, s->list);
    if (s->directory_fd >= 0)
        close(s->directory_fd);
    if (s->turns_fd >= 0)
        close(s->turns_fd);
    if (s->watch_fd >= 0)
        close(s->watch_fd);
    free(s->directory);
    free(s->configured);
    free(s);
}

/* The statistics of its allocator would make all threads wait for each other. */
static void prepare_library(void)
{
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
}

static int sqlite_open(const struct config *config, const char *client_name, struct storage **ret_storage,
                       struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)client_name;
    pthread_once(&once, prepare_library);
    struct sqlite_storage *s = calloc(1, sizeof *s);
    if (s)
        s->configured = strdup(config->state_directory);
    if (!s || !s->configured) {
        free(s);
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    }
    s->head.type = &storage_sqlite;
    s->directory_fd = s->turns_fd = s->watch_fd = -1;
    s->watch_every_ns = config->trigger_refresh_ns;
    *ret_storage = &s->head;
    return 0;
}

const struct storage_type storage_sqlite = {
    .name = "sqlite",
    .open = sqlite_open,
    .close = sqlite_close,
    .workspaces = sqlite_workspaces,
    .workspace_exists = sqlite_workspace_exists,
    .claim = sqlite_storage_claim,
    .load = sqlite_load,
    .get = sqlite_get,
    .commit = sqlite_storage_commit,
    .watch = sqlite_storage_watch,
    .watch_read = sqlite_storage_watch_read,
    .log_append = sqlite_storage_log_append,
    .log_read = sqlite_storage_log_read,
    .log_ids = sqlite_storage_log_ids,
    .create = sqlite_storage_create,
    .remove = sqlite_storage_remove,
    .edit = sqlite_storage_edit,
    .users = sqlite_users,
    .user_put = sqlite_user_put,
};
