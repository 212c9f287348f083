/* The state directory of the SQLite back end: that it is safe, its lock, and the making and removing of
 * database files in it. Thread: one at a time.
 *
 * The lock is the directory's flock, which dies with its process. Whoever makes or removes files holds it
 * exclusively; whoever opens or closes one holds it shared, for the moment. So a database is never opened
 * together with the write-ahead log of another incarnation, and the last connection to an incarnation never
 * removes the log of the next one (SQLite finds both by name).
 *
 * Who wants to write to a workspace holds, while it waits for SQLite's lock of it, a byte of the file `turns`
 * (it stays empty). SQLite's waiting is asking again now and then: without this a thread that writes again at
 * once, as the event log's does, would hardly ever let another one in. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/storage/sqlite_internal.h"

#define WAIT_NS (10 * CLOCK_S)
#define WORKSPACES_DIRECTORY "workspaces"
#define TURNS_FILE "turns"

bool sqlite_wait(struct sqlite_storage *s, unsigned attempt)
{
    uint64_t now = clock_now_ns();
    if (attempt == 0)
        s->wait_since_ns = s->beat_ns = now;
    if (now - s->wait_since_ns >= WAIT_NS)
        return false;
    if (now - s->beat_ns >= CLOCK_S && s->head.heartbeat) {
        s->head.heartbeat(s->head.heartbeat_data);
        s->beat_ns = now;
    }
    long ns = attempt < 20 ? 30000 : attempt < 100 ? 300000 : 5000000;
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
    return true;
}

/* ---- taking turns ---- */

static struct flock turn(const char *workspace, short type)
{
    uint64_t place = sqlite_sum("", 0, workspace, strlen(workspace));
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)(place >> 2), .l_len = 1};
}

int sqlite_directory_queue(struct sqlite_storage *s, const char *workspace, struct error *err)
{
    struct flock lock = turn(workspace, F_WRLCK);
    for (unsigned attempt = 0; fcntl(s->turns_fd, F_OFD_SETLK, &lock) < 0; attempt++)
        if (errno != EINTR && errno != EAGAIN && errno != EACCES)
            return error_set_errno(err, errno, "%s: " TURNS_FILE, s->directory);
        else if (!sqlite_wait(s, attempt))
            return error_set(err, ERROR_UNAVAILABLE,
                             "workspace %s: others have waited to write before us for too long", workspace);
    return 0;
}

void sqlite_directory_unqueue(struct sqlite_storage *s, const char *workspace)
{
    struct flock lock = turn(workspace, F_UNLCK);
    (void)fcntl(s->turns_fd, F_OFD_SETLK, &lock);
}

/* ---- the directory ---- */

/* What a failed system call on a path means for the caller. */
static int refused(int errnum, struct error *err, const char *path)
{
    error_set_errno(err, errnum, "%s", path);
    if (err)
        err->code = errnum == ENOMEM                                          ? ERROR_MEMORY
                    : errnum == ENOSPC || errnum == EDQUOT || errnum == EROFS ? ERROR_NO_SPACE
                    : errnum == EMFILE || errnum == ENFILE || errnum == EIO   ? ERROR_UNAVAILABLE
                                                                              : ERROR_REFUSED;
    return -1;
}

static int sync_directory(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    int errnum = errno;
    if (fd >= 0)
        close(fd);
    return rc < 0 ? refused(errnum, err, path) : 0;
}

/* Makes one directory if it is absent; its entry is durable. */
static int make_one(const char *path, struct error *err)
{
    char parent[PATH_MAX];
    if (mkdir(path, 0700) < 0)
        return errno == EEXIST ? 0 : refused(errno, err, path);
    snprintf(parent, sizeof parent, "%s/..", path);
    return sync_directory(parent, err);
}

static int make_all(const char *path, struct error *err)
{
    char part[PATH_MAX - 4];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return error_set(err, ERROR_INVALID, "the state directory \"%.100s\" has no usable path", path);
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        struct stat st;
        if (stat(part, &st) < 0 && make_one(part, err) < 0)
            return -1;
    }
    return 0;
}

/* Others could replace the files of a directory that they may write to. */
static int look_at(const char *path, struct error *err)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return refused(errno, err, path);
    if (!S_ISDIR(st.st_mode))
        return error_set(err, ERROR_REFUSED, "the state directory %s is no directory", path);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(err, ERROR_REFUSED,
                         "the state directory %s may be written to by others (mode %04o): chmod go-w it",
                         path, (unsigned)st.st_mode & 07777);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return error_set(err, ERROR_REFUSED,
                         "the state directory %s belongs to another user (uid %u, ours is %u)", path,
                         (unsigned)st.st_uid, (unsigned)geteuid());
    return 0;
}

int sqlite_directory_open(struct sqlite_storage *s, struct error *err)
{
    char path[PATH_MAX];
    char workspaces[PATH_MAX + sizeof "/" WORKSPACES_DIRECTORY];
    if (s->directory)
        return 0;
    if (make_all(s->configured, err) < 0)
        return -1;
    if (!realpath(s->configured, path))
        return refused(errno, err, s->configured);
    snprintf(workspaces, sizeof workspaces, "%s/" WORKSPACES_DIRECTORY, path);
    if (look_at(path, err) < 0 || make_one(workspaces, err) < 0 || look_at(workspaces, err) < 0)
        return -1;
    if (s->directory_fd < 0)
        s->directory_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->directory_fd >= 0 && s->turns_fd < 0)
        s->turns_fd = openat(s->directory_fd, TURNS_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->turns_fd < 0)
        return refused(errno, err, path);
    s->directory = strdup(path);
    return s->directory ? 0 : error_set(err, ERROR_MEMORY, "out of memory for the storage");
}

