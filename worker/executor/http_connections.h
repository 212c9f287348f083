/* The connections that HTTP calls go through: libcurl's multi handles, driven by a loop's descriptors and
 * timers. libcurl looks for a connection to use again by going through all to the same host, so they are
 * spread over several multi handles, lanes, each with connections of its own. But calls to a host that speaks
 * HTTP/2 share few connections in one lane, and those to a TLS server that has not answered yet go another,
 * in which they wait for each other's connection. What a server speaks is remembered from its answers.
 *
 * Thread: whoever holds the loop's lock. */
#pragma once

#include <curl/curl.h>
#include <stdbool.h>

struct error;
struct http_connections;
struct http_lane;
struct loop;

/* A transfer has ended, and has left its lane; others may be begun. */
typedef void (*http_transfer_ended)(CURL *easy, CURLcode code);

/* public_only: as for http_calls_new. */
int http_connections_new(struct loop *loop, bool public_only, http_transfer_ended ended,
                         struct http_connections **ret_connections, struct error *err);
/* Closes them; no transfer is under way. Before the loop is freed. NULL is fine. */
void http_connections_free(struct http_connections *connections);

/* Has the handle open and close its connections here; once for each. Returns whether that has failed. */
bool http_connections_set(struct http_connections *connections, CURL *easy);

/* Begins a transfer to the URL. NULL: out of memory. */
struct http_lane *http_connections_start(struct http_connections *connections, const char *url, CURL *easy);
/* Gives one up; not one that has ended. */
void http_lane_cancel(struct http_lane *lane, CURL *easy);

/* The handle's server has answered in this version of HTTP (times ten; 0: not at all). */
void http_connections_learn(struct http_connections *connections, CURL *easy, unsigned version);
