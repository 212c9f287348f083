#include "tests/support/function_server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/error.h"
#include "common/loop.h"
#include "tests/support/function_internal.h"

#define FLOOD_BYTES 65536

/* A connection; its requests are answered one after the other. */
struct function_connection {
    struct function_server *server;
    struct function_connection *before, *after;
    int fd;
    uint32_t events;
    struct buffer in;
    struct buffer out;
    size_t sent;
    bool busy;     /* a request is being answered */
    bool flooding; /* the answer has no end */
    bool flooding_headers;
    bool closing; /* after what is left to send */
    unsigned answers;
    bool *gone; /* told when it is freed; NULL: nobody asks */
    struct function_verdict verdict;
};

static void close_connection(struct function_connection *c);

/* --- events that come later than the answer --- */

struct function_later {
    struct function_server *server;
    struct function_later *before, *after;
    struct function_verdict verdict;
};

static void forget_later(struct function_later *later)
{
    *(later->before ? &later->before->after : &later->server->laters) = later->after;
    if (later->after)
        later->after->before = later->before;
    function_verdict_done(&later->verdict);
    free(later);
}

static void run_due(void *data)
{
    struct function_later *later = data;
    function_publish(later->server, &later->verdict);
    forget_later(later);
}

/* The event is published when the function has run, whatever becomes of the connection. Takes it. */
static void run_later(struct function_server *s, struct function_verdict *v)
{
    struct function_later *later = calloc(1, sizeof *later);
    if (!later)
        abort();
    *later = (struct function_later){.server = s, .after = s->laters, .verdict = *v};
    later->verdict.answer = (struct buffer)BUFFER_INIT;
    v->event = (struct buffer)BUFFER_INIT;
    if (s->laters)
        s->laters->before = later;
    s->laters = later;
    if (v->behaviour.run_ms)
        loop_timer_set(s->loop, clock_now_ns() + v->behaviour.run_ms * CLOCK_MS, run_due, later, NULL);
    else
        run_due(later);
}

/* --- sending --- */

static void watch(struct function_connection *c, uint32_t events)
{
    if (c->events != events)
        loop_modify(c->server->loop, c->fd, events, NULL);
    c->events = events;
}

static void fill_flood(struct function_connection *c)
{
    static const char header[] = "X-More: 0123456789abcdef0123456789abcdef0123456789abcdef\r\n";
    while (c->out.len < FLOOD_BYTES)
        if (c->flooding_headers)
            buffer_append(&c->out, header, sizeof header - 1);
        else
            buffer_append_text(&c->out, "0123456789abcdef");
}

static void send_some(struct function_connection *c)
{
    for (int rounds = 0; rounds < 16; rounds++) {
        if (c->sent == c->out.len) {
            buffer_reset(&c->out, FLOOD_BYTES);
            c->sent = 0;
            if (!c->flooding)
                break;
            fill_flood(c);
        }
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            close_connection(c);
            return;
        }
        if (n < 0)
            break;
        c->sent += (size_t)n;
    }
    bool left = c->flooding || c->sent < c->out.len;
    if (!left && c->closing) {
        close_connection(c);
        return;
    }
    watch(c, EPOLLIN | (left ? EPOLLOUT : 0u));
}

static void answer_due(void *data)
{
    struct function_connection *c = data;
    struct function_verdict *v = &c->verdict;
    const struct function_behaviour *b = &v->behaviour;
    c->server->at_once--;
    c->busy = false;
    c->answers++;
    if (b->mode == FUNCTION_DROPS) {
        close_connection(c);
        return;
    }
    bool more = b->mode == FUNCTION_TRUNCATES;
    c->flooding = b->mode == FUNCTION_FLOODS || b->mode == FUNCTION_FLOODS_HEADERS;
    c->flooding_headers = b->mode == FUNCTION_FLOODS_HEADERS;
    c->closing = more || (b->close_after && c->answers >= b->close_after);
    buffer_printf(&c->out, "HTTP/1.1 %u Status\r\n", v->status);
    if (b->retry_after)
        buffer_printf(&c->out, "Retry-After: %s\r\n", b->retry_after);
    if (!c->flooding_headers) {
        buffer_printf(&c->out, "Content-Type: %s\r\n",
                      b->content_type ? b->content_type : "application/json");
        if (!c->flooding)
            buffer_printf(&c->out, "Content-Length: %zu\r\n", v->answer.len + (more ? 1000 : 0));
        buffer_append_text(&c->out, c->closing ? "Connection: close\r\n\r\n" : "\r\n");
        buffer_append(&c->out, v->answer.data, v->answer.len);
    }
    function_verdict_done(v);
    *v = (struct function_verdict){.status = 0};
    send_some(c);
}

