/* The listening sockets of http.h. */
#include "supervisor/http.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/error.h"

#define BACKLOG 511

static unsigned bound_port(int fd)
{
    struct sockaddr_in6 address = {0}; /* the port stands at the same place as in sockaddr_in */
    static_assert(offsetof(struct sockaddr_in6, sin6_port) == offsetof(struct sockaddr_in, sin_port),
                  "one reads both");
    socklen_t len = sizeof address;
    return getsockname(fd, (struct sockaddr *)&address, &len) < 0 ? 0 : ntohs(address.sin6_port);
}

int http_listen_tcp(const char *address, int64_t port, int *ret_fd, unsigned *ret_port, struct error *err)
{
    char service[24];
    snprintf(service, sizeof service, "%lld", (long long)port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found;
    int e = getaddrinfo(address[0] ? address : NULL, service, &hints, &found);
    if (e != 0)
        return error_set(err, ERROR_INVALID, "controller address %s: %s", address, gai_strerror(e));
    int one = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        error_set_errno(err, errno, "controller address %s port %s", address, service);
        if (fd >= 0)
            close(fd);
        freeaddrinfo(found);
        return -1;
    }
    freeaddrinfo(found);
    *ret_fd = fd;
    *ret_port = bound_port(fd);
    return 0;
}

int http_listen_unix(const char *path, int *ret_fd, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return error_set(err, ERROR_INVALID, "%s: longer than the %zu bytes a socket's path may have", path,
                         sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_set_errno(err, errno, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of the descriptor before bind() is that of the file: it is never open to others. */
    if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(path, 0600) < 0 || listen(fd, BACKLOG) < 0) {
        error_set_errno(err, errno, "%s", path);
        if (fd >= 0)
            close(fd);
        return -1;
    }
    *ret_fd = fd;
    return 0;
}
