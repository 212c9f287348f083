/* The loop: descriptors, timers, waking, and changes made by callbacks. */
#include "common/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/clock.h"
#include "common/error.h"

#define N 4

struct fixture {
    struct loop *loop;
    struct error err;
    struct pipe_end {
        struct fixture *f;
        int fd;
        int out;
        int calls;
        uint32_t events;
    } pipes[N];
    bool read_them;
    int remove; /* the pipe that the next callback removes; -1: none */
    int replace;
    char log[64]; /* letters that timers append */
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->loop = loop_new(&f->err);
    assert_non_null(f->loop);
    f->remove = f->replace = -1;
    for (int i = 0; i < N; i++) {
        int fds[2];
        assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
        f->pipes[i] = (struct pipe_end){.f = f, .fd = fds[0], .out = fds[1]};
    }
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loop_free(f->loop);
    for (int i = 0; i < N; i++) {
        if (f->pipes[i].fd >= 0)
            close(f->pipes[i].fd);
        close(f->pipes[i].out);
    }
    free(f);
    return 0;
}

static void other_callback(void *data, uint32_t events)
{
    (void)events;
    ((struct pipe_end *)data)->calls += 100;
}

static void callback(void *data, uint32_t events)
{
    struct pipe_end *p = data;
    struct fixture *f = p->f;
    char byte;
    p->calls++;
    p->events = events;
    if (f->read_them)
        assert_int_equal(read(p->fd, &byte, 1), 1);
    if (f->remove >= 0) {
        loop_remove(f->loop, f->pipes[f->remove].fd);
        f->remove = -1;
    }
    if (f->replace >= 0) {
        struct pipe_end *r = &f->pipes[f->replace];
        loop_remove(f->loop, r->fd);
        assert_int_equal(loop_add(f->loop, r->fd, EPOLLIN, other_callback, r, &f->err), 0);
        f->replace = -1;
    }
}

static void add(struct fixture *f, int i)
{
    assert_int_equal(loop_add(f->loop, f->pipes[i].fd, EPOLLIN, callback, &f->pipes[i], &f->err), 0);
}

static void feed(struct fixture *f, int i)
{
    assert_int_equal(write(f->pipes[i].out, "x", 1), 1);
}

static void run(struct fixture *f)
{
    assert_int_equal(loop_run_once(f->loop, 0, &f->err), 0);
}

static void test_descriptors(void **state)
{
    struct fixture *f = *state;
    add(f, 0);
    add(f, 1);
    run(f);
    assert_int_equal(f->pipes[0].calls, 0);
    feed(f, 0);
    assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &f->err), 0);
    assert_int_equal(f->pipes[0].calls, 1);
    assert_int_equal(f->pipes[0].events, EPOLLIN);
    f->read_them = true;
    run(f); /* level-triggered: still there */
    assert_int_equal(f->pipes[0].calls, 2);
    run(f);
    assert_int_equal(f->pipes[0].calls, 2);
    close(f->pipes[1].out);
    f->pipes[1].out = -1;
    f->read_them = false;
    run(f);
    assert_int_equal(f->pipes[1].events, EPOLLHUP);
    loop_remove(f->loop, f->pipes[1].fd);
    loop_remove(f->loop, f->pipes[1].fd); /* twice is fine, so are strangers */
    loop_remove(f->loop, -1);
    loop_remove(f->loop, 1 << 20);
    run(f);
    assert_int_equal(f->pipes[1].calls, 1);
}

static void test_modify(void **state)
{
    struct fixture *f = *state;
    add(f, 0);
    feed(f, 0);
    assert_int_equal(loop_modify(f->loop, f->pipes[0].fd, 0, &f->err), 0);
    run(f);
    assert_int_equal(f->pipes[0].calls, 0);
    assert_int_equal(loop_modify(f->loop, f->pipes[0].fd, EPOLLIN, &f->err), 0);
    run(f);
    assert_int_equal(f->pipes[0].calls, 1);
}