/* --- requests --- */

static void begin(struct function_connection *c, const struct function_request *request)
{
    struct function_server *s = c->server;
    struct function_verdict *v = &c->verdict;
    buffer_reset(&s->last, 1 << 16);
    buffer_printf(&s->last, "%s %s\n", request->method, request->path);
    for (size_t i = 0; i < request->headers_len; i++)
        if (request->headers[i] != '\r')
            buffer_append_char(&s->last, request->headers[i]);
    buffer_append_char(&s->last, '\n');
    buffer_append(&s->last, request->body, request->body_len);
    function_judge(s, request, v);
    c->busy = true;
    if (++s->at_once > s->most_at_once)
        s->most_at_once = s->at_once;
    if (v->event.len)
        run_later(s, v);
    if (v->behaviour.mode == FUNCTION_HANGS)
        return;
    if (v->behaviour.delay_ms)
        loop_timer_set(s->loop, clock_now_ns() + v->behaviour.delay_ms * CLOCK_MS, answer_due, c, NULL);
    else
        answer_due(c);
}

/* The first whole request of what was read; its size, 0: not whole yet; -1: it is none. */
static ssize_t find_request(struct function_connection *c, struct function_request *r)
{
    char length[32];
    const char *end = memmem(c->in.data, c->in.len, "\r\n\r\n", 4);
    if (!end)
        return c->in.len > (1 << 16) ? -1 : 0;
    const char *line = memmem(c->in.data, c->in.len, "\r\n", 2);
    char first[1100];
    snprintf(first, sizeof first, "%.*s", (int)(line - c->in.data), c->in.data);
    if (sscanf(first, "%15s %1023s HTTP/1.1", r->method, r->path) != 2)
        return -1;
    r->headers = line + 2;
    r->headers_len = (size_t)(end + 2 - r->headers);
    r->body = end + 4;
    r->body_len = strtoul(function_header(r, "Content-Length", length, sizeof length), NULL, 10);
    size_t whole = (size_t)(r->body - c->in.data) + r->body_len;
    return whole <= c->in.len ? (ssize_t)whole : 0;
}

static void take_requests(struct function_connection *c)
{
    while (!c->busy && !c->flooding && c->in.len) {
        struct function_request r;
        ssize_t size = find_request(c, &r);
        if (size == 0)
            return;
        if (size < 0) {
            close_connection(c);
            return;
        }
        bool gone = false;
        c->gone = &gone;
        begin(c, &r);
        if (gone)
            return;
        c->gone = NULL;
        buffer_consume(&c->in, (size_t)size);
    }
}

static void on_connection(void *data, uint32_t events)
{
    struct function_connection *c = data;
    if (events & EPOLLOUT) {
        send_some(c);
        return;
    }
    char *to = buffer_reserve(&c->in, 65536);
    if (!to)
        abort();
    ssize_t n = recv(c->fd, to, 65536, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        close_connection(c);
        return;
    }
    c->in.len += (size_t)n;
    take_requests(c);
}

static void close_connection(struct function_connection *c)
{
    struct function_server *s = c->server;
    if (c->gone)
        *c->gone = true;
    if (c->busy)
        s->at_once--;
    loop_timer_cancel(s->loop, answer_due, c);
    loop_remove(s->loop, c->fd);
    close(c->fd);
    if (c->before)
        c->before->after = c->after;
    else
        s->connections = c->after;
    if (c->after)
        c->after->before = c->before;
    function_verdict_done(&c->verdict);
    buffer_done(&c->in);
    buffer_done(&c->out);
    free(c);
}

