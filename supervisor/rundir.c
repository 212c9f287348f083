/* See rundir.h. */
#include "supervisor/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/error.h"

#define PID_FILE "supervisor.pid"
#define LOCK_TRIES 5 /* a look by rundir_holder holds the lock for a moment, too */
#define LOCK_RETRY_MS 20

int rundir_path(const char *directory, const char *name, char path[RUNDIR_PATH_MAX], struct error *err)
{
    int n = snprintf(path, RUNDIR_PATH_MAX, "%s/%s", directory, name);
    if (n < 0 || n >= RUNDIR_PATH_MAX)
        return error_set(err, ERROR_LIMIT, "run directory: its path is too long (%zu bytes)",
                         strlen(directory));
    return 0;
}

int rundir_prepare(const char *directory, struct error *err)
{
    struct stat st;
    if (mkdir(directory, 0700) < 0 && errno != EEXIST)
        return error_set_errno(err, errno, "run directory %s", directory);
    int fd = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0) {
        error_set_errno(err, errno, "run directory %s", directory);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    close(fd);
    if (st.st_uid != geteuid())
        return error_set(err, ERROR_REFUSED, "run directory %s: belongs to user %u, not to us", directory,
                         (unsigned)st.st_uid);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return error_set(err, ERROR_REFUSED, "run directory %s: others may write to it (mode %04o)",
                         directory, (unsigned)(st.st_mode & 07777));
    return 0;
}

static pid_t read_pid(int fd)
{
    char text[32];
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0)
        return 0;
    text[n] = '\0';
    long pid = strtol(text, NULL, 10);
    return pid >= 1 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

static int write_pid(int fd)
{
    char text[32];
    int n = snprintf(text, sizeof text, "%d\n", (int)getpid());
    return ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n ? -1 : 0;
}

int rundir_lock(const char *directory, int *ret_fd, pid_t *ret_pid, struct error *err)
{
    char path[RUNDIR_PATH_MAX];
    if (rundir_path(directory, PID_FILE, path, err) < 0)
        return -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set_errno(err, errno, "%s", path);
    int locked = -1;
    for (int i = 0; i < LOCK_TRIES && (locked = flock(fd, LOCK_EX | LOCK_NB)) < 0 && errno == EWOULDBLOCK;
         i++)
        poll(NULL, 0, LOCK_RETRY_MS);
    if (locked < 0 && errno == EWOULDBLOCK) {
        *ret_pid = read_pid(fd);
        close(fd);
        return 1;
    }
    if (locked < 0 || write_pid(fd) < 0) {
        error_set_errno(err, errno, "%s", path);
        close(fd);
        return -1;
    }
    *ret_fd = fd;
    return 0;
}

int rundir_holder(const char *directory, pid_t *ret_pid, struct error *err)
{
    char path[RUNDIR_PATH_MAX];
    if (rundir_path(directory, PID_FILE, path, err) < 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT ? 1 : error_set_errno(err, errno, "%s", path);
    int result = 1;
    if (flock(fd, LOCK_SH | LOCK_NB) < 0) {
        result = errno == EWOULDBLOCK ? 0 : error_set_errno(err, errno, "%s", path);
        pid_t pid = read_pid(fd);
        if (result == 0 && pid == 0)
            result = error_set(err, ERROR_UNAVAILABLE, "%s: locked, but without a pid (yet)", path);
        if (result == 0)
            *ret_pid = pid;
    }
    close(fd);
    return result;
}