static void test_errors(void **state)
{
    struct fixture *f = *state;
    char expected[64];
    add(f, 0);
    assert_int_equal(loop_add(f->loop, f->pipes[0].fd, EPOLLIN, callback, NULL, &f->err), -1);
    assert_int_equal(f->err.code, ERROR_EXISTS);
    snprintf(expected, sizeof expected, "descriptor %d is watched already", f->pipes[0].fd);
    assert_string_equal(f->err.message, expected);
    assert_int_equal(loop_add(f->loop, -1, EPOLLIN, callback, NULL, &f->err), -1);
    assert_string_equal(f->err.message, "watching descriptor -1: Bad file descriptor");
    assert_int_equal(loop_modify(f->loop, f->pipes[1].fd, EPOLLIN, &f->err), -1);
    assert_int_equal(f->err.code, ERROR_NOT_FOUND);
    snprintf(expected, sizeof expected, "descriptor %d is not watched", f->pipes[1].fd);
    assert_string_equal(f->err.message, expected);
    add(f, 1);
    int closed = f->pipes[1].fd;
    close(closed);
    f->pipes[1].fd = -1;
    assert_int_equal(loop_modify(f->loop, closed, EPOLLIN, &f->err), -1);
    snprintf(expected, sizeof expected, "watching descriptor %d: Bad file descriptor", closed);
    assert_string_equal(f->err.message, expected);
    loop_remove(f->loop, closed); /* closed before it was removed */
    feed(f, 0);
    run(f); /* the failed second add has left the first watch alone */
    assert_int_equal(f->pipes[0].calls, 1);
    loop_free(NULL);
}

/* Whichever callback comes first removes the other's watch, which then is not called. */
static void test_remove_in_callback(void **state)
{
    struct fixture *f = *state;
    for (int other = 0; other < 2; other++) {
        f->pipes[0].calls = f->pipes[1].calls = 0;
        add(f, 0);
        add(f, 1);
        feed(f, 0);
        feed(f, 1);
        f->remove = other;
        run(f);
        int calls = f->pipes[other].calls;
        run(f);
        assert_int_equal(f->pipes[other].calls, calls); /* never again */
        assert_true(calls <= 1);
        assert_int_equal(f->pipes[!other].calls, 2);
        loop_remove(f->loop, f->pipes[!other].fd);
    }
}

/* A watch replaced while its event is under way: the new one is called for its own events only. */
static void test_replace_in_callback(void **state)
{
    struct fixture *f = *state;
    add(f, 0);
    add(f, 1);
    feed(f, 0);
    feed(f, 1);
    f->read_them = true;
    f->replace = 1;
    run(f);
    /* Either 1 was called and replaced later, or replaced before its turn: not both in one round. */
    assert_true(f->pipes[1].calls == 0 || f->pipes[1].calls == 1);
    feed(f, 1);
    int calls = f->pipes[1].calls;
    run(f);
    assert_int_equal(f->pipes[1].calls, calls + 100);
}

static void test_remove_itself(void **state)
{
    struct fixture *f = *state;
    add(f, 2);
    feed(f, 2);
    f->remove = 2;
    run(f);
    run(f);
    assert_int_equal(f->pipes[2].calls, 1);
    add(f, 2);
    run(f);
    assert_int_equal(f->pipes[2].calls, 2);
}

struct letter {
    struct fixture *f;
    char letter;
    uint64_t again_ns; /* when the timer sets itself again; 0: never */
    struct letter *cancel;
};

static void write_letter(void *data)
{
    struct letter *l = data;
    size_t used = strlen(l->f->log);
    assert_true(used + 1 < sizeof l->f->log);
    l->f->log[used] = l->letter;
    if (l->cancel)
        loop_timer_cancel(l->f->loop, write_letter, l->cancel);
    if (l->again_ns)
        assert_int_equal(loop_timer_set(l->f->loop, l->again_ns, write_letter, l, &l->f->err), 0);
}

static void set(struct letter *l, uint64_t at_ns)
{
    assert_int_equal(loop_timer_set(l->f->loop, at_ns, write_letter, l, &l->f->err), 0);
}

