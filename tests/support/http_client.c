#include "tests/support/http_client.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#define PATIENCE_S 60

static int open_socket(int family)
{
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience), 0);
    return fd;
}

int http_client_connect(unsigned port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = open_socket(AF_INET);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

int http_client_connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    int fd = open_socket(AF_UNIX);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

void http_client_send(int fd, const char *text, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(fd, text + at, len - at, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        at += (size_t)n;
    }
}

void http_client_send_text(int fd, const char *text)
{
    http_client_send(fd, text, strlen(text));
}

int http_client_read(int fd, char to[HTTP_CLIENT_ANSWER_MAX], bool head)
{
    size_t len = 0, want = SIZE_MAX;
    to[0] = '\0';
    while (len < want && len < HTTP_CLIENT_ANSWER_MAX - 1) {
        ssize_t n = recv(fd, to + len, want == SIZE_MAX ? 1 : want - len, 0);
        if (n <= 0)
            return 0;
        len += (size_t)n;
        to[len] = '\0';
        if (want == SIZE_MAX && len >= 4 && memcmp(to + len - 4, "\r\n\r\n", 4) == 0) {
            const char *length = strcasestr(to, "content-length:");
            want = len + (length && !head ? (size_t)atoll(length + 15) : 0);
        }
    }
    return atoi(to + strlen("HTTP/1.1 "));
}

const char *http_client_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");
    return end ? end + 4 : "";
}

bool http_client_at_end(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) <= 0;
}

int http_client_ask(unsigned port, const char *request, size_t len, char answer[HTTP_CLIENT_ANSWER_MAX])
{
    int fd = http_client_connect(port);
    http_client_send(fd, request, len);
    int status = http_client_read(fd, answer, strncmp(request, "HEAD", 4) == 0);
    close(fd);
    return status;
}
