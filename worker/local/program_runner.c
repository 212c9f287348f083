#include "worker/local/program_runner.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/config.h"
#include "common/error.h"
#include "worker/local/permit.h"
#include "worker/local/program_wire.h"

#define GRACE (2 * CLOCK_S)            /* between SIGTERM and SIGKILL */
#define KILL_LONGEST (10 * CLOCK_S)    /* then its end is told all the same */
#define PROCESSES_LOOK (50 * CLOCK_MS) /* where no limit of the kernel's holds */
#define UID_LOOK_MS 20                 /* while all uids are in use */
#define OPEN_FILES 1024
#define READ_SIZE 65536
#define NAME_BYTES 64

enum { STANDARD_ERROR_AND_BELOW = 3 };

/* One of the program's outputs: the beginning is kept. */
struct stream {
    int fd; /* -1: at its end */
    char *data;
    uint32_t len;
    bool cut;
};

struct runner {
    const struct config *config;
    int control;
    int input;
    struct program_order order;
    char **argv;
    char **env;
    char path[PATH_MAX]; /* where the program's path leads to */
    bool own_uid;
    uid_t uid;
    char directory[PATH_MAX]; /* "": none yet */
    pid_t pid;
    int pidfd;
    struct stream output;
    struct stream errors;
    uint64_t deadline_ns; /* of what is next: SIGTERM, then SIGKILL */
    bool out_of_time;
    struct program_report report;
};

static void report(struct runner *r);

/* What the program has not come to be started by. */
static _Noreturn void give_up(struct runner *r, enum program_fate fate, const char *what)
{
    r->report.fate = fate;
    snprintf(r->report.message, sizeof r->report.message, "%s", what);
    if (r->directory[0])
        rmdir(r->directory);
    report(r);
    _exit(0);
}

static _Noreturn void give_up_errno(struct runner *r, enum program_fate fate, const char *what, int errnum)
{
    char text[sizeof r->report.message];
    snprintf(text, sizeof text, "%s: %s", what, strerror(errnum));
    give_up(r, fate, text);
}

/* --- the order --- */

static char **take_texts(char **at, const char *end, uint32_t n)
{
    char **list = calloc((size_t)n + 1, sizeof *list);
    for (uint32_t i = 0; list && i < n; i++) {
        char *nul = memchr(*at, '\0', (size_t)(end - *at));
        if (!nul) {
            free(list);
            return NULL;
        }
        list[i] = *at;
        *at = nul + 1;
    }
    return list;
}

static void read_order(struct runner *r, int fd)
{
    struct stat status;
    if (fstat(fd, &status) < 0 || status.st_size < (off_t)sizeof r->order)
        give_up(r, PROGRAM_UNAVAILABLE, "the order was not understood");
    char *map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        give_up_errno(r, PROGRAM_UNAVAILABLE, "reading the order", errno);
    memcpy(&r->order, map, sizeof r->order);
    char *at = map + sizeof r->order;
    const char *end = map + status.st_size;
    r->argv = take_texts(&at, end, r->order.n_arguments);
    r->env = r->argv ? take_texts(&at, end, r->order.n_variables) : NULL;
    r->output.data = malloc(r->order.output_max + 1ul);
    r->errors.data = malloc(r->order.output_max + 1ul);
    if (!r->env || !r->argv[0] || !r->output.data || !r->errors.data)
        give_up(r, PROGRAM_UNAVAILABLE, "out of memory");
    close(fd);
}

/* Symbolic links must not lead out of what is allowed. */
static void check_path(struct runner *r)
{
    struct error err;
    BUFFER_AUTO allowed = BUFFER_INIT;
    if (!realpath(r->argv[0], r->path))
        give_up_errno(r, PROGRAM_REFUSED, r->argv[0], errno);
    for (const char *at = r->config->exec_allow; *at; at += strspn(at, ":")) {
        char entry[PATH_MAX] = "";
        char real[PATH_MAX];
        size_t n = strcspn(at, ":");
        memcpy(entry, at, n < sizeof entry - 1 ? n : sizeof entry - 1);
        at += n;
        if (realpath(entry, real))
            buffer_printf(&allowed, "%s%s", allowed.len ? ":" : "", real);
    }
    if (permit_program(buffer_text(&allowed), r->path, strlen(r->path), &err) < 0)
        give_up(r, PROGRAM_REFUSED, err.message);
}

/* --- its own uid --- */

static bool gone(const struct runner *r, int timeout_ms)
{
    struct pollfd control = {.fd = r->control, .events = 0};
    return poll(&control, 1, timeout_ms) > 0;
}