static void on_listener(void *data, uint32_t events)
{
    struct function_server *s = data;
    int fd;
    (void)events;
    while ((fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct function_connection *c = calloc(1, sizeof *c);
        if (!c)
            abort();
        c->server = s;
        c->fd = fd;
        c->events = EPOLLIN;
        c->after = s->connections;
        if (c->after)
            c->after->before = c;
        s->connections = c;
        s->n_connections++;
        loop_add(s->loop, fd, EPOLLIN, on_connection, c, NULL);
    }
}

/* --- life --- */

static void *server_main(void *data)
{
    struct function_server *s = data;
    struct error err;
    pthread_mutex_lock(&s->lock);
    while (!atomic_load(&s->stopping))
        if (loop_run_once(s->loop, UINT64_MAX, &err) < 0)
            fprintf(stderr, "function_server: %s\n", err.message);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int listen_anywhere(struct function_server *s)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&address, size) < 0 ||
        listen(s->listener, 4096) < 0 || getsockname(s->listener, (struct sockaddr *)&address, &size) < 0) {
        perror("function_server");
        return -1;
    }
    s->port = ntohs(address.sin_port);
    return 0;
}

struct function_server *function_server_new(void)
{
    struct error err;
    struct rlimit limit;
    struct function_server *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    pthread_mutex_init(&s->lock, NULL);
    hash_init(&s->starts);
    s->end = &s->first;
    s->listener = -1;
    s->loop = loop_new(&err);
    if (s->loop)
        loop_share(s->loop, &s->lock);
    if (!s->loop || listen_anywhere(s) < 0 ||
        loop_add(s->loop, s->listener, EPOLLIN, on_listener, s, &err) < 0 ||
        pthread_create(&s->thread, NULL, server_main, s)) {
        if (s->listener >= 0)
            close(s->listener);
        loop_free(s->loop);
        free(s);
        return NULL;
    }
    return s;
}

void function_server_free(struct function_server *server)
{
    if (!server)
        return;
    atomic_store(&server->stopping, true);
    loop_wake(server->loop);
    pthread_join(server->thread, NULL);
    while (server->connections)
        close_connection(server->connections);
    while (server->laters)
        forget_later(server->laters);
    close(server->listener);
    function_server_forget(server);
    hash_done(&server->starts);
    for (struct function_rule *rule = server->rules; rule;) {
        struct function_rule *next = rule->next;
        free(rule);
        rule = next;
    }
    for (size_t i = 0; i < FUNCTION_SINKS; i++)
        if (server->sinks[i].redis)
            redisFree(server->sinks[i].redis);
    buffer_done(&server->last);
    loop_free(server->loop);
    pthread_mutex_destroy(&server->lock);
    free(server);
}

unsigned function_server_port(const struct function_server *server)
{
    return server->port;
}

void function_server_url(const struct function_server *server, const char *path, struct buffer *out)
{
    buffer_printf(out, "http://127.0.0.1:%u%s", server->port, path);
}

/* --- settings --- */

#define SET_TEXT(to, from) snprintf((to), sizeof(to), "%s", (from) ? (from) : "")

void function_server_basic(struct function_server *server, const char *user_password)
{
    pthread_mutex_lock(&server->lock);
    SET_TEXT(server->basic, user_password);
    pthread_mutex_unlock(&server->lock);
}

void function_server_bearer(struct function_server *server, const char *token)
{
    pthread_mutex_lock(&server->lock);
    SET_TEXT(server->bearer, token);
    pthread_mutex_unlock(&server->lock);
}

void function_server_sigv4(struct function_server *server, const char *access_key_id, const char *secret,
                           const char *session_token, const char *region, const char *service)
{
    pthread_mutex_lock(&server->lock);
    SET_TEXT(server->aws_id, access_key_id);
    SET_TEXT(server->aws_secret, secret);
    SET_TEXT(server->aws_token, session_token);
    SET_TEXT(server->region, region);
    SET_TEXT(server->service, service);
    pthread_mutex_unlock(&server->lock);
}

void function_server_behave(struct function_server *server, const char *function,
                            const struct function_behaviour *behaviour)
{
    const char *name = function ? function : "";
    pthread_mutex_lock(&server->lock);
    struct function_rule *rule = server->rules;
    while (rule && strcmp(rule->function, name) != 0)
        rule = rule->next;
    if (!rule) {
        if (!(rule = calloc(1, sizeof *rule)))
            abort();
        SET_TEXT(rule->function, name);
        rule->next = server->rules;
        server->rules = rule;
    }
    rule->behaviour = *behaviour;
    pthread_mutex_unlock(&server->lock);
}

