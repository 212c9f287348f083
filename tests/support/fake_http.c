#include "tests/support/fake_http.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"

struct fake_http {
    struct MHD_Daemon *daemon;
    fake_handler handler;
    void *data;
    int port;
};

struct pending {
    struct buffer body;
    unsigned times;
    uint64_t since_ns;
};

static enum MHD_Result answer_with(struct MHD_Connection *connection, struct fake_answer *answer)
{
    if (!answer->status)
        return MHD_NO;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(answer->body.len, answer->body.data, MHD_RESPMEM_MUST_COPY);
    for (size_t i = 0; i < 4 && answer->headers[i][0]; i++)
        MHD_add_response_header(response, answer->headers[i][0], answer->headers[i][1]);
    enum MHD_Result r = MHD_queue_response(connection, answer->status, response);
    MHD_destroy_response(response);
    return r;
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload, size_t *size,
                                  void **state)
{
    struct fake_http *fake = cls;
    struct pending *p = *state;
    (void)version;
    if (!p) {
        p = calloc(1, sizeof *p);
        *state = p;
        if (p)
            p->since_ns = clock_now_ns();
        return p ? MHD_YES : MHD_NO;
    }
    if (*size) {
        buffer_append(&p->body, upload, *size);
        *size = 0;
        return MHD_YES;
    }
    struct fake_request request = {.method = method,
                                   .path = url,
                                   .body = buffer_text(&p->body),
                                   .len = p->body.len,
                                   .times = p->times++,
                                   .since_ns = p->since_ns,
                                   .connection = connection};
    struct fake_answer answer = {.body = BUFFER_INIT};
    MHD_suspend_connection(connection); /* before the handler: a resume may come at once */
    if (!fake->handler(fake->data, &request, &answer))
        return MHD_YES;
    MHD_resume_connection(connection);
    enum MHD_Result r = answer_with(connection, &answer);
    buffer_done(&answer.body);
    return r;
}

static void on_end(void *cls, struct MHD_Connection *connection, void **state,
                   enum MHD_RequestTerminationCode code)
{
    struct pending *p = *state;
    (void)cls;
    (void)connection;
    (void)code;
    if (p)
        buffer_done(&p->body);
    free(p);
    *state = NULL;
}

struct fake_http *fake_http_start(fake_handler handler, void *data)
{
    struct fake_http *fake = calloc(1, sizeof *fake);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (!fake)
        return NULL;
    fake->handler = handler;
    fake->data = data;
    fake->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
                                    on_request, fake, MHD_OPTION_SOCK_ADDR, &address,
                                    MHD_OPTION_NOTIFY_COMPLETED, on_end, NULL, MHD_OPTION_END);
    const union MHD_DaemonInfo *info =
        fake->daemon ? MHD_get_daemon_info(fake->daemon, MHD_DAEMON_INFO_BIND_PORT) : NULL;
    if (!info) {
        fputs("no HTTP server\n", stderr);
        fake_http_stop(fake);
        return NULL;
    }
    fake->port = info->port;
    return fake;
}

void fake_http_stop(struct fake_http *fake)
{
    if (fake && fake->daemon)
        MHD_stop_daemon(fake->daemon);
    free(fake);
}

int fake_http_port(const struct fake_http *fake)
{
    return fake->port;
}

const char *fake_http_header(const struct fake_request *request, const char *name)
{
    return MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name);
}

void fake_http_resume(struct MHD_Connection *connection)
{
    MHD_resume_connection(connection);
}
