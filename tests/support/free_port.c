#include "tests/support/free_port.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST 12000u
#define PORTS 20000u

/* The name of an abstract socket is taken while this process lives: its descriptor stays open. */
static bool reserve(unsigned port)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int len = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "triggerflow-test-port-%u", port);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)len);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&name, size) == 0)
        return true;
    if (fd >= 0)
        close(fd);
    return false;
}

static bool is_free(unsigned port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

int free_port(void)
{
    uint32_t at = 0;
    if (getrandom(&at, sizeof at, 0) != sizeof at)
        at = (uint32_t)getpid();
    for (unsigned i = 0; i < PORTS; i++) {
        unsigned port = FIRST + (at + i) % PORTS;
        if (reserve(port) && is_free(port))
            return (int)port;
    }
    return -1;
}