static void test_timers(void **state)
{
    struct fixture *f = *state;
    struct letter a = {f, 'a', 0, NULL};
    struct letter b = {f, 'b', 0, NULL};
    struct letter c = {f, 'c', 0, NULL};
    set(&c, 3);
    set(&b, 1);
    set(&a, 2);
    run(f);
    assert_string_equal(f->log, "bac");
    run(f); /* once */
    assert_string_equal(f->log, "bac");
    set(&a, 2);
    set(&b, 2); /* the same time: in the order they were set */
    set(&c, 1);
    set(&c, 3); /* moved */
    run(f);
    assert_string_equal(f->log, "bacabc");
    set(&a, 1);
    set(&b, 1);
    loop_timer_cancel(f->loop, write_letter, &a);
    loop_timer_cancel(f->loop, write_letter, &c); /* not set */
    run(f);
    assert_string_equal(f->log, "bacabcb");
    set(&a, clock_now_ns() + 3600 * CLOCK_S);
    run(f);
    assert_string_equal(f->log, "bacabcb");
}

static void test_timer_not_early(void **state)
{
    struct fixture *f = *state;
    struct letter a = {f, 'a', 0, NULL};
    for (uint64_t in_ns = 1; in_ns < 10 * CLOCK_MS; in_ns = in_ns * 7 + 1) {
        memset(f->log, 0, sizeof f->log);
        uint64_t at = clock_now_ns() + in_ns;
        set(&a, at);
        while (!*f->log)
            assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &f->err), 0);
        assert_true(clock_now_ns() >= at);
    }
}

static void test_timers_in_timers(void **state)
{
    struct fixture *f = *state;
    struct letter c = {f, 'c', 0, NULL};
    struct letter a = {f, 'a', 1, &c}; /* sets itself for a time past: for ever, but for the next rounds */
    struct letter b = {f, 'b', 0, NULL};
    set(&a, 1);
    set(&b, 2);
    set(&c, 3);
    run(f);
    assert_string_equal(f->log, "ab");
    set(&b, 2);
    run(f);
    assert_string_equal(f->log, "abba");
    loop_timer_cancel(f->loop, write_letter, &a);
    run(f);
    assert_string_equal(f->log, "abba");
}

struct model {
    struct fixture *f;
    uint64_t at_ns;
    bool set;
};

static uint64_t last_ns;

static void check_order(void *data)
{
    struct model *m = data;
    assert_true(m->set);
    assert_true(m->at_ns >= last_ns);
    last_ns = m->at_ns;
    m->set = false;
}

/* Many timers set, moved and cancelled at random run in the order of their times, all of them. */
static void test_many_timers(void **state)
{
    struct fixture *f = *state;
    enum { TIMERS = 200 };
    static struct model models[TIMERS];
    unsigned seed = 1;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < TIMERS * 2; i++) {
            struct model *m = &models[rand_r(&seed) % TIMERS];
            m->set = rand_r(&seed) % 4 != 0;
            m->at_ns = (uint64_t)(rand_r(&seed) % 1000);
            if (m->set)
                assert_int_equal(loop_timer_set(f->loop, m->at_ns, check_order, m, &f->err), 0);
            else
                loop_timer_cancel(f->loop, check_order, m);
        }
        last_ns = 0;
        run(f);
        for (int i = 0; i < TIMERS; i++)
            assert_false(models[i].set);
    }
}

static void *wake(void *data)
{
    for (int i = 0; i < 1000; i++)
        loop_wake(data);
    return NULL;
}

static void test_wake(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    loop_wake(f->loop); /* before: not lost */
    assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &f->err), 0);
    assert_int_equal(pthread_create(&thread, NULL, wake, f->loop), 0);
    assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &f->err), 0);
    pthread_join(thread, NULL);
    errno = ENOENT;
    loop_wake(f->loop);
    assert_int_equal(errno, ENOENT);
}

static struct loop *signalled;