/* As that user, everything that is left of it. */
static void kill_uid(uid_t uid)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (setresuid(uid, uid, uid) == 0)
            kill(-1, SIGKILL);
        _exit(0);
    }
    if (pid > 0)
        waitpid(pid, &status, 0);
}

/* The lock, a byte of the file for each uid, is held by the open file, and so goes with this process. */
static void claim_uid(struct runner *r)
{
    char path[PATH_MAX];
    uint32_t first, last;
    if (!config_uids(r->config->exec_uids, &first, &last)) {
        if (geteuid() == 0)
            give_up(r, PROGRAM_REFUSED,
                    "the worker runs as root, and worker.exec_uids gives it no uids for programs");
        return;
    }
    if (geteuid() != 0)
        give_up(r, PROGRAM_REFUSED, "worker.exec_uids needs a worker that runs as root");
    mkdir(r->config->run_directory, 0700);
    snprintf(path, sizeof path, "%s/exec-uids", r->config->run_directory);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        give_up_errno(r, PROGRAM_UNAVAILABLE, path, errno);
    for (uint32_t n = last - first + 1, i = (uint32_t)getpid() % n;; i = (i + 1) % n) {
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = first + i, .l_len = 1};
        if (fcntl(fd, F_OFD_SETLK, &lock) == 0) {
            r->uid = first + i;
            break;
        }
        if (errno != EAGAIN && errno != EACCES)
            give_up_errno(r, PROGRAM_UNAVAILABLE, path, errno);
        if (i == n - 1 && gone(r, UID_LOOK_MS))
            _exit(0);
    }
    r->own_uid = true;
    kill_uid(r->uid);
}

/* --- its folder --- */

char *program_directory_name(void)
{
    const char *base = getenv("TMPDIR");
    uint64_t random[2];
    char *path = NULL;
    if (getrandom(random, sizeof random, 0) != sizeof random ||
        asprintf(&path, "%s/triggerflow-exec-%016llx%016llx", base && *base == '/' ? base : "/tmp",
                 (unsigned long long)random[0], (unsigned long long)random[1]) < 0)
        return NULL;
    return path;
}

static void make_directory(struct runner *r)
{
    if (mkdir(r->directory, 0700) < 0) {
        int failed = errno;
        r->directory[0] = '\0';
        give_up_errno(r, PROGRAM_UNAVAILABLE, "a temporary folder", failed);
    }
    if (r->own_uid && chown(r->directory, r->uid, r->uid) < 0)
        give_up_errno(r, PROGRAM_UNAVAILABLE, r->directory, errno);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where)
{
    (void)status;
    (void)where;
    if (kind == FTW_DNR)
        chmod(path, 0700);
    (void)!remove(path);
    return 0;
}

