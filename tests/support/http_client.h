/* An HTTP client that writes bytes, for tests. What goes wrong with its sockets fails the test (cmocka).
 * Thread: any, one a socket. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define HTTP_CLIENT_ANSWER_MAX 8192

int http_client_connect(unsigned port); /* to 127.0.0.1 */
int http_client_connect_unix(const char *path);
/* What the server does not take any more, because it has hung up, is dropped. */
void http_client_send(int fd, const char *text, size_t len);
void http_client_send_text(int fd, const char *text);
/* Reads one answer of a known length (head: without a body); its status, 0 when there is none. */
int http_client_read(int fd, char to[HTTP_CLIENT_ANSWER_MAX], bool head);
const char *http_client_body(const char *answer);
bool http_client_at_end(int fd);
/* One request on a connection of its own. */
int http_client_ask(unsigned port, const char *request, size_t len, char answer[HTTP_CLIENT_ANSWER_MAX]);
