/* Ports for servers of tests. */
#pragma once

/* A TCP port of 127.0.0.1 that nothing listens on, and that is nobody else's: no other call of any test
 * program gets it while this process lives, and the system gives it to no outgoing connection (it lies below
 * ip_local_port_range, whose default begins at 32768), so that a server that is killed comes back to it. -1:
 * there is none. */
int free_port(void);