void program_directory_remove(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* --- the start: in the program's process --- */

static int limit(int resource, rlim_t value)
{
    struct rlimit r;
    if (getrlimit((__rlimit_resource_t)resource, &r) < 0)
        return -1;
    if (value < r.rlim_max)
        r.rlim_max = value;
    r.rlim_cur = value < r.rlim_max ? value : r.rlim_max;
    return setrlimit((__rlimit_resource_t)resource, &r);
}

static bool limit_all(const struct runner *r)
{
    return limit(RLIMIT_CORE, 0) == 0 && limit(RLIMIT_NOFILE, OPEN_FILES) == 0 &&
           (!r->order.memory || limit(RLIMIT_AS, r->order.memory) == 0) &&
           (!r->own_uid || limit(RLIMIT_NPROC, r->order.processes) == 0);
}

/* Tells the runner where it has failed, and ends. */
static _Noreturn void fail_start(int channel, const char *what)
{
    struct {
        int errnum;
        char what[NAME_BYTES];
    } failure = {.errnum = errno};
    snprintf(failure.what, sizeof failure.what, "%s", what);
    (void)!write(channel, &failure, sizeof failure);
    _exit(127);
}

static void take_descriptors(const struct runner *r, int output, int errors, int channel)
{
    if (dup2(r->input, STDIN_FILENO) < 0 || dup2(output, STDOUT_FILENO) < 0 ||
        dup2(errors, STDERR_FILENO) < 0)
        fail_start(channel, "dup2");
    if (close_range(STANDARD_ERROR_AND_BELOW, ~0u, CLOSE_RANGE_CLOEXEC) < 0)
        fail_start(channel, "close_range");
}

static void reset_signals(void)
{
    sigset_t none;
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become_program(struct runner *r, pid_t parent, int output, int errors, int channel)
{
    setsid();
    take_descriptors(r, output, errors, channel);
    if (!limit_all(r))
        fail_start(channel, "its limits");
    umask(077);
    if (r->own_uid && (setgroups(0, NULL) < 0 || setresgid(r->uid, r->uid, r->uid) < 0 ||
                       setresuid(r->uid, r->uid, r->uid) < 0))
        fail_start(channel, "taking the uid");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        fail_start(channel, "prctl");
    if (getppid() != parent)
        _exit(127);
    if (chdir(r->directory) < 0)
        fail_start(channel, r->directory);
    reset_signals();
    execve(r->path, r->argv, r->env);
    fail_start(channel, r->path);
}

/* --- the start: in the runner --- */

/* Errors that another try cannot mend. */
static bool is_final(int errnum)
{
    return errnum == ENOENT || errnum == EACCES || errnum == ENOEXEC || errnum == ENOTDIR ||
           errnum == EISDIR || errnum == ELOOP || errnum == E2BIG || errnum == EPERM || errnum == EINVAL ||
           errnum == ENAMETOOLONG;
}

static void await_start(struct runner *r, int channel)
{
    struct {
        int errnum;
        char what[NAME_BYTES];
    } failure;
    ssize_t n;
    int status;
    while ((n = read(channel, &failure, sizeof failure)) < 0 && errno == EINTR)
        continue;
    close(channel);
    if (n != sizeof failure)
        return;
    waitpid(r->pid, &status, 0);
    failure.what[NAME_BYTES - 1] = '\0';
    give_up_errno(r, is_final(failure.errnum) ? PROGRAM_REFUSED : PROGRAM_UNAVAILABLE, failure.what,
                  failure.errnum);
}

static void start(struct runner *r)
{
    int output[2];
    int errors[2];
    int channel[2];
    pid_t self = getpid();
    if (pipe2(output, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0 || pipe2(channel, O_CLOEXEC) < 0)
        give_up_errno(r, PROGRAM_UNAVAILABLE, "pipe2", errno);
    fcntl(output[0], F_SETFL, O_NONBLOCK);
    fcntl(errors[0], F_SETFL, O_NONBLOCK);
    r->deadline_ns = clock_now_ns() + r->order.time_ns;
    r->pid = fork();
    if (r->pid == 0)
        become_program(r, self, output[1], errors[1], channel[1]);
    if (r->pid < 0)
        give_up_errno(r, PROGRAM_UNAVAILABLE, "fork", errno);
    close(output[1]);
    close(errors[1]);
    close(channel[1]);
    close(r->input);
    r->output.fd = output[0];
    r->errors.fd = errors[0];
    await_start(r, channel[0]);
    r->pidfd = pidfd_open(r->pid, 0);
    if (r->pidfd < 0) {
        kill(-r->pid, SIGKILL);
        give_up_errno(r, PROGRAM_UNAVAILABLE, "pidfd_open", errno);
    }
}

/* --- while it runs --- */

/* Whether there may be more at once. */
static bool take_output(struct stream *s, uint32_t max)
{
    static char rest[READ_SIZE];
    uint32_t room = max - s->len;
    ssize_t n = read(s->fd, room ? s->data + s->len : rest, room && room < READ_SIZE ? room : READ_SIZE);
    if (n < 0)
        return false;
    if (n == 0) {
        close(s->fd);
        s->fd = -1;
        return false;
    }
    if (room)
        s->len += (uint32_t)n;
    else
        s->cut = true;
    return true;
}

bool program_each_child(const char *process, bool (*see)(pid_t pid, void *data), void *data)
{
    char path[PATH_MAX];
    bool ended = false;
    snprintf(path, sizeof path, "/proc/%s/task", process);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && !ended && (task = readdir(tasks));) {
        int pid;
        snprintf(path, sizeof path, "/proc/%s/task/%s/children", process, task->d_name);
        FILE *children = task->d_name[0] == '.' ? NULL : fopen(path, "re");
        while (children && !ended && fscanf(children, "%d", &pid) == 1)
            ended = see(pid, data);
        if (children)
            fclose(children);
    }
    if (tasks)
        closedir(tasks);
    return ended;
}

struct census {
    uint32_t n;
    uint32_t most;
    unsigned depth;
};

static bool count_process(pid_t pid, void *data)
{
    struct census *c = data;
    char process[16];
    if (++c->n > c->most)
        return true;
    if (c->depth == 64) /* each level holds descriptors */
        return false;
    c->depth++;
    snprintf(process, sizeof process, "%d", pid);
    bool ended = program_each_child(process, count_process, c);
    c->depth--;
    return ended;
}

static bool too_many(const struct runner *r)
{
    struct census census = {.most = r->order.processes};
    return program_each_child("self", count_process, &census);
}

static bool kill_child(pid_t pid, void *data)
{
    (void)data;
    kill(pid, SIGKILL);
    return false;
}

/* Until nothing is left that has ever been started; false: something was at the deadline, which the kernel
 * does not let die. A group's processes die at once; those that have left it are our children as soon as
 * their parents are dead. */
static bool kill_rest(struct runner *r, uint64_t deadline_ns)
{
    struct rusage used;
    int status;
    pid_t pid;
    kill(-r->pid, SIGKILL);
    for (;;) {
        if (r->own_uid)
            kill_uid(r->uid);
        program_each_child("self", kill_child, NULL);
        while ((pid = wait4(-1, &status, WNOHANG, &used)) > 0) {
            if (pid != r->pid)
                continue;
            if (r->report.fate == PROGRAM_EXITED) {
                r->report.fate = WIFEXITED(status) ? PROGRAM_EXITED : PROGRAM_KILLED;
                r->report.status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
            }
            r->report.memory_max = (uint64_t)used.ru_maxrss * 1024;
            r->report.cpu_ns = (uint64_t)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) * CLOCK_S +
                               (uint64_t)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000;
        }
        if (pid < 0 && errno == ECHILD)
            return true;
        if (clock_now_ns() >= deadline_ns)
            return false;
        poll(NULL, 0, 1);
    }
}

static void look_at_time(struct runner *r, uint64_t now)
{
    if (now < r->deadline_ns)
        return;
    kill(-r->pid, r->out_of_time ? SIGKILL : SIGTERM);
    r->out_of_time = true;
    r->report.fate = PROGRAM_TIMED_OUT;
    r->deadline_ns = now + GRACE;
}

static int milliseconds_left(const struct runner *r, uint64_t now)
{
    uint64_t left = r->deadline_ns > now ? r->deadline_ns - now : 0;
    if (!r->own_uid && left > PROCESSES_LOOK)
        left = PROCESSES_LOOK;
    return left / CLOCK_MS < INT_MAX ? (int)((left + CLOCK_MS - 1) / CLOCK_MS) : INT_MAX;
}

/* Until the program has ended, or has to. */
static void watch(struct runner *r)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = r->control, .events = 0},
                               {.fd = r->pidfd, .events = POLLIN},
                               {.fd = r->output.fd, .events = POLLIN},
                               {.fd = r->errors.fd, .events = POLLIN}};
        if (poll(fds, 4, milliseconds_left(r, clock_now_ns())) < 0 && errno != EINTR)
            return;
        if (fds[0].revents || fds[1].revents)
            return;
        if (fds[2].revents)
            take_output(&r->output, r->order.output_max);
        if (fds[3].revents)
            take_output(&r->errors, r->order.output_max);
        look_at_time(r, clock_now_ns());
        if (!r->own_uid && too_many(r)) {
            r->report.fate = PROGRAM_TOO_MANY;
            return;
        }
    }
}

