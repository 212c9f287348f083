/* What the trigger API changes in SQLite: workspaces and their fields. The order of the steps, and why, is in
 * sqlite.c. Thread: one at a time. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/storage/sqlite_internal.h"

/* ---- create ---- */

struct contents {
    const char *creation;
    const struct storage_op *ops;
    size_t n_ops;
};

static int fill(struct sqlite_storage *s, struct sqlite_file *file, void *data, struct error *err)
{
    const struct contents *contents = data;
    struct sqlite_state state = {.epoch = 0};
    char insert[80];
    (void)s;
    snprintf(state.creation, sizeof state.creation, "%s", contents->creation);
    snprintf(insert, sizeof insert, "INSERT INTO state VALUES(%d, '', 0, '', 0)", STORAGE_FORMAT);
    if (sqlite_file_run(file, insert, err) < 0 || sqlite_state_write(file, &state, err) < 0)
        return -1;
    for (size_t i = 0; i < contents->n_ops; i++)
        if (sqlite_rows_apply(file, &contents->ops[i], err) < 0)
            return -1;
    return 0;
}

/* Requires: the exclusive lock. */
static int create(struct sqlite_storage *s, const char *workspace, struct contents *contents,
                  struct error *err)
{
    char creation[64];
    int rc = sqlite_listed(s, workspace, creation, err);
    if (rc <= 0)
        return rc < 0 ? -1 : STORAGE_EXISTS;
    sqlite_forget(s, workspace);
    if (sqlite_directory_build(s, workspace, fill, contents, err) < 0)
        return -1;
    return sqlite_rows_put(s->list, SQLITE_WORKSPACES, workspace, strlen(workspace), contents->creation,
                           strlen(contents->creation), err);
}

int sqlite_storage_create(struct storage *storage, const char *workspace, const char *creation,
                          const struct storage_op *ops, size_t n_ops, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct contents contents = {creation, ops, n_ops};
    struct sqlite_file *list;
    if (!storage_name_valid(workspace))
        return error_set(err, ERROR_INVALID, "\"%.60s\" is no name of a workspace", workspace);
    if (!creation[0] || strlen(creation) >= sizeof((struct sqlite_state *)0)->creation)
        return error_set(err, ERROR_INVALID, "\"%.70s\" is no creation value", creation);
    if (sqlite_list(s, &list, err) < 0 || sqlite_directory_lock(s, SQLITE_EXCLUSIVE, err) < 0)
        return -1;
    int rc = create(s, workspace, &contents, err);
    sqlite_directory_unlock(s);
    return rc;
}

/* ---- remove ---- */

/* No commit to this file succeeds from here on. Best effort: a file that cannot be written to (damaged,
 * missing, the disk is full) must not keep a workspace from being removed, and its worker cannot commit to it
 * either, or finds at its next call that it was unlinked. Only who just waits may be waited for. */
static int fence(struct sqlite_storage *s, const char *workspace, const char *path, struct error *err)
{
    struct error own = {.code = ERROR_NONE};
    struct sqlite_state state;
    struct sqlite_file *file = NULL;
    int rc = sqlite_file_open(s, path, workspace, &file, &own);
    if (rc == 0) {
        rc = sqlite_file_begin(s, file, &own);
        if (rc == 0)
            rc = sqlite_state_read(file, &state, &own);
        state.writer[0] = '\0';
        if (rc == 0 && sqlite_state_write(file, &state, &own) == 0)
            rc = sqlite_file_commit(file, &own);
        sqlite_file_rollback(file);
        sqlite_file_close(file);
    }
    if (rc >= 0 || own.code != ERROR_UNAVAILABLE)
        return 0;
    if (err)
        *err = own;
    return -1;
}

/* Requires: the exclusive lock. */
static int remove_workspace(struct sqlite_storage *s, const char *workspace, struct error *err)
{
    char creation[64];
    int rc = sqlite_listed(s, workspace, creation, err);
    if (rc != 0)
        return rc;
    char *path = sqlite_directory_path(s, workspace);
    if (!path)
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    sqlite_forget(s, workspace);
    rc = fence(s, workspace, path, err);
    if (rc == 0)
        rc = sqlite_rows_delete(s->list, SQLITE_WORKSPACES, workspace, strlen(workspace), err);
    if (rc == 0)
        (void)sqlite_directory_remove(path,
                                      NULL); /* what stays is unlisted, and replaced by the next create */
    free(path);
    return rc;
}

int sqlite_storage_remove(struct storage *storage, const char *workspace, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *list;
    if (!storage_name_valid(workspace))
        return error_set(err, ERROR_INVALID, "\"%.60s\" is no name of a workspace", workspace);
    if (sqlite_list(s, &list, err) < 0 || sqlite_directory_lock(s, SQLITE_EXCLUSIVE, err) < 0)
        return -1;
    int rc = remove_workspace(s, workspace, err);
    sqlite_directory_unlock(s);
    return rc;
}

/* ---- edit ---- */

static int apply_all(struct sqlite_storage *s, struct sqlite_file *file, const struct storage_op *ops,
                     size_t n_ops, int *ret_results, struct error *err)
{
    if (sqlite_file_begin(s, file, err) < 0)
        return -1;
    for (size_t i = 0; i < n_ops; i++) {
        ret_results[i] = sqlite_rows_apply(file, &ops[i], err);
        if (ret_results[i] < 0)
            return -1;
    }
    return sqlite_file_commit(file, err);
}

int sqlite_storage_edit(struct storage *storage, const char *workspace, const struct storage_op *ops,
                        size_t n_ops, int *ret_results, struct error *err)
{
    struct sqlite_storage *s = (struct sqlite_storage *)storage;
    struct sqlite_file *file;
    for (size_t i = 0; i < n_ops; i++)
        assert(ops[i].set != STORAGE_CHECKPOINT && ops[i].set != STORAGE_OUTBOX &&
               ops[i].set != STORAGE_INTERNAL);
    int rc = sqlite_workspace_locked(s, workspace, &file, err);
    if (rc != 0)
        return rc;
    rc = apply_all(s, file, ops, n_ops, ret_results, err);
    sqlite_file_rollback(file);
    sqlite_directory_unlock(s);
    return rc;
}
