/* See client.h. */
#include "supervisor/client.h"

#include <curl/curl.h>
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/buffer.h"
#include "common/clock.h"
#include "common/error.h"
#include "supervisor/rundir.h"
#include "supervisor/supervisor.h"

#define STOP_MARGIN_NS (15 * CLOCK_S) /* beyond stop_timeout: killing, reaping, the forkserver */
#define ANSWER_MAX (256u << 20)

static int complain(const char *text)
{
    fprintf(stderr, "triggerflow-supervisor: %s\n", text);
    return SUPERVISOR_ERROR;
}

static int not_running(const char *run_directory)
{
    fprintf(stderr, "triggerflow-supervisor: not running (run directory %s)\n", run_directory);
    return SUPERVISOR_RUNNING;
}

/* Signals the supervisor that holds the lock; *ret_pidfd names that very process. */
static int signal_holder(const char *run_directory, int signal, int *ret_pidfd)
{
    struct error err;
    pid_t pid, again;
    int result = rundir_holder(run_directory, &pid, &err);
    if (result < 0)
        return complain(err.message);
    if (result == 1)
        return not_running(run_directory);
    int pidfd = pidfd_open(pid, 0);
    if (pidfd < 0)
        return errno == ESRCH ? not_running(run_directory) : complain(strerror(errno));
    /* It still holds the lock, so the pidfd is its own and not that of a later process with the same number.
     */
    if (rundir_holder(run_directory, &again, &err) != 0 || again != pid) {
        close(pidfd);
        return not_running(run_directory);
    }
    if (pidfd_send_signal(pidfd, signal, NULL, 0) < 0) {
        int e = errno;
        close(pidfd);
        return e == ESRCH ? not_running(run_directory) : complain(strerror(e));
    }
    *ret_pidfd = pidfd;
    return SUPERVISOR_OK;
}

int client_stop(const char *run_directory, int64_t stop_timeout_ns)
{
    int pidfd;
    int code = signal_holder(run_directory, SIGTERM, &pidfd);
    if (code != SUPERVISOR_OK)
        return code;
    uint64_t deadline = clock_now_ns() + (uint64_t)stop_timeout_ns + STOP_MARGIN_NS;
    for (;;) {
        struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
        uint64_t now = clock_now_ns();
        int n = now < deadline ? poll(&poll_fd, 1, (int)((deadline - now) / CLOCK_MS) + 1) : 0;
        if (n > 0)
            break;
        if (n == 0 || errno != EINTR) {
            close(pidfd);
            return complain("it was told to stop, but did not in time");
        }
    }
    close(pidfd);
    return SUPERVISOR_OK;
}

int client_reload(const char *run_directory)
{
    int pidfd;
    int code = signal_holder(run_directory, SIGHUP, &pidfd);
    if (code == SUPERVISOR_OK)
        close(pidfd);
    return code;
}

/* ---- Status ---- */

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    struct buffer *body = user;
    if (body->len + size * n > ANSWER_MAX)
        return 0;
    buffer_append(body, data, size * n);
    return body->failed ? 0 : size * n;
}

/* GETs path over the control socket. An exit code; *ret_status: the HTTP status. */
static int get(const char *run_directory, const char *path, struct buffer *body, long *ret_status)
{
    char socket_path[RUNDIR_PATH_MAX];
    struct error err;
    if (rundir_path(run_directory, "control.sock", socket_path, &err) < 0)
        return complain(err.message);
    BUFFER_AUTO url = BUFFER_INIT;
    buffer_append_text(&url, "http://localhost");
    buffer_append_text(&url, path);
    CURL *curl = curl_easy_init();
    if (!curl || url.failed) {
        curl_easy_cleanup(curl);
        return complain("out of memory");
    }
    buffer_reset(body, 65536);
    curl_easy_setopt(curl, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    curl_easy_setopt(curl, CURLOPT_URL, buffer_text(&url));
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, body);
    CURLcode result = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, ret_status);
    curl_easy_cleanup(curl);
    if (result == CURLE_COULDNT_CONNECT)
        return not_running(run_directory);
    return result == CURLE_OK ? SUPERVISOR_OK : complain(curl_easy_strerror(result));
}

static struct json_object *member(struct json_object *object, const char *name)
{
    struct json_object *value = NULL;
    return json_object_object_get_ex(object, name, &value) ? value : NULL;
}

static uint64_t number(struct json_object *object, const char *name)
{
    return json_object_get_uint64(member(object, name));
}

static const char *text_of(struct json_object *object, const char *name)
{
    const char *text = json_object_get_string(member(object, name));
    return text ? text : "";
}

/* 1234567 as "1.2M". */
static const char *short_number(double value, char to[16])
{
    static const char units[] = {'\0', 'k', 'M', 'G', 'T'};
    size_t unit = 0;
    while (value >= 10000 && unit + 1 < sizeof units) {
        value /= 1000;
        unit++;
    }
    snprintf(to, 16, unit == 0 ? "%.0f%.0s" : "%.1f%.1s", value, &units[unit]);
    return to;
}

