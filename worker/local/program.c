#include "worker/local/program.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/config.h"
#include "common/error.h"
#include "common/log.h"
#include "common/loop.h"
#include "worker/local/program_host.h"

#define READ_SIZE 65536

struct programs {
    int socket; /* to the host */
    pid_t host;
    struct program *running;
};

struct program {
    struct programs *programs;
    struct program *before, *after;
    struct loop *loop;
    int fd; /* the order's socket */
    size_t most;
    struct buffer answer; /* a report and the outputs, as far as they have come */
    program_done done;
    void *data;
};

int programs_new(const struct config *config, struct programs **ret_programs, struct error *err)
{
    *ret_programs = NULL;
    if (!*config->exec_allow)
        return 0;
    struct programs *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ERROR_MEMORY, "out of memory");
    if (program_host_start(config, &p->socket, &p->host, err) < 0) {
        free(p);
        return -1;
    }
    *ret_programs = p;
    return 0;
}

void programs_free(struct programs *programs)
{
    if (!programs)
        return;
    for (struct program *p = programs->running, *next; p; p = next) {
        next = p->after;
        program_cancel(p);
    }
    close(programs->socket);
    while (waitpid(programs->host, NULL, 0) < 0 && errno == EINTR)
        continue;
    free(programs);
}

/* --- the end of a program --- */

static void program_free(struct program *p)
{
    loop_remove(p->loop, p->fd);
    close(p->fd);
    if (p->before)
        p->before->after = p->after;
    else
        p->programs->running = p->after;
    if (p->after)
        p->after->before = p->before;
    buffer_done(&p->answer);
    free(p);
}

void program_cancel(struct program *program)
{
    program_free(program);
}

/* What the runner has said; it may have been killed before. */
static void end(struct program *p)
{
    struct program_end end = {.report = {.fate = PROGRAM_UNAVAILABLE}};
    struct program_report *r = &end.report;
    if (p->answer.len >= sizeof *r)
        memcpy(r, p->answer.data, sizeof *r);
    if (p->answer.len != sizeof *r + (size_t)r->output_len + r->errors_len || p->answer.failed)
        *r = (struct program_report){.fate = PROGRAM_UNAVAILABLE,
                                     .message = "the process that looks after it has died"};
    r->message[sizeof r->message - 1] = '\0';
    end.output = r->output_len ? p->answer.data + sizeof *r : "";
    end.errors = r->errors_len ? p->answer.data + sizeof *r + r->output_len : "";
    struct buffer kept = p->answer; /* what the end borrows */
    p->answer = (struct buffer)BUFFER_INIT;
    program_done done = p->done;
    void *data = p->data;
    program_free(p);
    done(data, &end);
    buffer_done(&kept);
}

static void on_ready(void *data, uint32_t events)
{
    struct program *p = data;
    char *to = buffer_reserve(&p->answer, READ_SIZE);
    (void)events;
    ssize_t n = to ? read(p->fd, to, READ_SIZE) : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0) {
        p->answer.len += (size_t)n;
        if (p->answer.len <= p->most)
            return;
    }
    end(p);
}

/* --- the start --- */

static int write_all(int fd, const void *data, size_t len)
{
    const char *at = data;
    while (len) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            at += n;
            len -= (size_t)n;
        }
    }
    return 0;
}

/* A file in memory, read-only from now on. Returns its descriptor. */
static int file_of(const char *name, const void *head, size_t head_len, const char *text, size_t len,
                   struct error *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return error_set_errno(err, errno, "memfd_create");
    if (write_all(fd, head, head_len) < 0 || write_all(fd, text, len) < 0 || lseek(fd, 0, SEEK_SET) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        error_set_errno(err, errno, "a file in memory");
        close(fd);
        return -1;
    }
    return fd;
}

static int send_order(struct programs *programs, const int fds[3], struct error *err)
{
    char byte = 0;
    char control[CMSG_SPACE(sizeof(int) * 3)] __attribute__((aligned(sizeof(struct cmsghdr)))) = {0};
    struct iovec io = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * 3);
    memcpy(CMSG_DATA(c), fds, sizeof(int) * 3);
    ssize_t n;
    while ((n = sendmsg(programs->socket, &message, MSG_NOSIGNAL)) < 0 && errno == EINTR)
        continue;
    if (n >= 0)
        return 0;
    if (errno == EPIPE || errno == ECONNRESET) {
        log_error("program_host", LOG_STR("error", "it has died: the worker starts again"));
        abort(); /* threads must not fork: a new life has a new host */
    }
    return error_set_errno(err, errno, "program host");
}

static int order(struct programs *programs, const struct program_request *request, int socket,
                 struct error *err)
{
    int r = -1;
    int input = -1;
    int text =
        file_of("order", &request->limits, sizeof request->limits, request->texts, request->texts_len, err);
    if (text >= 0 && (input = file_of("event", NULL, 0, request->input, request->input_len, err)) >= 0)
        r = send_order(programs, (int[3]){socket, text, input}, err);
    if (text >= 0)
        close(text);
    if (input >= 0)
        close(input);
    return r;
}

static int connect_runner(struct program *p, const struct program_request *request, struct error *err)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
        return error_set_errno(err, errno, "socketpair");
    p->fd = fds[0];
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    int r = loop_add(p->loop, p->fd, EPOLLIN, on_ready, p, err);
    if (r == 0)
        r = order(p->programs, request, fds[1], err);
    close(fds[1]);
    return r;
}

int program_start(struct programs *programs, struct loop *loop, const struct program_request *request,
                  program_done done, void *data, struct program **ret_program, struct error *err)
{
    if (!programs)
        return error_set(err, ERROR_REFUSED, "worker.exec_allow lets no program run");
    if (request->texts_len > PROGRAM_TEXTS_MAX || request->limits.output_max > PROGRAM_OUTPUT_MAX)
        return error_set(err, ERROR_LIMIT, "arguments and environment have more than %u bytes",
                         PROGRAM_TEXTS_MAX);
    struct program *p = calloc(1, sizeof *p);
    if (!p)
        return error_set(err, ERROR_MEMORY, "out of memory");
    *p = (struct program){.programs = programs, .loop = loop, .fd = -1, .done = done, .data = data};
    p->most = sizeof(struct program_report) + 2ul * request->limits.output_max;
    p->after = programs->running;
    if (p->after)
        p->after->before = p;
    programs->running = p;
    if (connect_runner(p, request, err) < 0) {
        program_free(p);
        return -1;
    }
    *ret_program = p;
    return 0;
}
