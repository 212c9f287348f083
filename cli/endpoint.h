/* Where the trigger API is and who asks: from flags, the environment, the files of the user, or the local
 * supervisor's socket.
 *
 * The URL is taken from the first place that gives one. User and password are taken from flags and
 * environment; those of a file are used only with that file's own URL, so that they are sent nowhere else.
 * Thread: main. */
#pragma once

#include <stdbool.h>

struct cli;
struct error;

struct endpoint {
    char *url;      /* http://HOST:PORT, without a slash at its end */
    char *socket;   /* the Unix socket to connect to, or NULL */
    char *user;     /* or NULL: no credentials are sent */
    char *password; /* as it is sent: the digest, or the operator's token */
    char *shown;    /* for messages */
    bool local;     /* found by itself: the socket of this user's supervisor */
};

/* CLI_OK, or an exit status, complained about. Asks for a password on the terminal when a user is given and
 * none is found. */
int endpoint_find(const struct cli *cli, struct endpoint *ret_endpoint);
void endpoint_done(struct endpoint *endpoint);

/* Asks for a password on the terminal, without echo. 0 with *ret_password (owned), or -1. */
int endpoint_ask_password(const char *prompt, char **ret_password, struct error *err);
/* The first line of a file ("-": standard input) as a password. */
int endpoint_read_password(const char *path, char **ret_password, struct error *err);
/* Lower-case hex of HMAC-SHA3-256 with the password as key and the user as message. */
int endpoint_digest(const char *user, const char *password, char ret_digest[65], struct error *err);