static void on_signal(int signal)
{
    (void)signal;
    loop_wake(signalled);
}

static void test_signal(void **state)
{
    struct fixture *f = *state;
    struct sigaction action = {.sa_handler = on_signal};
    struct letter a = {f, 'a', 0, NULL};
    signalled = f->loop;
    sigaction(SIGALRM, &action, NULL);
    struct itimerval soon = {.it_value.tv_usec = 1000};
    setitimer(ITIMER_REAL, &soon, NULL);
    assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &f->err), 0);
    signal(SIGALRM, SIG_DFL);
    set(&a, 1); /* timers go on after an interrupted wait */
    run(f);
    assert_string_equal(f->log, "a");
}

static void test_no_descriptors(void **state)
{
    struct fixture *f = *state;
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    int lowest = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    close(lowest);
    const char *const expected[] = {"epoll_create1: Too many open files", "eventfd: Too many open files"};
    for (int allowed = 0; allowed < 2; allowed++) {
        struct rlimit few = {.rlim_cur = (rlim_t)(lowest + allowed), .rlim_max = limit.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
        struct loop *loop = loop_new(&f->err);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
        assert_null(loop);
        assert_string_equal(f->err.message, expected[allowed]);
    }
    int again = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
    close(again);
    assert_int_equal(again, lowest);
}

/* On kernels without epoll_pwait2, which a filter makes of this one for a child. */
static int run_coarse(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    struct fixture f = {0};
    struct letter a = {&f, 'a', 0, NULL};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        return 77;
    f.loop = loop_new(&f.err);
    uint64_t at = clock_now_ns() + CLOCK_MS / 2;
    if (!f.loop || loop_timer_set(f.loop, at, write_letter, &a, &f.err) < 0)
        return 1;
    while (!*f.log)
        if (loop_run_once(f.loop, UINT64_MAX, &f.err) < 0)
            return 2;
    loop_wake(f.loop);
    if (clock_now_ns() < at || loop_run_once(f.loop, UINT64_MAX, &f.err) < 0 ||
        loop_run_once(f.loop, 0, &f.err) < 0)
        return 3;
    loop_free(f.loop);
    return 0;
}

static void busy(void *data, uint32_t events)
{
    (void)events;
    ++*(int *)data;
    struct timespec longer = {.tv_nsec = 2 * LOOP_SLICE};
    nanosleep(&longer, NULL);
}

/* Other threads get the loop between two slices, and nobody is left out. */
static void test_shared(void **state)
{
    enum { MANY = 5 };
    struct fixture *f = *state;
    struct error err;
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int fds[MANY], calls[MANY] = {0};
    for (int i = 0; i < MANY; i++) {
        assert_true((fds[i] = eventfd(1, EFD_CLOEXEC)) >= 0);
        assert_int_equal(loop_add(f->loop, fds[i], EPOLLIN, busy, &calls[i], &err), 0);
    }
    loop_share(f->loop, &lock);
    pthread_mutex_lock(&lock);
    for (int rounds = 1; rounds <= MANY; rounds++) {
        int all = 0;
        assert_int_equal(loop_run_once(f->loop, UINT64_MAX, &err), 0);
        for (int i = 0; i < MANY; i++)
            all += calls[i];
        assert_int_equal(all, rounds);
    }
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(calls[i], 1);
        loop_remove(f->loop, fds[i]);
        close(fds[i]);
    }
}

static void test_coarse(void **state)
{
    (void)state;
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(run_coarse());
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        print_message("skipped: no seccomp filters here\n");
        skip();
    }
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_descriptors),
        TEST(test_modify),
        TEST(test_errors),
        TEST(test_remove_in_callback),
        TEST(test_replace_in_callback),
        TEST(test_remove_itself),
        TEST(test_timers),
        TEST(test_timer_not_early),
        TEST(test_timers_in_timers),
        TEST(test_many_timers),
        TEST(test_wake),
        TEST(test_signal),
        TEST(test_no_descriptors),
        TEST(test_shared),
        cmocka_unit_test(test_coarse),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