/* --- the end --- */

static bool send_all(int fd, const void *data, size_t len)
{
    const char *at = data;
    while (len) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static void report(struct runner *r)
{
    r->report.output_len = r->output.len;
    r->report.errors_len = r->errors.len;
    r->report.output_cut = r->output.cut;
    r->report.errors_cut = r->errors.cut;
    if (send_all(r->control, &r->report, sizeof r->report) &&
        send_all(r->control, r->output.data, r->output.len))
        send_all(r->control, r->errors.data, r->errors.len);
}

_Noreturn void program_runner(const struct config *config, int control, int order, int input,
                              const char *directory)
{
    struct runner r = {
        .config = config, .control = control, .input = input, .output.fd = -1, .errors.fd = -1};
    signal(SIGCHLD, SIG_DFL);
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
    prctl(PR_SET_NAME, "triggerflow-run");
    read_order(&r, order);
    check_path(&r);
    claim_uid(&r);
    snprintf(r.directory, sizeof r.directory, "%s", directory);
    make_directory(&r);
    start(&r);
    watch(&r);
    bool clean = kill_rest(&r, clock_now_ns() + KILL_LONGEST);
    while (r.output.fd >= 0 && take_output(&r.output, r.order.output_max))
        continue;
    while (r.errors.fd >= 0 && take_output(&r.errors, r.order.output_max))
        continue;
    if (clean)
        program_directory_remove(r.directory);
    report(&r);
    close(r.control);
    if (!clean) {
        kill_rest(&r, UINT64_MAX);
        program_directory_remove(r.directory);
    }
    _exit(0);
}
