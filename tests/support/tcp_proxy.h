/* Passes bytes between its clients and a server on loopback, in a thread of its own, and is the network that
 * a test can break: it cuts, refuses, holds, delays and truncates. Its port stays the same, whatever happens
 * to the server behind it. Thread: any; a call has taken effect when it returns. */
#pragma once

#include <stdint.h>

struct tcp_proxy;

enum tcp_proxy_mode {
    TCP_PROXY_PASS,
    TCP_PROXY_REFUSE, /* nobody listens (ECONNREFUSED), and what was connected is cut */
    TCP_PROXY_HOLD,   /* a black hole: connections are taken and stay, and no byte passes */
};

/* Listens on a free port of 127.0.0.1. 0, or -1 with the reason on standard error. */
int tcp_proxy_new(struct tcp_proxy **ret_proxy);
void tcp_proxy_free(struct tcp_proxy *proxy); /* cuts what is connected; NULL is fine */

int tcp_proxy_port(const struct tcp_proxy *proxy);
/* The port of the server; without one connections are closed at once. */
void tcp_proxy_target(struct tcp_proxy *proxy, int port);

void tcp_proxy_set(struct tcp_proxy *proxy, enum tcp_proxy_mode mode);
/* Resets (RST) all connections that there are. Returns how many. */
unsigned tcp_proxy_cut(struct tcp_proxy *proxy);
/* Whatever comes is passed on so much later; 0: at once. */
void tcp_proxy_delay(struct tcp_proxy *proxy, uint64_t delay_ns);
/* Of what the server sends, so many bytes more are passed on: then all connections are cut, once. */
void tcp_proxy_truncate(struct tcp_proxy *proxy, uint64_t bytes);
/* PASS without delay or truncation. */
void tcp_proxy_reset(struct tcp_proxy *proxy);

/* Bytes from the server that were passed on, and connections taken, since the start. */
uint64_t tcp_proxy_bytes(struct tcp_proxy *proxy);
uint64_t tcp_proxy_connections(struct tcp_proxy *proxy);