void function_server_sink(struct function_server *server, int redis_port, const char *stream)
{
    pthread_mutex_lock(&server->lock);
    server->sink_port = redis_port;
    SET_TEXT(server->sink_stream, stream);
    pthread_mutex_unlock(&server->lock);
}

void function_server_compute(struct function_server *server, function_compute compute, void *data)
{
    pthread_mutex_lock(&server->lock);
    server->compute = compute;
    server->compute_data = data;
    pthread_mutex_unlock(&server->lock);
}

/* --- what has happened --- */

static uint64_t read_locked(struct function_server *server, const uint64_t *number)
{
    pthread_mutex_lock(&server->lock);
    uint64_t value = *number;
    pthread_mutex_unlock(&server->lock);
    return value;
}

uint64_t function_server_requests(struct function_server *server)
{
    return read_locked(server, &server->requests);
}

uint64_t function_server_refused(struct function_server *server)
{
    return read_locked(server, &server->refused);
}

uint64_t function_server_published(struct function_server *server)
{
    return read_locked(server, &server->published);
}

unsigned function_server_most_at_once(struct function_server *server)
{
    pthread_mutex_lock(&server->lock);
    unsigned value = server->most_at_once;
    pthread_mutex_unlock(&server->lock);
    return value;
}

unsigned function_server_connections(struct function_server *server)
{
    pthread_mutex_lock(&server->lock);
    unsigned value = server->n_connections;
    pthread_mutex_unlock(&server->lock);
    return value;
}

static bool is_wanted(const struct function_start *start, const char *function, const char *task,
                      const char *key)
{
    return (!function || !strcmp(function, start->function)) && (!task || !strcmp(task, start->task)) &&
           (!key || !strcmp(key, start->key));
}

uint64_t function_server_starts(struct function_server *server, const char *function, const char *task,
                                const char *key)
{
    uint64_t n = 0;
    pthread_mutex_lock(&server->lock);
    for (const struct function_start *start = server->first; start; start = start->next)
        if (is_wanted(start, function, task, key))
            n += start->count;
    pthread_mutex_unlock(&server->lock);
    return n;
}

uint64_t function_server_keys(struct function_server *server, const char *function, const char *task)
{
    uint64_t n = 0;
    pthread_mutex_lock(&server->lock);
    for (const struct function_start *start = server->first; start; start = start->next)
        n += is_wanted(start, function, task, NULL);
    pthread_mutex_unlock(&server->lock);
    return n;
}

uint64_t function_server_strayed_keys(struct function_server *server)
{
    struct hash_table tasks;
    uint64_t n = 0;
    hash_init(&tasks);
    pthread_mutex_lock(&server->lock);
    for (struct function_start *start = server->first; start; start = start->next) {
        struct function_start *other = *start->key ? hash_get(&tasks, start->key, strlen(start->key)) : NULL;
        if (other)
            n += strcmp(other->task, start->task) != 0;
        else if (*start->key && hash_put(&tasks, start->key, strlen(start->key), start, NULL) < 0)
            abort();
    }
    pthread_mutex_unlock(&server->lock);
    hash_done(&tasks);
    return n;
}

void function_server_each(struct function_server *server,
                          void (*see)(void *data, const char *function, const char *task, const char *key,
                                      unsigned starts, uint64_t first_ns, uint64_t last_ns),
                          void *data)
{
    pthread_mutex_lock(&server->lock);
    for (const struct function_start *s = server->first; s; s = s->next)
        see(data, s->function, s->task, s->key, s->count, s->first_ns, s->last_ns);
    pthread_mutex_unlock(&server->lock);
}

void function_server_last(struct function_server *server, struct buffer *out)
{
    pthread_mutex_lock(&server->lock);
    buffer_append(out, server->last.data, server->last.len);
    pthread_mutex_unlock(&server->lock);
}

void function_server_forget(struct function_server *server)
{
    pthread_mutex_lock(&server->lock);
    while (server->first) {
        struct function_start *next = server->first->next;
        hash_remove(&server->starts, server->first->name, server->first->name_len);
        free(server->first);
        server->first = next;
    }
    server->end = &server->first;
    server->requests = server->refused = server->published = 0;
    server->most_at_once = server->at_once;
    server->n_connections = 0;
    pthread_mutex_unlock(&server->lock);
}