/* Control characters of texts from elsewhere must not reach the terminal. */
static void print_safely(const char *text)
{
    for (; *text != '\0'; text++)
        putchar((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text);
}

static void print_row(struct json_object *w)
{
    char rate[16], lag[16], flight[16], fired[16], dead[16], memory[16] = "-", age[24] = "-", pid[16] = "-";
    struct json_object *checkpoint = member(w, "last_checkpoint");
    struct json_object *bytes = member(w, "memory");
    uint64_t size = number(bytes, "pss") ? number(bytes, "pss") : number(bytes, "rss");
    if (size)
        snprintf(memory, sizeof memory, "%.1fM", (double)size / 1048576);
    if (checkpoint)
        snprintf(age, sizeof age, "%.1fs", json_object_get_double(member(checkpoint, "age")));
    if (number(w, "pid"))
        snprintf(pid, sizeof pid, "%llu", (unsigned long long)number(w, "pid"));
    printf("%-28s %-14s %8s %9s %8s %9s %8s %6s %10s %8llu %7s\n", text_of(w, "name"), text_of(w, "state"),
           pid, short_number(json_object_get_double(member(w, "events_per_second")), rate),
           short_number((double)number(w, "lag"), lag), short_number((double)number(w, "in_flight"), flight),
           short_number((double)number(w, "fired"), fired),
           short_number((double)number(w, "dead_letters"), dead), age,
           (unsigned long long)number(w, "restarts"), memory);
    struct json_object *problems = member(w, "problems");
    size_t n = json_object_is_type(problems, json_type_array) ? json_object_array_length(problems) : 0;
    for (size_t i = 0; i < n; i++) {
        const char *text = json_object_get_string(json_object_array_get_idx(problems, i));
        printf("    ! ");
        print_safely(text ? text : "");
        putchar('\n');
    }
}

static int by_name(const void *a, const void *b)
{
    struct json_object *const *x = a;
    struct json_object *const *y = b;
    return strcmp(text_of(*x, "name"), text_of(*y, "name"));
}

static void print_table(struct json_object *root)
{
    struct json_object *list = member(root, "workspaces");
    struct json_object *supervisor = member(root, "supervisor");
    if (supervisor) {
        printf(
            "supervisor %s, pid %llu, up %llu s, %s\n", text_of(supervisor, "version"),
            (unsigned long long)number(supervisor, "pid"), (unsigned long long)number(supervisor, "uptime"),
            json_object_get_boolean(member(supervisor, "ready")) ? "ready" : text_of(supervisor, "problem"));
    }
    printf("%-28s %-14s %8s %9s %8s %9s %8s %6s %10s %8s %7s\n", "WORKSPACE", "STATE", "PID", "EVENTS/S",
           "LAG", "IN FLIGHT", "FIRED", "DEAD", "CHECKPOINT", "RESTARTS", "MEMORY");
    if (!list) {
        print_row(root);
        return;
    }
    json_object_array_sort(list, by_name);
    for (size_t i = 0; i < json_object_array_length(list); i++)
        print_row(json_object_array_get_idx(list, i));
}

static int show_once(const char *run_directory, const struct client_status *options, const char *path)
{
    BUFFER_AUTO body = BUFFER_INIT;
    long status = 0;
    int code = get(run_directory, path, &body, &status);
    if (code != SUPERVISOR_OK)
        return code;
    struct json_object *root = json_tokener_parse(buffer_text(&body));
    if (!root)
        return complain("the supervisor's answer is not JSON");
    if (status != 200) {
        complain(text_of(root, "error"));
        json_object_put(root);
        return SUPERVISOR_ERROR;
    }
    if (options->watch && !options->json)
        printf("\033[H\033[2J");
    if (options->json)
        printf("%s\n", buffer_text(&body));
    else
        print_table(root);
    json_object_put(root);
    return fflush(stdout) == 0 ? SUPERVISOR_OK : complain("standard output cannot be written");
}

/* Shows it anew each second until interrupted. */
static int watch(const char *run_directory, const struct client_status *options, const char *path)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (;;) {
        int code = show_once(run_directory, options, path);
        if (code != SUPERVISOR_OK)
            return code;
        struct timespec second = {.tv_sec = 1};
        if (sigtimedwait(&set, NULL, &second) > 0)
            return SUPERVISOR_OK;
    }
}

int client_status(const char *run_directory, const struct client_status *options)
{
    BUFFER_AUTO path = BUFFER_INIT;
    buffer_append_text(&path, "/workspace");
    if (options->workspace) {
        char *escaped = curl_easy_escape(NULL, options->workspace, 0);
        buffer_append_char(&path, '/');
        buffer_append_text(&path, escaped ? escaped : "");
        path.failed |= !escaped;
        curl_free(escaped);
    }
    if (path.failed)
        return complain("out of memory");
    return options->watch ? watch(run_directory, options, buffer_text(&path))
                          : show_once(run_directory, options, buffer_text(&path));
}

int client_health(const char *run_directory)
{
    BUFFER_AUTO body = BUFFER_INIT;
    long status = 0;
    int code = get(run_directory, "/healthz", &body, &status);
    if (code != SUPERVISOR_OK)
        return code;
    puts(buffer_text(&body));
    return status == 200 ? SUPERVISOR_OK : SUPERVISOR_ERROR;
}