int sqlite_directory_lock(struct sqlite_storage *s, enum sqlite_lock lock, struct error *err)
{
    int operation = (lock == SQLITE_EXCLUSIVE ? LOCK_EX : LOCK_SH) | LOCK_NB;
    for (unsigned attempt = 0; flock(s->directory_fd, operation) < 0; attempt++) {
        if (errno == EINTR)
            continue;
        if (errno != EWOULDBLOCK)
            return refused(errno, err, s->directory);
        if (!sqlite_wait(s, attempt))
            return error_set(err, ERROR_UNAVAILABLE, "%s: another process holds the directory's lock",
                             s->directory);
    }
    return 0;
}

void sqlite_directory_unlock(struct sqlite_storage *s)
{
    flock(s->directory_fd, LOCK_UN);
}

char *sqlite_directory_path(const struct sqlite_storage *s, const char *workspace)
{
    char *path = NULL;
    int rc = *workspace ? asprintf(&path, "%s/" WORKSPACES_DIRECTORY "/%s.db", s->directory, workspace)
                        : asprintf(&path, "%s/triggerflow.db", s->directory);
    return rc < 0 ? NULL : path;
}

/* ---- making and removing files ---- */

#define FIELDS(name) "CREATE TABLE " name "(key TEXT NOT NULL UNIQUE, value TEXT NOT NULL, sum INTEGER);"

static const char list_schema[] = FIELDS("workspaces") FIELDS("users");
static const char workspace_schema[] = FIELDS("triggers") FIELDS("event_sources") FIELDS("global_context")
    FIELDS("checkpoint") FIELDS("outbox") FIELDS("internal") FIELDS("timers") FIELDS(
        "dead_letters") "CREATE TABLE state(format INTEGER NOT NULL, creation TEXT NOT NULL, epoch INTEGER "
                        "NOT NULL,"
                        " writer TEXT NOT NULL, sum INTEGER);"
                        "CREATE TABLE events(number INTEGER PRIMARY KEY, events BLOB NOT NULL, sum INTEGER);"
                        "CREATE TABLE event_ids(number INTEGER PRIMARY KEY, writer TEXT NOT NULL, ids BLOB "
                        "NOT NULL,"
                        " sum INTEGER);";

/* The database first: what is left of it after a crash, nobody opens, and the next database of this name is
 * put in place only after all of it is gone: one must never meet the log of another. */
int sqlite_directory_remove(const char *path, struct error *err)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char name[PATH_MAX + 16];
    for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
        snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
        if (unlink(name) < 0 && errno != ENOENT)
            return refused(errno, err, name);
    }
    return 0;
}

static int fill_new(struct sqlite_storage *s, struct sqlite_file *file,
                    int (*fill)(struct sqlite_storage *s, struct sqlite_file *file, void *data,
                                struct error *err),
                    void *data, struct error *err)
{
    char version[96];
    snprintf(version, sizeof version, "PRAGMA application_id=%d; PRAGMA user_version=%d;",
             SQLITE_APPLICATION_ID, STORAGE_FORMAT);
    if (sqlite_file_run(file, "PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; BEGIN IMMEDIATE;", err) <
            0 ||
        sqlite_file_run(file, *file->workspace ? workspace_schema : list_schema, err) < 0 ||
        sqlite_file_run(file, version, err) < 0 || (fill && fill(s, file, data, err) < 0))
        return -1;
    return sqlite_file_run(file, "COMMIT; PRAGMA journal_mode=WAL;", err);
}

static int sync_file(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    int rc = fd < 0 ? -1 : fsync(fd);
    int errnum = errno;
    if (fd >= 0)
        close(fd);
    return rc < 0 ? refused(errnum, err, path) : 0;
}

/* Under a name of its own, and unsynchronised: it counts only once it is whole and has its own name. No
 * connection is open to it when it is opened here for its fsync (closing it would drop SQLite's locks). */
static int build_new(struct sqlite_storage *s, const char *path, const char *workspace,
                     int (*fill)(struct sqlite_storage *s, struct sqlite_file *file, void *data,
                                 struct error *err),
                     void *data, struct error *err)
{
    struct sqlite_file *file = NULL;
    if (sqlite_directory_remove(path, err) < 0)
        return -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return refused(errno, err, path);
    close(fd);
    int rc = sqlite_file_open(s, path, workspace, &file, err);
    if (rc > 0)
        rc = error_set(err, ERROR_UNAVAILABLE, "%s: it vanished while it was made", path);
    if (rc == 0)
        rc = fill_new(s, file, fill, data, err);
    sqlite_file_close(file);
    return rc < 0 ? -1 : sync_file(path, err);
}

int sqlite_directory_build(struct sqlite_storage *s, const char *workspace,
                           int (*fill)(struct sqlite_storage *s, struct sqlite_file *file, void *data,
                                       struct error *err),
                           void *data, struct error *err)
{
    char draft[PATH_MAX + sizeof "/" WORKSPACES_DIRECTORY "/new"];
    char folder[PATH_MAX + sizeof "/" WORKSPACES_DIRECTORY];
    char *path = sqlite_directory_path(s, workspace);
    if (!path)
        return error_set(err, ERROR_MEMORY, "out of memory for the storage");
    snprintf(folder, sizeof folder, "%s%s", s->directory, *workspace ? "/" WORKSPACES_DIRECTORY : "");
    snprintf(draft, sizeof draft, "%s/new", folder);
    int rc = build_new(s, draft, workspace, fill, data, err);
    if (rc == 0)
        rc = sqlite_directory_remove(path, err);
    if (rc == 0 && rename(draft, path) < 0)
        rc = refused(errno, err, path);
    if (rc == 0)
        rc = sync_directory(folder, err);
    if (rc < 0)
        (void)sqlite_directory_remove(draft, NULL);
    free(path);
    return rc;
}
